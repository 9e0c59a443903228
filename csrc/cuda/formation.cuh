// Operation formation: s_kn = (q_k ⊙ f) · x_n, then attention over the language tokens x. Each item is the work of one
// block.
#pragma once

#include "attend.cuh"

namespace iprm::cuda {

struct FormationArgs {
    Attend attend;
    const void *query, *gate;
    const uint8_t* mask;
    void* z;
    float* attention;
    Split split;
    int across;

    __host__ __device__ int64_t items() const { return split.items(attend.B); }
};

// Whether one item can hold its logits in shared memory.
__host__ __device__ inline bool is_short(int64_t L) { return L <= kSharedRow; }

template <class T>
__host__ __device__ inline FormationArgs formation_args(const Attend& attend, const void* query, const void* gate,
                                                        const uint8_t* mask, void* z, float* attention,
                                                        int64_t processors) {
    const int64_t D = attend.D;
    const int across = warps_across<T>(D);
    const Split split = split_sample(attend.B, attend.K, column_tiles<T>(D, across), processors);
    return {attend, query, gate, mask, z, attention, split, across};
}

// s of the tokens begin <= n < end: use(o, n, s_on).
template <class T, class Use>
__device__ inline void formation_logits(const FormationArgs& args, const Group& group, int64_t begin, int64_t end,
                                        float* left, Use&& use) {
    const Attend& a = args.attend;
    const Rows<T> query = rows_of<T>(args.query, group.b * a.K + group.first, a.D);
    const Rows<T> gate = rows_of<T>(args.gate, 0, a.D);
    const Rows<T> tokens = rows_of<T>(a.tokens, group.b * a.N, a.D);
    products<T, 1>(
        group.count, begin, end, a.D, left,
        [&](int, int o, int64_t d, float (&x)[kRun<T>]) {
            float f[kRun<T>];
            query(o, d, x);
            gate(0, d, f);
#pragma unroll
            for (int i = 0; i < kRun<T>; ++i) x[i] *= f[i];
        },
        [&](int) { return tokens; }, use);
}

// All of formation, for one group of operations and, of z, every parts-th column tile. Every part computes the logits.
template <class T>
__device__ void formation_item(const FormationArgs& args, int64_t item, const GroupShared& shared) {
    const Attend& a = args.attend;
    const Group group = args.split.group(item, a.K);
    const int64_t part = args.split.part(item), N = a.N, D = a.D, first = group.b * a.K + group.first;
    const uint8_t* mask = args.mask == nullptr ? nullptr : args.mask + group.b * N;
    float* rows = shared.rows;
    formation_logits<T>(args, group, 0, N, shared.left,
                        [&](int o, int64_t n, float s) { rows[o * kSharedRow + n] = s + mask_bias(mask, n); });
    softmax_rows(group.count, N, rows, kSharedRow);
    if (part == 0) {
        for (int o = 0; o < group.count; ++o) {
            for (int64_t n = threadIdx.x; n < N; n += blockDim.x) {
                args.attention[(first + o) * N + n] = rows[o * kSharedRow + n];
            }
        }
    }
    const Draw draw = draw_of(a.drop);
    const int64_t tiles = column_tiles<T>(D, args.across);
    for (int64_t tile = part; tile < tiles; tile += args.split.parts) {
        weighted_sums<T>(
            group.count, N, D, tile, args.across, tile != part, shared, rows_of<T>(a.tokens, group.b * N, D),
            [&](int o, int64_t n) { return rows[o * kSharedRow + n] * multiplier(draw, (first + o) * N + n); },
            [&](int o, int64_t d, const float (&x)[kRun<T>]) { store_row<T>(args.z, first + o, d, D, x); });
    }
}

// The logits alone, without the mask, where L is too long for the above: a part is one tile of tokens.
inline constexpr int64_t kLogitTokens = 4 * kGroupWarps * kProductRows;

template <class T>
__device__ void formation_logits_item(const FormationArgs& args, int64_t item, float* left, float* logits) {
    const Group group = args.split.group(item, args.attend.K);
    const int64_t N = args.attend.N, first = group.b * args.attend.K + group.first;
    const int64_t begin = args.split.part(item) * kLogitTokens;
    const int64_t end = N - begin < kLogitTokens ? N : begin + kLogitTokens;
    formation_logits<T>(args, group, begin, end, left,
                        [&](int o, int64_t n, float s) { logits[(first + o) * N + n] = s; });
}

// --- Backward. First, for a group of operations: ds, and dq_k = f ⊙ Σ_n ds_kn x_n. Then d_tokens_item<T, true> gives
// the rest; the gate's gradient is Σ_n x_n ⊙ Σ_k ds_kn q_k.

struct FormationBackwardArgs {
    DLogitsArgs logits;
    const void* gate;
    void* d_query;
    int across;

    __host__ __device__ int64_t items() const { return logits.items(); }
};

template <class T>
__host__ __device__ inline FormationBackwardArgs formation_backward_args(DLogitsArgs logits, const void* gate,
                                                                         void* d_query) {
    const int64_t D = logits.attend.D;
    return {logits, gate, d_query, warps_across<T>(D)};
}

template <class T>
__device__ void formation_backward_item(const FormationBackwardArgs& args, int64_t item,
                                        const PoolAndLeftShared& shared) {
    const Attend& a = args.logits.attend;
    d_logits_item<T>(args.logits, item, shared.left);
    const Group group = args.logits.split.group(item, a.K);
    const int64_t N = a.N, D = a.D, first = group.b * a.K + group.first;
    const float* ds = args.logits.ds + first * N;
    const Rows<T> gate = rows_of<T>(args.gate, 0, D);
    const int64_t tiles = column_tiles<T>(D, args.across);
    for (int64_t tile = 0; tile < tiles; ++tile) {
        weighted_sums<T>(
            group.count, N, D, tile, args.across, tile != 0, shared, rows_of<T>(a.tokens, group.b * N, D),
            [&](int o, int64_t n) { return ds[o * N + n]; },
            [&](int o, int64_t d, float (&x)[kRun<T>]) {
                float f[kRun<T>];
                gate(0, d, f);
#pragma unroll
                for (int i = 0; i < kRun<T>; ++i) x[i] *= f[i];
                store_row<T>(args.d_query, first + o, d, D, x);
            });
    }
}

}  // namespace iprm::cuda
