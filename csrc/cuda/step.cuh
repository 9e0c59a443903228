// All steps of the mechanism in one cooperative launch, without gradients and dropout.
//
// The operations never look at the results: z, o and O of all steps follow from language alone. So the chain of the
// operations of step t + 1 runs beside that of the results of step t, in six slots; all blocks wait for each other
// between slots, and within one they share independent work items.
//
//         results of step t                            operations of step t + 1
//     1   g = We E + gz                                h = φ_l(F1 O);  with Ko, the keys of O
//     2   logits s_kn of the pairs                     z, by s_kj = h_k · y_j + bias_j
//     3   Σ_n a_kn x_n                                 gz = Wz z;  l = Wq z;  o = Uo [φ_o(z) ; O]
//     4   ρ = φ_r(Wv Σ a x)                            q = c ⊙ (Qo o);  with Ko, the keys of o
//     5   e = Ur [E ; ρ]                               a_kj of the window
//     6   E <- Vr Σ_j a_kj ē_j + Sr e                  O <- Vo Σ_j a_kj ō_j + So o
//
// For the whole forward: 1 launch, 6 (T + 1) - 1 barriers. Two products are folded (mechanism.md, "What the algebra
// allows"): (F2 h) · (f ⊙ x) = h · (F2ᵀ (f ⊙ x)), made once per forward, and Vo, Vr after the sums.
//
// Why one cooperative kernel (predicted from arithmetic, not measured): with D = 512, R = 256 a step reads 12.5 D²
// weights of projections, 6.6 MB in bfloat16, which stay in the second-level cache: some 2 µs at 4 TB/s. Launched one
// by one, the linear maps, attentions, joins and sums of a step are some thirty kernels of 2 to 3 µs, so launches and
// not traffic are the price. A barrier of all blocks is an atomic and a poll through the second-level cache, some 1 to
// 1.5 µs, and six of them replace the thirty launches. Were the two chains not side by side, it would be ten. From some
// B·K = 100 rows on, the pairs of slot 2 outweigh all of this.
#pragma once

#include "attend.cuh"
#include "execution.cuh"
#include "linear.cuh"
#include "step.h"

namespace iprm::cuda {

inline constexpr int kSlots = 6, kMostTasks = 16, kMostLinears = 12, kStepThreads = 256;
static_assert(kMostStepColumns <= kSharedRow && kGroupThreads == kStepThreads && kTileThreads == kStepThreads);

enum class Kind { kLinear, kLogits, kPool, kFormation, kCompare };

// Independent work items of a slot: of the operations' chain, or of the results' one step behind.
struct Task {
    Kind kind;
    bool of_operations;
    int linear;  // which, for Kind::kLinear
    int64_t items;
};

struct Plan {
    Steps s;
    Pairs pairs;
    PoolArgs pool;  // its attention is that of step 0
    Linear linear[kMostLinears];
    Task task[kMostTasks];
    int begin[kSlots + 1];  // tasks of each slot
    // (B, K, D): as above, with z_updating = φ_o(z) and the keys of o
    void *h, *z, *z_updating, *o, *q, *keys, *pooled, *rho, *e;
    void* key_memory;  // (T, B, K, D): the keys of O before each step
    void *gz, *g, *l;  // (B, K, R)
};

// Warps side by side along the width where a block sums tokens.
inline constexpr int kFormationAcross = 2;

__host__ __device__ inline int64_t groups_of(int64_t K) { return (K + kGroup - 1) / kGroup; }
__device__ inline Group group_of(int64_t index, int64_t K) {
    const int64_t first = index % groups_of(K) * kGroup;
    return {index / groups_of(K), first, least(kGroup, K - first)};
}

// z = Σ_j a_kj x_j and φ_o(z), a column tile of a group of operations; a by s_kj = h_k · y_j + bias_j.
template <class T>
__device__ void formation_step(const Plan& p, int64_t step, int64_t item, const GroupShared& shared) {
    const Steps& s = p.s;
    const int64_t tiles = column_tiles<T>(s.D, kFormationAcross), tile = item % tiles;
    const Group group = group_of(item / tiles, s.K);
    const int64_t copy = s.per_step ? step : 0, row0 = group.b * s.K + group.first;
    const Rows<T> hidden = rows_of<T>(p.h, row0, s.D);
    const Rows<T> keys = rows_of<T>(s.language_keys, (copy * s.B + group.b) * s.L, s.D);
    const Rows<T> tokens = rows_of<T>(s.language, group.b * s.L, s.D);
    const T* bias = static_cast<const T*>(s.language_bias) + (copy * s.B + group.b) * s.L;
    const uint8_t* mask = s.language_mask == nullptr ? nullptr : s.language_mask + group.b * s.L;
    products<T, 1>(
        group.count, 0, s.L, s.D, shared.left, [&](int, int o, int64_t d, float (&x)[kRun<T>]) { hidden(o, d, x); },
        [&](int) { return keys; },
        [&](int o, int64_t j, float logit) {
            shared.rows[o * kSharedRow + j] = logit + to_float(bias[j]) + mask_bias(mask, j);
        });
    softmax_rows(group.count, s.L, shared.rows, kSharedRow);
    if (tile == 0) {
        float* attention = s.attention_language + (step * s.B * s.K + row0) * s.L;
        for (int64_t i = threadIdx.x; i < group.count * s.L; i += kStepThreads) {
            attention[i] = shared.rows[i / s.L * kSharedRow + i % s.L];
        }
    }
    weighted_sums<T>(
        group.count, s.L, s.D, tile, kFormationAcross, false, shared, tokens,
        [&](int o, int64_t j) { return shared.rows[o * kSharedRow + j]; },
        [&](int o, int64_t d, const float (&x)[kRun<T>]) {
            const int64_t at = (row0 + o) * s.D + d;
            store_run<T>(static_cast<T*>(p.z) + at, x);
            float y[kRun<T>];
#pragma unroll
            for (int i = 0; i < kRun<T>; ++i) y[i] = activate(x[i], s.operation);
            store_run<T>(static_cast<T*>(p.z_updating) + at, y);
        });
}

__host__ __device__ inline int window_columns(const Steps& s) { return static_cast<int>(s.K) * (1 + s.W); }
// Blocks of K columns in the window of a step.
__device__ inline int window_blocks(const Steps& s, int64_t step) { return 1 + least(s.W, step + 1); }

__device__ inline Mixture mixture_at(const Plan& p, int64_t step) {
    const Steps& s = p.s;
    const int columns = window_columns(s);
    return {s.attention_operations + step * s.B * s.K * columns, s.B, s.K, step, columns, window_blocks(s, step)};
}

// Row j of the window of sample b.
template <class T>
struct WindowRows {
    const States& states;
    const Mixture& m;
    int64_t b, D;

    __device__ uint4 load(int64_t j, int64_t d) const {
        return load_raw(state_at<T>(states, m, D, b, static_cast<int>(j / m.ops), j % m.ops) + d);
    }
    __device__ void open(int64_t, int64_t, const uint4& raw, float (&x)[kRun<T>]) const { unpack_run<T>(raw, x); }
};

// The attention of composition: a_kj = softmax_j(masked q_k · key_j), of a group of operations.
template <class T>
__device__ void compare_step(const Plan& p, int64_t step, int64_t item, const GroupShared& shared) {
    const Steps& s = p.s;
    const Group group = group_of(item, s.K);
    const Mixture m = mixture_at(p, step);
    const int64_t row0 = group.b * s.K + group.first, columns = m.blocks * s.K;
    const bool projected = s.Ko.weight != nullptr;
    const States keys{projected ? p.keys : p.o, projected ? p.key_memory : s.operations};
    const Rows<T> query = rows_of<T>(p.q, row0, s.D);
    products<T, 1>(
        group.count, 0, columns, s.D, shared.left, [&](int, int o, int64_t d, float (&x)[kRun<T>]) { query(o, d, x); },
        [&](int) { return WindowRows<T>{keys, m, group.b, s.D}; },
        [&](int o, int64_t j, float logit) {
            if (s.mask_self && j == group.first + o) logit += static_cast<float>(kMaskBias);
            shared.rows[o * kSharedRow + j] = logit;
        });
    softmax_rows(group.count, columns, shared.rows, kSharedRow);
    float* attention = s.attention_operations + (step * s.B * s.K + row0) * m.stride;
    for (int64_t i = threadIdx.x; i < static_cast<int64_t>(group.count) * m.stride; i += kStepThreads) {
        const int64_t j = i % m.stride;
        attention[i] = j < columns ? shared.rows[i / m.stride * kSharedRow + j] : 0.0f;
    }
}

// One work item. Barriers at its end: shared memory may be used again.
template <class T, int BN>
__device__ void step_item(const Plan& p, const Task& task, int64_t step, int64_t item, unsigned char* memory) {
    Arena arena(memory);
    if (task.kind == Kind::kLinear) {
        linear_item<T>(p.linear[task.linear], mixture_at(p, step), item, LinearScratch<T>(arena, window_columns(p.s)));
    } else if (task.kind == Kind::kLogits) {
        logits_item<T, BN>(p.pairs, p.s.logits, item, arena);
    } else {
        const GroupShared shared(arena);
        if (task.kind == Kind::kPool) {
            PoolArgs pool = p.pool;
            pool.attention += step * p.s.B * p.s.K * p.s.N;
            pool_item<T>(pool, item, shared);
        }
        if (task.kind == Kind::kFormation) formation_step<T>(p, step, item, shared);
        if (task.kind == Kind::kCompare) compare_step<T>(p, step, item, shared);
    }
    __syncthreads();
}

// The items of a slot, numbered through its tasks; `step` is that of the results.
template <class T, int BN>
__device__ void run_slot(const Plan& p, int slot, int64_t step, unsigned char* memory) {
    int64_t item = blockIdx.x;
    for (int i = p.begin[slot]; i < p.begin[slot + 1]; ++i) {
        const Task& task = p.task[i];
        const int64_t own = task.of_operations ? step + 1 : step;
        if (own < 0 || own >= p.s.T) continue;
        for (; item < task.items; item += gridDim.x) step_item<T, BN>(p, task, own, item, memory);
        item -= task.items;
    }
}

template <class T, int BN>
__device__ void run_steps(const Plan& p, unsigned char* memory) {
    for (int64_t step = -1; step < p.s.T; ++step) {
        for (int slot = 0; slot < kSlots; ++slot) {
            run_slot<T, BN>(p, slot, step, memory);
            if (slot + 1 < kSlots || step + 1 < p.s.T) grid_barrier(p.s.barrier);
        }
    }
}

}  // namespace iprm::cuda
