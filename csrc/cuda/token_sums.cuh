// Sums over operations and over tokens, for the backward of both kinds of execution. A block has kTokens tokens of one
// sample and kCount columns for each lane; a warp has kThreadTokens of the tokens and goes over the operations. What
// is summed over operations stays in its registers; sums over tokens are added up over the warps, for one tile of
// tokens, and over the tiles by the library.
#pragma once

#include "element.cuh"
#include "hints.cuh"
#include "reduce.cuh"

namespace iprm::cuda {

inline constexpr int kTokens = 16, kTokenThreads = 256, kTokenWarps = kTokenThreads / kWarp;
inline constexpr int kThreadTokens = kTokens / kTokenWarps;

// Of block `item` the sample, and the first token of this warp.
struct TokenTile {
    int64_t b, n;

    __device__ TokenTile(int64_t item, int64_t N) {
        const int64_t tiles = (N + kTokens - 1) / kTokens;
        b = item / tiles;
        n = item % tiles * kTokens + warp_index() * kThreadTokens;
    }
};

// Adds up rows of columns over a block's warps, in their order, kSums of them in a round. Two rounds' memory: one
// barrier a round, between `put` and `store`, is enough.
template <int kCount, int kSums>
struct TokenSums {
    static constexpr int kColumns = kWarp * kCount;
    static constexpr int kRound = kSums * kTokenWarps * kColumns;
    float* memory;

    __host__ __device__ explicit TokenSums(Arena& arena) : memory(arena.take<float>(2 * kRound)) {}

    __device__ void put(int round, int which, const float (&x)[kCount]) const {
        const int thread = recomputed_thread();
        float* row = memory + round * kRound + (which * kTokenWarps + thread / kWarp) * kColumns;
#pragma unroll
        for (int i = 0; i < kCount; i += 4) {
            *reinterpret_cast<float4*>(row + thread % kWarp * kCount + i) =
                make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
        }
    }
    // After a barrier. target(which) is the row that takes the sums; `count` of its columns exist.
    template <class Target>
    __device__ void store(int round, int64_t count, Target&& target) const {
        for (int at = recomputed_thread(); at < kSums * kColumns; at += kTokenThreads) {
            const int which = at / kColumns, column = at % kColumns;
            const float* part = memory + round * kRound + which * kTokenWarps * kColumns + column;
            float total = 0.0f;
#pragma unroll
            for (int warp = 0; warp < kTokenWarps; ++warp) total += part[warp * kColumns];
            if (column < count) target(which)[column] = total;
        }
    }
};

inline dim3 token_grid(int64_t items, int64_t R, int64_t columns) {
    return dim3(static_cast<unsigned>(items), static_cast<unsigned>((R + columns - 1) / columns));
}

}  // namespace iprm::cuda
