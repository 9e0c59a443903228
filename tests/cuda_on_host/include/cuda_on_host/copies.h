// cp.async: made at issue or at the wait, as the settings say. Until it is made the target is NaN.
#pragma once

#include <cstdint>
#include <string>

#include "scheduler.h"

namespace on_host {

inline constexpr int kCopyBytes = 16;

// By the copying thread, so that the sanitizers see its accesses.
inline void make(const Copy& copy) {
    for (int i = 0; i < kCopyBytes; ++i) copy.to[i] = i < copy.valid ? copy.from[i] : 0;
}

ON_HOST_RUNTIME inline bool copies_at_issue() {
    const Copies when = state.settings.copies;
    return when == Copies::kEager || (when == Copies::kRandom && draw() % 2 == 0);
}

ON_HOST_RUNTIME inline void postpone(const Copy& copy, const Location& at) {
    if (self->copy_count == kMostCopies) fail("copy_async: too many copies under way", at);
    self->copies[self->copy_count++] = copy;
}

// The next copy of the groups before `end`, in order of issue.
ON_HOST_RUNTIME inline bool take_copy(unsigned end, Copy& copy) {
    if (self->copy_count == 0 || self->copies[0].group >= end) return false;
    copy = self->copies[0];
    --self->copy_count;
    for (unsigned i = 0; i < self->copy_count; ++i) self->copies[i] = self->copies[i + 1];
    return true;
}

ON_HOST_RUNTIME inline unsigned open_group() { return self->group; }
ON_HOST_RUNTIME inline void close_group() { ++self->group; }

inline bool aligned(const void* address, unsigned bytes) { return reinterpret_cast<uintptr_t>(address) % bytes == 0; }

}  // namespace on_host

namespace iprm::cuda {

inline void copy_async(void* shared, const void* global, int valid = on_host::kCopyBytes,
                       on_host::Location at = on_host::Location::current()) {
    using namespace on_host;
    if (!aligned(shared, kCopyBytes)) fail("copy_async: the target is not aligned to 16 bytes", at);
    if (!aligned(global, kCopyBytes)) fail("copy_async: the source is not aligned to 16 bytes", at);
    if (valid < 0 || valid > kCopyBytes) fail("copy_async: " + std::to_string(valid) + " valid bytes", at);
    const Copy copy{static_cast<unsigned char*>(shared), static_cast<const unsigned char*>(global), valid,
                    open_group()};
    if (copies_at_issue()) return make(copy);
    for (int i = 0; i < kCopyBytes; ++i) copy.to[i] = 0xff;
    postpone(copy, at);
}

inline void copy_commit() { on_host::close_group(); }

template <int Pending>
void copy_wait() {
    const unsigned open = on_host::open_group();
    on_host::Copy copy;
    while (open > Pending && on_host::take_copy(open - Pending, copy)) on_host::make(copy);
}

}  // namespace iprm::cuda
