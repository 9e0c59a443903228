// Atomics on integers, and fences. An atomic alone orders nothing: TSan sees an order from a fence before an atomic to
// a fence after an atomic on the same address, as the device guarantees it.
#pragma once

#include <concepts>

#include "scheduler.h"

namespace on_host {

ON_HOST_RUNTIME inline void before_atomic(void* address) {
    if (self->fenced) sanitizer::release(address);
    self->fenced = false;
}
ON_HOST_RUNTIME inline void after_atomic(void* address) { self->last_atomic = address; }

ON_HOST_RUNTIME inline void fence() {
    if (self->last_atomic) sanitizer::acquire(self->last_atomic);
    self->last_atomic = nullptr;
    self->fenced = true;
}

// Replaces the value by change(value), at once; returns what it was.
template <class T, class Change>
T update(T* address, Change change) {
    before_atomic(address);
    T old = __atomic_load_n(address, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(address, &old, change(old), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    after_atomic(address);
    return old;
}

}  // namespace on_host

inline void __threadfence() { on_host::fence(); }
inline void __threadfence_block() { on_host::fence(); }

template <std::integral T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
    return on_host::update(address, [&](T old) { return static_cast<T>(old + value); });
}
template <std::integral T>
T atomicSub(T* address, std::type_identity_t<T> value) {
    return on_host::update(address, [&](T old) { return static_cast<T>(old - value); });
}
template <std::integral T>
T atomicMax(T* address, std::type_identity_t<T> value) {
    return on_host::update(address, [&](T old) { return old < value ? value : old; });
}
template <std::integral T>
T atomicMin(T* address, std::type_identity_t<T> value) {
    return on_host::update(address, [&](T old) { return value < old ? value : old; });
}
template <std::integral T>
T atomicOr(T* address, std::type_identity_t<T> value) {
    return on_host::update(address, [&](T old) { return static_cast<T>(old | value); });
}
template <std::integral T>
T atomicExch(T* address, std::type_identity_t<T> value) {
    return on_host::update(address, [&](T) { return value; });
}
template <std::integral T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
    return on_host::update(address, [&](T old) { return old == expected ? value : old; });
}
