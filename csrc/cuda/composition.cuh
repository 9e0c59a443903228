// Operation composition: K operations attend over the C columns of a window of states. Column j = (i, k') is row k' of
// block i of the window; no state is copied. Each item is the work of one block.
//
//     s_kj = c · (m_kj ⊙ q_k ⊙ k_j),  a = softmax_j(masked s),  pooled_k = Σ_j m_kj a_kj (m_j ⊙ value_j)
#pragma once

#include "attend.cuh"

namespace iprm::cuda {

// The columns of sample b as rows, dropped where `draw` is active. Element (column, d) is number (first + column)·D + d
// of the mask.
template <class T>
struct Columns {
    const void* const* blocks;
    int64_t b, K, D, first;
    Draw draw;

    __device__ uint4 load(int64_t j, int64_t d) const {
        const unsigned block = static_cast<unsigned>(j) / static_cast<unsigned>(K);
        const T* states = static_cast<const T*>(blocks[block]);
        return load_raw(states + ((b * K + j - block * K) * D + d));
    }
    __device__ void open(int64_t j, int64_t d, const uint4& raw, float (&x)[kRun<T>]) const {
        unpack_run<T>(raw, x);
        drop_run(draw, first + j, d, x);
    }
    __device__ void operator()(int64_t j, int64_t d, float (&x)[kRun<T>]) const { open(j, d, load(j, d), x); }
};

__host__ __device__ inline int64_t columns_of(const Window& window) { return window.K * window.blocks; }

template <class T>
__device__ Columns<T> keys_of(const Window& window, int64_t b) {
    return {window.keys, b, window.K, window.D, 0, Draw{}};
}
// The same times the mask of `drop_mod` for operation k.
template <class T>
__device__ Columns<T> products_of(const Window& window, int64_t b, int64_t k) {
    const int64_t first = (b * window.K + k) * columns_of(window);
    return {window.keys, b, window.K, window.D, first, draw_of(window.product)};
}
template <class T>
__device__ Columns<T> operations_of(const Window& window, int64_t b) {
    return {window.operations, b, window.K, window.D, b * columns_of(window), draw_of(window.operation)};
}
template <class T>
__device__ Columns<T> results_of(const Window& window, int64_t b) {
    return {window.results, b, window.K, window.D, b * columns_of(window), draw_of(window.result)};
}

struct CompositionArgs {
    Window window;
    void *pooled_operations, *pooled_results;
    float* attention;
    Split split;
    int across;

    __host__ __device__ int64_t items() const { return split.items(window.B); }
};

// Parts must not share the rows of logits, which lie in the output where they are long; and they would all draw the
// masks of the logits.
template <class T>
inline CompositionArgs composition_args(const Window& window, void* pooled_operations, void* pooled_results,
                                        float* attention, int64_t processors) {
    const int64_t D = window.D;
    const int across = warps_across<T>(D);
    const bool one = columns_of(window) > kSharedRow || window.product.threshold != 0;
    const Split split = split_sample(window.B, window.K, one ? 1 : 2 * column_tiles<T>(D, across), processors);
    return {window, pooled_operations, pooled_results, attention, split, across};
}

// rows[o·stride + j] = Σ_d c_d m_kjd q_kd k_jd, one warp for each.
template <class T>
__device__ inline void dropped_logits(const Window& window, const Group& group, float* rows, int64_t stride) {
    const int64_t C = columns_of(window), D = window.D;
    const Rows<T> query = rows_of<T>(window.query, group.b * window.K + group.first, D);
    const Rows<T> gate = rows_of<T>(window.gate, 0, D);
    __syncthreads();
    for (int64_t pair = warp_index(); pair < group.count * C; pair += warp_count()) {
        const int o = static_cast<int>(pair / C);
        const int64_t j = pair % C;
        const Columns<T> keys = products_of<T>(window, group.b, group.first + o);
        float s = 0.0f;
        for (int64_t d = lane_index() * kRun<T>; d < D; d += kWarp * kRun<T>) {
            float x[kRun<T>], q[kRun<T>], c[kRun<T>];
            keys(j, d, x);
            query(o, d, q);
            gate(0, d, c);
#pragma unroll
            for (int i = 0; i < kRun<T>; ++i) s = fmaf(c[i] * q[i], x[i], s);
        }
        s = warp_sum(s);
        if (lane_index() == 0) rows[o * stride + j] = s;
    }
}

template <class T>
__device__ inline void plain_logits(const Window& window, const Group& group, float* left, float* rows,
                                    int64_t stride) {
    const Rows<T> query = rows_of<T>(window.query, group.b * window.K + group.first, window.D);
    const Rows<T> gate = rows_of<T>(window.gate, 0, window.D);
    products<T, 1>(
        group.count, 0, columns_of(window), window.D, left,
        [&](int, int o, int64_t d, float (&x)[kRun<T>]) {
            float c[kRun<T>];
            query(o, d, x);
            gate(0, d, c);
#pragma unroll
            for (int i = 0; i < kRun<T>; ++i) x[i] *= c[i];
        },
        [&](int) { return keys_of<T>(window, group.b); }, [&](int o, int64_t j, float s) { rows[o * stride + j] = s; });
}

// All of composition, for one group of operations and every parts-th column tile of the pooled states. Every part
// computes the logits.
template <class T>
__device__ void composition_item(const CompositionArgs& args, int64_t item, const GroupShared& shared) {
    const Window& window = args.window;
    const Group group = args.split.group(item, window.K);
    const int64_t part = args.split.part(item), C = columns_of(window), D = window.D;
    const int64_t first = group.b * window.K + group.first;
    float* attention = args.attention + first * C;
    const bool in_shared = C <= kSharedRow;
    float* rows = in_shared ? shared.rows : attention;
    const int64_t stride = in_shared ? kSharedRow : C;
    if (window.product.threshold != 0) {
        dropped_logits<T>(window, group, rows, stride);
    } else {
        plain_logits<T>(window, group, shared.left, rows, stride);
    }
    __syncthreads();
    if (window.mask_self && static_cast<int>(threadIdx.x) < group.count) {
        rows[threadIdx.x * stride + group.first + threadIdx.x] += static_cast<float>(kMaskBias);
    }
    softmax_rows(group.count, C, rows, stride);
    if (in_shared && part == 0) {
        for (int64_t i = threadIdx.x; i < group.count * C; i += blockDim.x) attention[i] = rows[i / C * stride + i % C];
    }
    const Draw draw = draw_of(window.attention);
    const auto weight = [&](int o, int64_t j) { return rows[o * stride + j] * multiplier(draw, (first + o) * C + j); };
    const int64_t tiles = column_tiles<T>(D, args.across);
    // Two loops in the code, each with its own states: a choice between arrays of the arguments would copy them.
    int64_t i = part;
    const auto pool_until = [&](int64_t end, const Columns<T>& values, void* pooled) {
        for (; i < end; i += args.split.parts) {
            weighted_sums<T>(
                group.count, C, D, i % tiles, args.across, i != part, shared, values, weight,
                [&](int o, int64_t d, const float (&x)[kRun<T>]) { store_row<T>(pooled, first + o, d, D, x); });
        }
    };
    pool_until(tiles, operations_of<T>(window, group.b), args.pooled_operations);
    pool_until(2 * tiles, results_of<T>(window, group.b), args.pooled_results);
}

// --- Backward of what belongs to the operations: ds and dq_k = c ⊙ Σ_j ds_kj (m_kj ⊙ k_j).

struct OperationsBackwardArgs {
    Window window;
    const void *grad_operations, *grad_results;
    const float *grad_attention, *attention;
    float* ds;
    void* d_query;
    Split split;  // one part
    int across;

    __host__ __device__ int64_t items() const { return split.items(window.B); }
};

// da_kj = m_kj (grad_o_k · (m_j ⊙ o_j) + grad_e_k · (m_j ⊙ e_j)) + grad_attention_kj, then ds.
template <class T>
__device__ inline void composition_d_logits(const OperationsBackwardArgs& args, const Group& group, float* left) {
    const Window& window = args.window;
    const int64_t C = columns_of(window), D = window.D, first = group.b * window.K + group.first;
    const Draw draw = draw_of(window.attention);
    products<T, 2>(
        group.count, 0, C, D, left,
        [&](int i, int o, int64_t d, float (&x)[kRun<T>]) {
            rows_of<T>(i == 0 ? args.grad_operations : args.grad_results, first, D)(o, d, x);
        },
        [&](int i) { return i == 0 ? operations_of<T>(window, group.b) : results_of<T>(window, group.b); },
        [&](int o, int64_t j, float product) {
            const int64_t cell = (first + o) * C + j;
            const float extra = args.grad_attention == nullptr ? 0.0f : args.grad_attention[cell];
            args.ds[cell] = product * multiplier(draw, cell) + extra;
        });
    slope_rows(group.count, C, args.attention + first * C, args.ds + first * C);
}

// dq of `count` operations from operation k on, whose keys are dropped alike.
template <class T>
__device__ inline void composition_d_query(const OperationsBackwardArgs& args, int64_t b, int64_t k, int count,
                                           const PoolShared& shared) {
    const Window& window = args.window;
    const int64_t C = columns_of(window), D = window.D, first = b * window.K + k;
    const Rows<T> gate = rows_of<T>(window.gate, 0, D);
    const int64_t tiles = column_tiles<T>(D, args.across);
    for (int64_t tile = 0; tile < tiles; ++tile) {
        weighted_sums<T>(
            count, C, D, tile, args.across, tile != 0, shared, products_of<T>(window, b, k),
            [&](int o, int64_t j) { return args.ds[(first + o) * C + j]; },
            [&](int o, int64_t d, float (&x)[kRun<T>]) {
                float c[kRun<T>];
                gate(0, d, c);
#pragma unroll
                for (int i = 0; i < kRun<T>; ++i) x[i] *= c[i];
                store_row<T>(args.d_query, first + o, d, D, x);
            });
    }
}

template <class T>
__device__ void operations_backward_item(const OperationsBackwardArgs& args, int64_t item,
                                         const PoolAndLeftShared& shared) {
    const Group group = args.split.group(item, args.window.K);
    composition_d_logits<T>(args, group, shared.left);
    const int alike = args.window.product.threshold != 0 ? 1 : group.count;
    for (int o = 0; o < group.count; o += alike) {
        composition_d_query<T>(args, group.b, group.first + o, alike, shared);
    }
}

// --- Backward of what belongs to the columns, summed over the operations: dk_j = c ⊙ e_j with e_j = Σ_k ds_kj (m_kj ⊙
// q_k), do_j = m_j ⊙ Σ_k m_kj a_kj grad_o_k, dē_j alike, and dc = Σ_j k_j ⊙ e_j.

struct ColumnsBackwardArgs {
    Window window;
    WindowGradients d;
    const void *grad_operations, *grad_results;
    const float *attention, *ds;
    float* d_gate_parts;
    int runs;  // side by side in a block, a power of two
    int64_t tiles;

    __host__ __device__ int64_t items() const { return window.B * tiles; }
};

struct RunSums {
    float* sums;  // a run for each thread

    __host__ __device__ explicit RunSums(Arena& arena) : sums(arena.take<float>(kGroupThreads * 8)) {}
};

template <class T>
__device__ void columns_backward_item(const ColumnsBackwardArgs& args, int64_t item, const RunSums& shared) {
    const Window& window = args.window;
    const int64_t K = window.K, C = columns_of(window), D = window.D, b = item / args.tiles;
    const int64_t d = (item % args.tiles * args.runs + static_cast<int64_t>(threadIdx.x) % args.runs) * kRun<T>;
    const Rows<T> query = rows_of<T>(window.query, b * K, D);
    const Rows<T> grad_o = rows_of<T>(args.grad_operations, b * K, D);
    const Rows<T> grad_e = rows_of<T>(args.grad_results, b * K, D);
    const Draw product = draw_of(window.product), attention = draw_of(window.attention);
    float d_gate[kRun<T>] = {};
    if (d < D) {
        for (int64_t j = static_cast<int>(threadIdx.x) / args.runs; j < C; j += kGroupThreads / args.runs) {
            float d_key[kRun<T>] = {}, d_o[kRun<T>] = {}, d_e[kRun<T>] = {}, x[kRun<T>];
            for (int64_t k = 0; k < K; ++k) {
                const int64_t cell = (b * K + k) * C + j;
                const float ds = args.ds[cell], a = args.attention[cell] * multiplier(attention, cell);
                query(k, d, x);
                drop_run(product, cell, d, x);
#pragma unroll
                for (int i = 0; i < kRun<T>; ++i) d_key[i] = fmaf(ds, x[i], d_key[i]);
                grad_o(k, d, x);
#pragma unroll
                for (int i = 0; i < kRun<T>; ++i) d_o[i] = fmaf(a, x[i], d_o[i]);
                grad_e(k, d, x);
#pragma unroll
                for (int i = 0; i < kRun<T>; ++i) d_e[i] = fmaf(a, x[i], d_e[i]);
            }
            keys_of<T>(window, b)(j, d, x);
#pragma unroll
            for (int i = 0; i < kRun<T>; ++i) d_gate[i] = fmaf(x[i], d_key[i], d_gate[i]);
            rows_of<T>(window.gate, 0, D)(0, d, x);
#pragma unroll
            for (int i = 0; i < kRun<T>; ++i) d_key[i] *= x[i];
            drop_run(draw_of(window.operation), b * C + j, d, d_o);
            drop_run(draw_of(window.result), b * C + j, d, d_e);
            const unsigned block = static_cast<unsigned>(j) / static_cast<unsigned>(K);
            const int64_t at = b * K + j - block * K;
            store_row<T>(args.d.keys[block], at, d, D, d_key);
            store_row<T>(args.d.operations[block], at, d, D, d_o);
            store_row<T>(args.d.results[block], at, d, D, d_e);
        }
    }
    sum_slices<T>(args.d_gate_parts + b * D, D, d, args.runs, shared.sums, d_gate);
}

}  // namespace iprm::cuda
