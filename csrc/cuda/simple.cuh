// Execution = "simple": y = drop(φ(p_k ⊙ κ_n)), s_kn = w · y. No product of matrices: elementwise over pairs
// (pairs.cuh) and runs of columns.
#pragma once

#include "draw.cuh"
#include "pairs.cuh"
#include "token_sums.cuh"

namespace iprm::cuda {

inline constexpr int kSimplePairs = 16;  // of a tile

// The logits of tile `item`. A warp takes its pairs together, so that their loads are under way at once.
template <class T>
__device__ void simple_logits_item(const SimplePairs& pairs, float* s, int64_t item) {
    constexpr int kWarpPairs = kSimplePairs / kTokenWarps, kCount = kRun<T>;
    const T *keys = static_cast<const T*>(pairs.keys), *query = static_cast<const T*>(pairs.query);
    const T* w = static_cast<const T*>(pairs.w);
    const int64_t R = pairs.R, count = pairs.B * pairs.K * pairs.N;
    const Draw draw = draw_of(pairs.product);
    const int64_t first = item * kSimplePairs + warp_index() * kWarpPairs;
    PairRows rows[kWarpPairs];
    float sum[kWarpPairs] = {};
#pragma unroll
    for (int j = 0; j < kWarpPairs; ++j) {
        rows[j] = locate(first + j < count ? first + j : count - 1, pairs.K, pairs.N);
    }
    for (int64_t c = lane_index() * kCount; c < R; c += kWarp * kCount) {
        float weight[kCount], y[kWarpPairs][kCount];
        load_run(w + c, weight);
#pragma unroll
        for (int j = 0; j < kWarpPairs; ++j) {
            float q[kCount];
            load_run(keys + rows[j].token * R + c, y[j]);
            load_run(query + rows[j].operation * R + c, q);
#pragma unroll
            for (int i = 0; i < kCount; ++i) y[j][i] *= q[i];
        }
        activate_all(y, pairs.activation);
#pragma unroll
        for (int j = 0; j < kWarpPairs; ++j) {
            drop_run(draw, first + j, c, y[j]);
#pragma unroll
            for (int i = 0; i < kCount; ++i) sum[j] += y[j][i] * weight[i];
        }
    }
#pragma unroll
    for (int j = 0; j < kWarpPairs; ++j) {
        const float total = warp_sum(sum[j]);
        if (lane_index() == 0 && first + j < count) s[first + j] = total;
    }
}

using SimpleSums = TokenSums<4, 1>;

// Block (b, tile of tokens), columns from `start` on, with y = φ(p ⊙ κ) and dy = ds w ⊙ mask ⊙ φ'(p ⊙ κ):
// dκ = Σ_k dy ⊙ p, and the tile's part of dp = Σ_n dy ⊙ κ and of dw = Σ_kn ds mask ⊙ y. A lane has a quad of columns:
// of eight, the sums alone would fill its registers.
template <class T>
__device__ void simple_backward_item(const SimplePairs& pairs, const float* ds, T* d_keys, float* sum_query,
                                     float* sum_w, int64_t item, int64_t start, Arena& arena) {
    const SimpleSums sums(arena);
    const TokenTile tile(item, pairs.N);
    const T* keys = static_cast<const T*>(pairs.keys) + (tile.b * pairs.N + tile.n) * pairs.R;
    const T *query = static_cast<const T*>(pairs.query), *w = static_cast<const T*>(pairs.w);
    const int64_t R = pairs.R, c = start + lane_index() * 4;
    float key[kThreadTokens][4] = {}, d_key[kThreadTokens][4] = {}, weight[4], d_w[4] = {};
    unpack_quad<T>(load_quad(w, c, R), weight);
#pragma unroll
    for (int j = 0; j < kThreadTokens; ++j) {
        if (tile.n + j < pairs.N) unpack_quad<T>(load_quad(keys + j * R, c, R), key[j]);
    }
    for (int64_t k = 0; k < pairs.K; ++k) {
        const int64_t operation = tile.b * pairs.K + k;
        const Draw draw = draw_of(pairs.product);  // anew: the keys of all rounds would stay in registers
        float q[4], d_query[4] = {};
        unpack_quad<T>(load_quad(query + operation * R, c, R), q);
#pragma unroll
        for (int j = 0; j < kThreadTokens; ++j) {
            if (tile.n + j >= pairs.N) continue;
            const int64_t pair = operation * pairs.N + tile.n + j;
            float y[4], slopes[4], grad[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) y[i] = q[i] * key[j][i], grad[i] = ds[pair];
            activate_with_slopes(y, slopes, pairs.activation);
            drop_run(draw, pair, c, grad);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float gated = grad[i] * weight[i] * slopes[i];
                d_w[i] += grad[i] * y[i];
                d_query[i] += gated * key[j][i];
                d_key[j][i] += gated * q[i];
            }
        }
        const int round = static_cast<int>(k % 2);
        sums.put(round, 0, d_query);
        __syncthreads();
        sums.store(round, R - start, [&](int) { return sum_query + (item * pairs.K + k) * R + start; });
    }
    const int round = static_cast<int>(pairs.K % 2);
    sums.put(round, 0, d_w);
    __syncthreads();
    sums.store(round, R - start, [&](int) { return sum_w + item * R + start; });
#pragma unroll
    for (int j = 0; j < kThreadTokens; ++j) {
        if (tile.n + j >= pairs.N) continue;
        store_quad<T>(d_keys + (tile.b * pairs.N + tile.n + j) * R, c, R, d_key[j]);
    }
}

}  // namespace iprm::cuda
