// Warp collectives: the lanes of the mask meet, and the last to come does the work of all.
//
// Meeting orders no memory accesses, except __syncwarp, which does.
#pragma once

#include <cstdint>
#include <string>

#include "scheduler.h"

namespace on_host {

inline constexpr unsigned kFullMask = 0xffffffffu;

ON_HOST_RUNTIME inline unsigned lane() { return self->number % kWarpSize; }
ON_HOST_RUNTIME inline Warp& warp() { return self->block->warps[self->number / kWarpSize]; }

// Lanes with the same mask meet at the same place of the source; lanes that do not end in a reported deadlock.
ON_HOST_RUNTIME inline Meeting& meeting(unsigned mask, const char* what, const Location& at) {
    Meeting* unused = nullptr;
    for (Meeting& m : warp().meetings) {
        if (m.arrived == 0) {
            unused = unused ? unused : &m;
        } else if (m.mask == mask && m.what == what && same(m.at, at)) {
            return m;
        }
    }
    unused->mask = mask;
    unused->what = what;
    unused->at = at;
    return *unused;
}

ON_HOST_RUNTIME inline void dismiss(Block& block, unsigned first, unsigned lanes) {
    const bool reverse = state.settings.order == Order::kReverse;
    for (unsigned i = 0; i < kWarpSize; ++i) {
        const unsigned l = reverse ? i : kWarpSize - 1 - i;
        if (lanes >> l & 1) make_ready(*block.threads[first + l]);
    }
}

// `work(arguments, lanes)` once, when all lanes of the mask are there; none may have exited.
template <class Work>
ON_HOST_RUNTIME void together(unsigned mask, const char* what, void* argument, const Location& at, Work work) {
    const unsigned own = 1u << lane();
    Warp& w = warp();
    if (!(mask & own)) fail(std::string(what) + ": the calling lane is not in its mask", at);
    if (mask & w.exited) fail(std::string(what) + ": a lane of its mask has exited", at);
    const unsigned needed = mask & w.present;
    Meeting& m = meeting(mask, what, at);
    m.arguments[lane()] = argument;
    m.arrived |= own;
    wait_for(Wait::kWarp, at);
    if (m.arrived == needed) {
        work(m.arguments, needed);
        m.arrived = 0;
        dismiss(*self->block, self->number - lane(), needed);
    }
    yield();
}

template <class T>
struct Shuffled {
    T value, result;
    unsigned source;
    bool in_range;
};

// Out of range a lane keeps its value; of a lane that takes no part comes NaN (undefined on the device).
template <class T>
ON_HOST_RUNTIME T shuffle(unsigned mask, const char* what, T value, unsigned source, bool in_range,
                          const Location& at) {
    Shuffled<T> mine{value, value, source % kWarpSize, in_range};
    together(mask, what, &mine, at, [](void** arguments, unsigned lanes) ON_HOST_RUNTIME {
        for (unsigned l = 0; l < kWarpSize; ++l) {
            if (!(lanes >> l & 1)) continue;
            auto& one = *static_cast<Shuffled<T>*>(arguments[l]);
            if (!one.in_range) continue;
            if (lanes >> one.source & 1) {
                one.result = static_cast<Shuffled<T>*>(arguments[one.source])->value;
            } else {
                __builtin_memset(static_cast<void*>(&one.result), 0xff, sizeof(T));
            }
        }
    });
    return mine.result;
}

struct Vote {
    bool predicate;
    unsigned result;
};

ON_HOST_RUNTIME inline unsigned vote(unsigned mask, const char* what, bool predicate, const Location& at) {
    Vote mine{predicate, 0};
    together(mask, what, &mine, at, [](void** arguments, unsigned lanes) ON_HOST_RUNTIME {
        unsigned result = 0;
        for (unsigned l = 0; l < kWarpSize; ++l) {
            if (lanes >> l & 1 && static_cast<Vote*>(arguments[l])->predicate) result |= 1u << l;
        }
        for (unsigned l = 0; l < kWarpSize; ++l) {
            if (lanes >> l & 1) static_cast<Vote*>(arguments[l])->result = result;
        }
    });
    return mine.result;
}

ON_HOST_RUNTIME inline void sync_warp(unsigned mask, const Location& at) {
    char* order = &self->block->orders->warps[self->number / kWarpSize];
    sanitizer::release(order);
    together(mask, "__syncwarp", nullptr, at, [](void**, unsigned) {});
    sanitizer::acquire(order);
}

// The first lane of this lane's segment of `width`.
inline unsigned segment(int width) { return lane() & ~static_cast<unsigned>(width - 1); }

}  // namespace on_host

inline void __syncwarp(unsigned mask = on_host::kFullMask, on_host::Location at = on_host::Location::current()) {
    on_host::sync_warp(mask, at);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, on_host::Location at = on_host::Location::current()) {
    const unsigned from = on_host::segment(width) + (static_cast<unsigned>(source) & static_cast<unsigned>(width - 1));
    return on_host::shuffle(mask, "__shfl_sync", value, from, true, at);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32,
                  on_host::Location at = on_host::Location::current()) {
    const unsigned from = on_host::lane() ^ static_cast<unsigned>(bits);
    const bool in_range = from < on_host::segment(width) + static_cast<unsigned>(width);
    return on_host::shuffle(mask, "__shfl_xor_sync", value, from, in_range, at);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   on_host::Location at = on_host::Location::current()) {
    const unsigned from = on_host::lane() + delta;
    const bool in_range = from < on_host::segment(width) + static_cast<unsigned>(width);
    return on_host::shuffle(mask, "__shfl_down_sync", value, from, in_range, at);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 on_host::Location at = on_host::Location::current()) {
    const bool in_range = on_host::lane() >= on_host::segment(width) + delta;
    return on_host::shuffle(mask, "__shfl_up_sync", value, on_host::lane() - delta, in_range, at);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, on_host::Location at = on_host::Location::current()) {
    return on_host::vote(mask, "__ballot_sync", predicate != 0, at);
}
inline int __any_sync(unsigned mask, int predicate, on_host::Location at = on_host::Location::current()) {
    return on_host::vote(mask, "__any_sync", predicate != 0, at) != 0;
}
inline int __all_sync(unsigned mask, int predicate, on_host::Location at = on_host::Location::current()) {
    return on_host::vote(mask, "__all_sync", predicate == 0, at) == 0;
}
