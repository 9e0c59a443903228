// K operations attend over N tokens of width D, from given logits, and the gradients: what formation and execution
// share. Each item is the work of one block.
//
//     pool       a = softmax_n(masked s),  pooled_k = Σ_n m_kn a_kn x_n       m: the attention's dropout multipliers
//     d_logits   ds = a ⊙ (da - Σ_n a da),  da_kn = m_kn (grad_k · x_n) + extra_kn
//     d_tokens   dx_n = Σ_k m_kn a_kn grad_k, and of formation's logits f ⊙ Σ_k ds_kn q_k
#pragma once

#include "../common/softmax.h"
#include "group.cuh"

namespace iprm::cuda {

// What masking adds to the logit of token n; `mask` is of one sample, or null.
__device__ inline float mask_bias(const uint8_t* mask, int64_t n) {
    return mask != nullptr && mask[n] == 0 ? static_cast<float>(kMaskBias) : 0.0f;
}

// Rows of a (.., D) tensor of T.
template <class T>
struct Rows {
    const T* data;
    int64_t D;

    __device__ uint4 load(int64_t n, int64_t d) const { return load_raw(data + (n * D + d)); }
    __device__ void open(int64_t, int64_t, const uint4& raw, float (&x)[kRun<T>]) const { unpack_run<T>(raw, x); }
    __device__ void operator()(int64_t n, int64_t d, float (&x)[kRun<T>]) const { open(n, d, load(n, d), x); }
};
template <class T>
__device__ Rows<T> rows_of(const void* data, int64_t first, int64_t D) {
    return {static_cast<const T*>(data) + first * D, D};
}

// The run of row n at column d, in global memory. As an assignment the compiler often splits the 16 bytes.
template <class T>
__device__ inline void store_row(void* data, int64_t n, int64_t d, int64_t D, const float (&x)[kRun<T>]) {
    __stcs(reinterpret_cast<uint4*>(static_cast<T*>(data) + (n * D + d)), pack_run<T>(x));
}

// --- pool

struct PoolArgs {
    Attend attend;
    const float* logits;
    const uint8_t* mask;
    void* pooled;
    float* attention;
    Split split;  // a part is one column tile
    int across;

    __host__ __device__ int64_t items() const { return split.items(attend.B); }
};

// Narrow column tiles where the samples alone do not fill the device.
template <class T>
__host__ __device__ inline PoolArgs pool_args(const Attend& attend, const float* logits, const uint8_t* mask,
                                              void* pooled, float* attention, int64_t processors) {
    const int64_t groups = (attend.K + kGroup - 1) / kGroup;
    int across = warps_across<T>(attend.D);
    while (across > 1 && attend.B * groups * column_tiles<T>(attend.D, across) < processors) across /= 2;
    const int size = static_cast<int>((attend.K + groups - 1) / groups);
    return {attend, logits, mask, pooled, attention, {groups, size, column_tiles<T>(attend.D, across)}, across};
}

template <class T>
__device__ void pool_item(const PoolArgs& args, int64_t item, const PoolShared& shared) {
    const Attend& a = args.attend;
    const Group group = args.split.group(item, a.K);
    const int64_t tile = args.split.part(item), N = a.N, D = a.D, first = group.b * a.K + group.first;
    const float* logits = args.logits + first * N;
    const uint8_t* mask = args.mask == nullptr ? nullptr : args.mask + group.b * N;
    const auto masked = [&](int o, int64_t n) { return logits[o * N + n] + mask_bias(mask, n); };
    float *highest = shared.statistics, *total = highest + kGroup;
    __syncthreads();
    for (int o = warp_index(); o < group.count; o += warp_count()) {
        const SoftmaxRow row = softmax_row(N, [&](int64_t n) { return masked(o, n); });
        if (lane_index() == 0) highest[o] = row.highest, total[o] = row.total;
    }
    __syncthreads();
    const auto probability = [&](int o, int64_t n) { return SoftmaxRow{highest[o], total[o]}.of(masked(o, n)); };
    if (tile == 0) {
        for (int o = 0; o < group.count; ++o) {
            for (int64_t n = threadIdx.x; n < N; n += blockDim.x)
                args.attention[(first + o) * N + n] = probability(o, n);
        }
    }
    const Draw draw = draw_of(a.drop);
    weighted_sums<T>(
        group.count, N, D, tile, args.across, false, shared, rows_of<T>(a.tokens, group.b * N, D),
        [&](int o, int64_t n) { return probability(o, n) * multiplier(draw, (first + o) * N + n); },
        [&](int o, int64_t d, const float (&x)[kRun<T>]) { store_row<T>(args.pooled, first + o, d, D, x); });
}

// --- d_logits

struct DLogitsArgs {
    Attend attend;
    const void* grad;
    const float *grad_attention, *attention;
    float* ds;
    Split split;  // one part

    __host__ __device__ int64_t items() const { return split.items(attend.B); }
};

__host__ __device__ inline DLogitsArgs d_logits_args(const Attend& attend, const void* grad,
                                                     const float* grad_attention, const float* attention, float* ds,
                                                     int64_t processors) {
    return {attend, grad, grad_attention, attention, ds, split_sample(attend.B, attend.K, 1, processors)};
}

template <class T>
__device__ void d_logits_item(const DLogitsArgs& args, int64_t item, float* left) {
    const Attend& a = args.attend;
    const Group group = args.split.group(item, a.K);
    const int64_t N = a.N, first = group.b * a.K + group.first;
    const Rows<T> grad = rows_of<T>(args.grad, first, a.D);
    const Rows<T> tokens = rows_of<T>(a.tokens, group.b * N, a.D);
    const Draw draw = draw_of(a.drop);
    products<T, 1>(
        group.count, 0, N, a.D, left, [&](int, int o, int64_t d, float (&x)[kRun<T>]) { grad(o, d, x); },
        [&](int) { return tokens; },
        [&](int o, int64_t n, float product) {
            const int64_t cell = (first + o) * N + n;
            const float extra = args.grad_attention == nullptr ? 0.0f : args.grad_attention[cell];
            args.ds[cell] = product * multiplier(draw, cell) + extra;
        });
    slope_rows(group.count, N, args.attention + first * N, args.ds + first * N);
}

// --- d_tokens

inline constexpr int kTokensOfThread = 4;
inline constexpr int kFewestRuns = 4, kMostRuns = 64;  // side by side in a block

struct DTokensArgs {
    Attend attend;
    const void* grad;
    const float* attention;
    void* dx;
    // Only for formation, of whose logits they are:
    const float* ds;
    const void *query, *gate;
    float* d_gate_parts;

    int runs;  // a power of two
    int64_t columns, parts;

    __host__ __device__ int64_t items() const { return attend.B * columns * parts; }
};

struct DTokensShared {
    float *weights, *slopes;  // (kWeightRows, kGroup): a_kn with its multiplier, and ds_kn
    float* sums;              // a run for each thread

    __host__ __device__ explicit DTokensShared(Arena& arena)
        : weights(arena.take<float>(kWeightRows * kGroup)),
          slopes(arena.take<float>(kWeightRows * kGroup)),
          sums(arena.take<float>(kGroupThreads * 8)) {}
};

// Runs side by side in a block: few where the samples alone do not fill the device.
template <class T>
__host__ __device__ inline int runs_across(int64_t B, int64_t D, int64_t processors) {
    const int64_t all = (D + kRun<T> - 1) / kRun<T>;
    int runs = kFewestRuns;
    while (runs < kMostRuns && runs < all && B * ((all + 2 * runs - 1) / (2 * runs)) >= processors) runs *= 2;
    return runs;
}

// Blocks of so many runs along the width, at least one.
template <class T>
__host__ __device__ inline int64_t run_tiles(int64_t D, int runs) {
    const int64_t columns = static_cast<int64_t>(runs) * kRun<T>;
    return D > columns ? (D + columns - 1) / columns : 1;
}

__host__ __device__ inline int64_t tokens_at_once(int runs) { return kTokensOfThread * (kGroupThreads / runs); }

// Divides the work of filled-in `args`.
template <class T>
__host__ __device__ inline void split_tokens(DTokensArgs& args, bool gated, int64_t processors) {
    const Attend& a = args.attend;
    const int64_t all = (a.D + kRun<T> - 1) / kRun<T>;
    args.runs = runs_across<T>(a.B, a.D, processors);
    // Whoever sums the gate's gradient sees all tokens; otherwise tiles of tokens are as good as tiles of columns.
    if (!gated) {
        args.runs = kMostRuns;
        while (args.runs > kFewestRuns && args.runs / 2 >= all) args.runs /= 2;
    }
    const int64_t tile = tokens_at_once(args.runs);
    args.columns = run_tiles<T>(a.D, args.runs);
    args.parts = gated ? 1 : (a.N + tile - 1) / tile;
}

// sum[t] += Σ_o weight_on row_o for this thread's rows n = slice + t·slices.
template <class T>
__device__ inline void add_operations(int count, int length, int slice, int slices, const float* weights,
                                      const Rows<T>& row, int64_t d, float (&sum)[kTokensOfThread][kRun<T>]) {
#pragma unroll 4
    for (int o = 0; o < count; ++o) {
        float y[kRun<T>];
        row(o, d, y);
#pragma unroll
        for (int t = 0; t < kTokensOfThread; ++t) {
            const int n = slice + t * slices;
            const float weight = n < length ? weights[n * kGroup + o] : 0.0f;
#pragma unroll
            for (int i = 0; i < kRun<T>; ++i) sum[t][i] = fmaf(weight, y[i], sum[t][i]);
        }
    }
}

// Σ over the slices of each thread's part, in order, for the `runs` runs that a block has side by side: part (B, D).
template <class T>
__device__ inline void sum_slices(float* part, int64_t D, int64_t d, int runs, float* sums, const float (&x)[kRun<T>]) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kRun<T>; ++i) sums[threadIdx.x * kRun<T> + i] = x[i];
    __syncthreads();
    const int count = runs * kRun<T>;
    const int64_t begin = d - static_cast<int64_t>(threadIdx.x) % runs * kRun<T>;
    for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
        float all = 0.0f;
        for (int slice = 0; slice < kGroupThreads / runs; ++slice) all += sums[slice * count + i];
        if (begin + i < D) part[begin + i] = all;
    }
}

template <class T, bool Gated>
__device__ void d_tokens_item(const DTokensArgs& args, int64_t item, const DTokensShared& shared) {
    const Attend& a = args.attend;
    const int64_t N = a.N, K = a.K, D = a.D, b = item / (args.columns * args.parts);
    const int64_t column = item / args.parts % args.columns, part = item % args.parts;
    const int runs = args.runs, slices = kGroupThreads / runs;
    const int slice = static_cast<int>(threadIdx.x) / runs, tile = slices * kTokensOfThread;
    const int64_t d = (column * runs + static_cast<int64_t>(threadIdx.x) % runs) * kRun<T>;
    const Draw draw = draw_of(a.drop);
    float gate[kRun<T>] = {}, d_gate[kRun<T>] = {};
    if (Gated && d < D) load_run(static_cast<const T*>(args.gate) + d, gate);
    for (int64_t begin = part * tile; begin < N; begin += args.parts * tile) {
        const int length = static_cast<int>(N - begin < tile ? N - begin : tile);
        float dx[kTokensOfThread][kRun<T>] = {}, of_logits[kTokensOfThread][kRun<T>] = {};
        for (int64_t k = 0; k < K; k += kGroup) {
            const int count = static_cast<int>(K - k < kGroup ? K - k : kGroup);
            const int64_t first = b * K + k;
            __syncthreads();
            fill_weights(count, begin, length, shared.weights, [&](int o, int64_t n) {
                const int64_t cell = (first + o) * N + n;
                return args.attention[cell] * multiplier(draw, cell);
            });
            if (Gated) {
                fill_weights(count, begin, length, shared.slopes,
                             [&](int o, int64_t n) { return args.ds[(first + o) * N + n]; });
            }
            __syncthreads();
            if (d < D) {
                add_operations<T>(count, length, slice, slices, shared.weights, rows_of<T>(args.grad, first, D), d, dx);
                if (Gated) {
                    add_operations<T>(count, length, slice, slices, shared.slopes, rows_of<T>(args.query, first, D), d,
                                      of_logits);
                }
            }
        }
#pragma unroll
        for (int t = 0; t < kTokensOfThread; ++t) {
            const int n = slice + t * slices;
            if (n >= length || d >= D) continue;
            if (Gated) {
                float x[kRun<T>];
                load_run(static_cast<const T*>(a.tokens) + (b * N + begin + n) * D + d, x);
#pragma unroll
                for (int i = 0; i < kRun<T>; ++i) {
                    d_gate[i] = fmaf(x[i], of_logits[t][i], d_gate[i]);
                    dx[t][i] = fmaf(gate[i], of_logits[t][i], dx[t][i]);
                }
            }
            store_row<T>(args.dx, b * N + begin + n, d, D, dx[t]);
        }
    }
    if (Gated) sum_slices<T>(args.d_gate_parts + b * D, D, d, runs, shared.sums, d_gate);
}

}  // namespace iprm::cuda
