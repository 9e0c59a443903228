// What the sanitizers are told: fibers, forbidden memory, and the order that barriers establish. Nothing without them.
#pragma once

#include <pthread.h>

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#    include <sanitizer/asan_interface.h>
#    include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#    include <sanitizer/tsan_interface.h>
// The scheduler's own state is shared by all fibers of one OS thread; it is no race.
#    define ON_HOST_RUNTIME __attribute__((no_sanitize_thread))
#else
#    define ON_HOST_RUNTIME
#endif

namespace on_host {

#if defined(__SANITIZE_THREAD__)
inline constexpr bool kFindsRaces = true;
#else
inline constexpr bool kFindsRaces = false;
#endif

// What the sanitizers know of one stack.
struct Tracked {
    const void* stack = nullptr;
    size_t size = 0;
    void* fake_stack = nullptr;
    void* fiber = nullptr;
};

namespace sanitizer {

#if defined(__SANITIZE_ADDRESS__)
inline void forbid(void* memory, size_t bytes) { __asan_poison_memory_region(memory, bytes); }
inline void allow(void* memory, size_t bytes) { __asan_unpoison_memory_region(memory, bytes); }
#else
inline void forbid(void*, size_t) {}
inline void allow(void*, size_t) {}
#endif

#if defined(__SANITIZE_THREAD__)
ON_HOST_RUNTIME inline void release(void* object) { __tsan_release(object); }
ON_HOST_RUNTIME inline void acquire(void* object) { __tsan_acquire(object); }
ON_HOST_RUNTIME inline void new_fiber(Tracked& stack) {
    if (stack.fiber) __tsan_destroy_fiber(stack.fiber);
    stack.fiber = __tsan_create_fiber(0);
}
// As if `other` released the object; `me` goes on.
ON_HOST_RUNTIME inline void release_for(const Tracked& other, const Tracked& me, void* object) {
    __tsan_switch_to_fiber(other.fiber, __tsan_switch_to_fiber_no_sync);
    __tsan_release(object);
    __tsan_switch_to_fiber(me.fiber, __tsan_switch_to_fiber_no_sync);
}
#else
inline void release(void*) {}
inline void release_for(const Tracked&, const Tracked&, void*) {}
inline void acquire(void*) {}
inline void new_fiber(Tracked&) {}
#endif

// Just before the switch from one stack to another. Switching alone orders nothing; barriers do.
ON_HOST_RUNTIME inline void leave([[maybe_unused]] Tracked& from, [[maybe_unused]] const Tracked& to,
                                  [[maybe_unused]] bool for_good) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(for_good ? nullptr : &from.fake_stack, to.stack, to.size);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(to.fiber, __tsan_switch_to_fiber_no_sync);
#endif
}

// Just after it, on the other stack.
ON_HOST_RUNTIME inline void arrive([[maybe_unused]] void* fake_stack) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

// The stack of the OS thread that launches.
ON_HOST_RUNTIME inline void describe_launcher([[maybe_unused]] Tracked& launcher) {
#if defined(__SANITIZE_ADDRESS__)
    thread_local Tracked known;
    if (!known.stack) {
        pthread_attr_t attributes;
        void* lowest = nullptr;
        pthread_getattr_np(pthread_self(), &attributes);
        pthread_attr_getstack(&attributes, &lowest, &known.size);
        pthread_attr_destroy(&attributes);
        known.stack = lowest;
    }
    launcher.stack = known.stack;
    launcher.size = known.size;
#endif
#if defined(__SANITIZE_THREAD__)
    launcher.fiber = __tsan_get_current_fiber();
#endif
}

}  // namespace sanitizer
}  // namespace on_host
