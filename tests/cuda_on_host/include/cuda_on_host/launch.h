// Launches: blocks one after another, or all of them at once for a resident launch.
#pragma once

#include <sys/mman.h>

#include <cstdlib>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "barriers.h"
#include "runtime.h"
#include "scheduler.h"

namespace iprm::cuda {

inline constexpr size_t kSharedGap = 128;

struct SharedSize {
    size_t device = 0, host = 0;
};

template <class T>
struct Same {
    using type = T;
};

// A piece of shared memory is handed out: it may be used, the gap behind it may not.
inline void mark_piece(unsigned char* piece, size_t bytes, size_t gap) {
    on_host::sanitizer::allow(piece, bytes);
    on_host::sanitizer::forbid(piece + bytes, gap);
}

}  // namespace iprm::cuda

namespace on_host {

// The size of the shared memory, and where in the source the launch is.
struct LaunchSite {
    iprm::cuda::SharedSize shared;
    Location at;

    LaunchSite(Location at = Location::current()) : at(at) {}
    LaunchSite(iprm::cuda::SharedSize shared, Location at = Location::current()) : shared(shared), at(at) {}
};

inline constexpr size_t kStackBytes = 256 * 1024, kStackOfShim = 32 * 1024, kGuardBytes = 4096;
inline constexpr size_t kSharedAlignment = 128;

// --- Threads

ON_HOST_RUNTIME inline Thread& fiber(unsigned number) {
    if (number >= kMostFibers) throw std::runtime_error("on the host: too many threads at once");
    Thread*& found = state.fibers[number];
    if (!found) {
        void* memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) throw std::runtime_error("on the host: no memory for a stack");
        mprotect(memory, kGuardBytes, PROT_NONE);
        found = new Thread;
        found->stack = static_cast<char*>(memory) + kGuardBytes;
        found->tracked.stack = found->stack;
        found->tracked.size = kStackBytes;
        sanitizer::new_fiber(found->tracked);
    }
    return *found;
}

// After a failed launch the frames of its kernel are still on the stacks.
ON_HOST_RUNTIME inline void forget_abandoned() {
    if (!state.abandoned) return;
    for (Thread* thread : state.fibers) {
        if (!thread) continue;
        sanitizer::allow(thread->stack, kStackBytes);
        sanitizer::new_fiber(thread->tracked);
    }
    state.abandoned = false;
}

// After a failure: orders what its threads did before what the launcher does next, as their exits would have.
ON_HOST_RUNTIME inline void release_abandoned() {
    for (unsigned b = 0; b < state.block_count; ++b) {
        for (unsigned i = 0; i < state.blocks[b]->count; ++i) {
            sanitizer::release_for(state.blocks[b]->threads[i]->tracked, state.launcher_tracked, &state.finished);
        }
    }
}

ON_HOST_RUNTIME inline void thread_exits() {
    Thread& me = *self;
    Block& block = *me.block;
    Warp& warp = block.warps[me.number / kWarpSize];
    me.wait = Wait::kExited;
    sanitizer::release(&state.finished);
    warp.exited |= 1u << me.number % kWarpSize;
    for (Meeting& m : warp.meetings) {
        if (m.arrived && m.mask & warp.exited) fail(std::string(m.what) + ": a lane of its mask exits", m.at);
    }
    if (--block.alive == 0) {
        --state.blocks_alive;
    } else if (block.arrived == block.alive) {
        open_barrier(block);
    }
}

ON_HOST_RUNTIME inline void thread_main() {
    sanitizer::arrive(nullptr);
    sanitizer::acquire(&state.started);
    state.body(state.argument);
    thread_exits();
    yield(true);
    __builtin_unreachable();
}

ON_HOST_RUNTIME inline void start_thread(Block& block, unsigned number, Thread& thread) {
    const dim3 shape = state.block;
    block.threads[number] = &thread;
    thread.block = &block;
    thread.number = number;
    thread.index = uint3{number % shape.x, number / shape.x % shape.y, number / shape.x / shape.y};
    thread.copy_count = thread.group = 0;
    thread.last_atomic = nullptr;
    thread.fenced = false;
    thread.wait = Wait::kBlock;
    sanitizer::allow(thread.stack + kStackBytes - kStackOfShim, kStackOfShim);  // frames of the last run never returned
    start_context(thread.context, thread.stack, kStackBytes, thread_main);
}

// --- Blocks

struct BlockMemory {
    unsigned char* shared;
    Orders* orders;
};

// Under TSan, consecutive blocks are played by different fibers, and a thread's number changes from block to block:
// what blocks do is not ordered, so that a race between them is found.
inline constexpr unsigned kCasts = kFindsRaces ? 2 : 1, kRotation = kFindsRaces ? 7 : 0;

ON_HOST_RUNTIME inline void start_block(unsigned slot, size_t number, unsigned first_fiber, const BlockMemory& memory) {
    Block*& found = state.blocks[slot];
    if (!found) found = new Block;
    Block& block = *found;
    const unsigned count = state.block.x * state.block.y * state.block.z;
    const size_t columns = state.grid.x, rows = state.grid.y;
    block.index = uint3{static_cast<unsigned>(number % columns), static_cast<unsigned>(number / columns % rows),
                        static_cast<unsigned>(number / columns / rows)};
    block.count = block.alive = count;
    block.arrived = block.generation = 0;
    block.votes = 0;
    block.shared = memory.shared;
    block.orders = memory.orders;
    for (unsigned w = 0; w * kWarpSize < count; ++w) {
        const unsigned lanes = count - w * kWarpSize;
        block.warps[w].present = lanes >= kWarpSize ? 0xffffffffu : (1u << lanes) - 1;
        block.warps[w].exited = 0;
        for (Meeting& m : block.warps[w].meetings) m.arrived = 0;
    }
    for (unsigned i = 0; i < count; ++i) {
        const auto role = static_cast<unsigned>((i + number * kRotation) % count);
        start_thread(block, i, fiber(first_fiber + role));
    }
    make_ready(block, Wait::kBlock);
    ++state.blocks_run;
}

// Shared memory of the blocks of a launch, filled with NaN. Under TSan no two blocks share any.
class SharedMemory {
  public:
    explicit SharedMemory(size_t bytes) : bytes_(bytes) {}
    SharedMemory(const SharedMemory&) = delete;
    SharedMemory& operator=(const SharedMemory&) = delete;
    ~SharedMemory() {
        for (void* memory : taken_) std::free(memory);
    }

    BlockMemory take() {
        void* memory = nullptr;
        if (posix_memalign(&memory, kSharedAlignment, bytes_) != 0) throw std::bad_alloc();
        std::memset(memory, 0xff, bytes_);
        taken_.push_back(memory);
        orders_.push_back(std::make_unique<Orders>());
        return {static_cast<unsigned char*>(memory), orders_.back().get()};
    }
    // Blocks that follow may use the memory of those before; TSan would see a race in that.
    void reuse() {
        if (kFindsRaces) return;
        for (void* memory : taken_) std::free(memory);
        taken_.clear();
        orders_.clear();
    }

  private:
    size_t bytes_;
    std::vector<void*> taken_;
    std::vector<std::unique_ptr<Orders>> orders_;
};

// Runs what is ready until all threads have exited or one has failed.
ON_HOST_RUNTIME inline void run_ready() {
    Thread& first = *take_ready();
    enter(first);
    sanitizer::release(&state.started);
    sanitizer::leave(state.launcher_tracked, first.tracked, false);
    switch_context(state.launcher, first.context);
    sanitizer::arrive(state.launcher_tracked.fake_stack);
    self = nullptr;
}

// --- Grids

inline std::vector<size_t> order_of_blocks(size_t count) {
    std::vector<size_t> order(count);
    for (size_t i = 0; i < count; ++i) order[i] = state.settings.order == Order::kReverse ? count - 1 - i : i;
    if (state.settings.order == Order::kRandom) {
        for (size_t i = count; i > 1; --i) std::swap(order[i - 1], order[draw() % i]);
    }
    return order;
}

inline void run_at_once(size_t count, SharedMemory& shared) {
    state.block_count = state.blocks_alive = static_cast<unsigned>(count);
    const unsigned threads = state.block.x * state.block.y * state.block.z;
    // The first to be made ready runs last.
    for (size_t i = count; i-- > 0;) {
        start_block(static_cast<unsigned>(i), i, static_cast<unsigned>(i) * threads, shared.take());
    }
    run_ready();
}

inline void run_in_turn(size_t count, SharedMemory& shared) {
    const unsigned threads = state.block.x * state.block.y * state.block.z;
    state.block_count = 1;
    unsigned turn = 0;
    for (size_t number : order_of_blocks(count)) {
        state.blocks_alive = 1;
        start_block(0, number, turn++ % kCasts * threads, shared.take());
        run_ready();
        shared.reuse();
        if (state.abandoned) return;
    }
}

inline cudaError_t check_configuration(dim3 grid, unsigned threads, size_t shared_bytes) {
    constexpr unsigned kMostRows = 65535, kMostColumns = 0x7fffffff;
    const bool shape = grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.x <= kMostColumns && grid.y <= kMostRows &&
                       grid.z <= kMostRows && threads > 0 && threads <= kMostThreadsOfBlock;
    if (!shape) return cudaErrorInvalidConfiguration;
    return shared_bytes > state.settings.shared_bytes ? cudaErrorInvalidValue : cudaSuccess;
}

ON_HOST_RUNTIME inline void prepare(dim3 grid, unsigned threads, bool resident, void (*body)(void*), void* argument) {
    state.random = state.settings.seed;
    state.grid = gridDim = grid;
    state.block = blockDim = dim3{threads, 1, 1};
    state.body = body;
    state.argument = argument;
    state.resident = resident;
    state.ready_count = state.blocks_arrived = state.grid_generation = 0;
    ++state.launches;
    sanitizer::describe_launcher(state.launcher_tracked);
    forget_abandoned();
}

inline cudaError_t run(dim3 grid, unsigned threads, const LaunchSite& site, bool resident, void (*body)(void*),
                       void* argument) {
    static std::mutex one_at_a_time;
    const std::lock_guard lock(one_at_a_time);
    state.settings = settings_of_environment();
    if (resident && grid.x > state.settings.processors) grid.x = state.settings.processors;
    if (cudaError_t error = check_configuration(grid, threads, site.shared.device)) return report(error);

    prepare(grid, threads, resident, body, argument);
    state.error.clear();
    const size_t count = static_cast<size_t>(grid.x) * grid.y * grid.z;
    SharedMemory shared(site.shared.host);
    resident ? run_at_once(count, shared) : run_in_turn(count, shared);
    if (state.abandoned) release_abandoned();
    sanitizer::acquire(&state.finished);
    if (state.error.empty()) return cudaSuccess;
    throw std::runtime_error("kernel launched at " + text(site.at) + " (" + site.at.function_name() +
                             "): " + state.error);
}

ON_HOST_RUNTIME inline unsigned char* shared_memory() { return self->block->shared; }

template <class Body>
cudaError_t run(dim3 grid, unsigned threads, const LaunchSite& site, bool resident, Body& body) {
    return run(grid, threads, site, resident, [](void* b) { (*static_cast<Body*>(b))(); }, &body);
}

}  // namespace on_host

namespace iprm::cuda {

template <class... P>
cudaError_t launch(void (*kernel)(P...), dim3 grid, unsigned threads, on_host::LaunchSite site, cudaStream_t,
                   typename Same<P>::type... args) {
    auto body = [&] { kernel(args...); };
    return on_host::run(grid, threads, site, false, body);
}

template <class... P>
cudaError_t launch_resident(void (*kernel)(P...), unsigned most, unsigned threads, on_host::LaunchSite site,
                            cudaStream_t, typename Same<P>::type... args) {
    auto body = [&] { kernel(args...); };
    return on_host::run(dim3(most), threads, site, true, body);
}

inline int multiprocessors() { return static_cast<int>(on_host::settings_of_environment().processors); }

}  // namespace iprm::cuda

#define IPRM_SHARED(name) unsigned char* const name = ::on_host::shared_memory()
