// Which thread runs next, and what is reported when none can.
#pragma once

#include <string>

#include "state.h"

namespace on_host {

// splitmix64
ON_HOST_RUNTIME inline uint64_t draw() {
    uint64_t z = (state.random += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

inline std::string text(const Location& at) {
    const std::string file = at.file_name();
    return file.substr(file.rfind('/') + 1) + ":" + std::to_string(at.line());
}
inline std::string text(const uint3& index) {
    return "(" + std::to_string(index.x) + "," + std::to_string(index.y) + "," + std::to_string(index.z) + ")";
}
inline std::string text(const Thread& thread) {
    return "block " + text(thread.block->index) + " thread " + std::to_string(thread.number);
}

ON_HOST_RUNTIME inline bool same(const Location& a, const Location& b) {
    return a.line() == b.line() && a.column() == b.column() && __builtin_strcmp(a.file_name(), b.file_name()) == 0;
}

ON_HOST_RUNTIME inline void enter(Thread& thread) {
    self = &thread;
    threadIdx = thread.index;
    blockIdx = thread.block->index;
}

ON_HOST_RUNTIME inline void to_launcher(bool for_good) {
    Thread& me = *self;
    sanitizer::release(&state.finished);
    sanitizer::leave(me.tracked, state.launcher_tracked, for_good);
    switch_context(me.context, state.launcher);
    sanitizer::arrive(me.tracked.fake_stack);
}

// Ends the launch: it throws on the launching thread.
ON_HOST_RUNTIME [[noreturn]] inline void stop(const std::string& message) {
    state.error = message;
    state.abandoned = true;
    to_launcher(false);
    __builtin_unreachable();
}
ON_HOST_RUNTIME [[noreturn]] inline void fail(const std::string& what, const Location& at) {
    stop(text(*self) + " at " + text(at) + ": " + what);
}

ON_HOST_RUNTIME inline void make_ready(Thread& thread) {
    thread.wait = Wait::kNothing;
    state.ready[state.ready_count++] = &thread;
}

// Threads of the block that wait for it; the last that is made ready runs first.
ON_HOST_RUNTIME inline void make_ready(Block& block, Wait wait) {
    const bool reverse = state.settings.order == Order::kReverse;
    for (unsigned i = 0; i < block.count; ++i) {
        Thread& thread = *block.threads[reverse ? i : block.count - 1 - i];
        if (thread.wait == wait) make_ready(thread);
    }
}

ON_HOST_RUNTIME inline Thread* take_ready() {
    if (state.ready_count == 0) return nullptr;
    const unsigned last = --state.ready_count;
    if (state.settings.order == Order::kRandom) {
        const auto chosen = static_cast<unsigned>(draw() % (last + 1));
        Thread* other = state.ready[last];
        state.ready[last] = state.ready[chosen];
        state.ready[chosen] = other;
    }
    return state.ready[last];
}

inline const char* name(Wait wait) {
    return wait == Wait::kBlock ? "__syncthreads" : wait == Wait::kGrid ? "grid_barrier" : "a warp collective";
}

// Says who waits where, each place once.
ON_HOST_RUNTIME inline std::string deadlock() {
    constexpr int kMostShown = 6;
    const Thread* shown[kMostShown];
    int count = 0;
    std::string message = "deadlock:";
    for (unsigned b = 0; b < state.block_count; ++b) {
        for (unsigned i = 0; i < state.blocks[b]->count; ++i) {
            const Thread& thread = *state.blocks[b]->threads[i];
            if (thread.wait == Wait::kExited) continue;
            bool known = count == kMostShown;
            for (int j = 0; j < count; ++j) known |= shown[j]->wait == thread.wait && same(shown[j]->at, thread.at);
            if (known) continue;
            shown[count++] = &thread;
            message += std::string(count > 1 ? ";" : "") + " " + text(thread) + " waits for " + name(thread.wait) +
                       " at " + text(thread.at);
        }
    }
    return message;
}

// Leaves this thread for another that can go on; returns when this one is chosen again.
ON_HOST_RUNTIME inline void yield(bool for_good = false) {
    Thread& me = *self;
    Thread* next = take_ready();
    if (!next) {
        if (state.blocks_alive > 0) stop(deadlock());
        to_launcher(true);
        return;
    }
    if (next == &me) return;
    enter(*next);
    sanitizer::leave(me.tracked, next->tracked, for_good);
    switch_context(me.context, next->context);
    sanitizer::arrive(me.tracked.fake_stack);
}

ON_HOST_RUNTIME inline void wait_for(Wait what, const Location& at) {
    self->wait = what;
    self->at = at;
}

}  // namespace on_host
