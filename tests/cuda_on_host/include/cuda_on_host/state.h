// The threads, warps and blocks of the launch under way. Plain arrays: containers would be instrumented by TSan, and
// the scheduler's own accesses reported as races.
#pragma once

#include <driver_types.h>
#include <vector_functions.h>
#include <vector_types.h>

#include <cstdint>
#include <source_location>
#include <string>

#include "context.h"
#include "sanitizers.h"
#include "settings.h"

namespace on_host {

using Location = std::source_location;

inline constexpr unsigned kWarpSize = 32, kMostThreadsOfBlock = 1024, kMostWarps = kMostThreadsOfBlock / kWarpSize;
inline constexpr unsigned kMostBlocksAtOnce = 64, kMostFibers = 16384, kMostCopies = 256;

enum class Wait : uint8_t { kNothing, kBlock, kWarp, kGrid, kExited };

// An asynchronous copy of 16 bytes that is not made yet.
struct Copy {
    unsigned char* to;
    const unsigned char* from;
    int valid;
    unsigned group;
};

struct Block;

// One thread of a block: a fiber.
struct Thread {
    Context context;
    Tracked tracked;
    char* stack = nullptr;
    Block* block = nullptr;
    unsigned number = 0;
    uint3 index{};
    Wait wait = Wait::kExited;
    Location at;  // where it waits
    Copy copies[kMostCopies];
    unsigned copy_count = 0, group = 0;  // group: the number of the open one
    void* last_atomic = nullptr;         // what a fence orders: see atomics.h
    bool fenced = false;
};

// Lanes of a warp that are to do one collective together.
struct Meeting {
    unsigned mask = 0, arrived = 0;
    const char* what = nullptr;
    Location at;
    void* arguments[kWarpSize] = {};
};

struct Warp {
    unsigned present = 0, exited = 0;
    Meeting meetings[kWarpSize];
};

// Their addresses stand for the orders that barriers establish; new for every block, or blocks would be ordered.
struct Orders {
    char barrier[2], warps[kMostWarps];
};

struct Block {
    uint3 index{};
    unsigned count = 0, alive = 0;
    Thread* threads[kMostThreadsOfBlock];
    Warp warps[kMostWarps];
    unsigned char* shared = nullptr;
    Orders* orders = nullptr;
    // The barrier: of this generation, `arrived` threads wait, at `at`, with `votes` true predicates.
    unsigned arrived = 0, generation = 0;
    int votes = 0, counted[2] = {};
    Location at;
};

// Everything about the launch under way; one at a time in a process.
struct Launch {
    Settings settings;
    uint64_t random = 1;
    dim3 grid, block;
    void (*body)(void*) = nullptr;
    void* argument = nullptr;
    bool resident = false;
    unsigned blocks_alive = 0, blocks_arrived = 0;  // of a resident launch: at its grid barrier
    char grid_order[2], started, finished;
    unsigned grid_generation = 0;

    Block* blocks[kMostBlocksAtOnce] = {};
    unsigned block_count = 0;
    Thread* fibers[kMostFibers] = {};
    unsigned fiber_count = 0;
    Thread* ready[kMostFibers];
    unsigned ready_count = 0;

    Context launcher;
    Tracked launcher_tracked;
    std::string error;
    bool abandoned = false;  // fibers of the last launch never returned
    uint64_t launches = 0, blocks_run = 0;
};

inline Launch state;
inline Thread* self = nullptr;

}  // namespace on_host

// The names of CUDA: set whenever a thread goes on.
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;
