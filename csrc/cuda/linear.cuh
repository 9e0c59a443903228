// Linear maps of few rows, the projections of a step: y = φ(Σ_pieces x Wᵀ + b + add) ⊙ gate.
//
// With B·K rows, from one to some hundred, the weights are the traffic, and latency the cost: a work item is a block of
// kLinearRows x kLinearColumns outputs, so that a map of 512 columns is 32 items. Its eight warps share the inner
// dimension, and their sums are added in a fixed order. x and W come in chunks of 1 KB of a row, the next while one is
// multiplied.
#pragma once

#include "activation.cuh"
#include "element.cuh"
#include "reduce.cuh"

namespace iprm::cuda {

inline constexpr int kLinearThreads = 256, kLinearWarps = kLinearThreads / kWarp;
inline constexpr int kLinearRows = 32, kLinearColumns = 16;
inline constexpr int kRunsOfChunk = 64;
inline constexpr int kSumsOfLane = kLinearRows * kLinearColumns / kWarp;

template <class T>
inline constexpr int kChunk = kRunsOfChunk * kRun<T>;
// 16 bytes more than a chunk: the rows that a warp reads at once lie in different banks.
template <class T>
inline constexpr int kChunkStride = kChunk<T> + kRun<T>;
// What one step of the product consumes of the inner dimension.
template <class T>
inline constexpr int kLinearDepth = sizeof(T) == 4 ? 4 : 16;

// The states that columns of the window refer to: `current` (B, K, D), then memory (T + 1, B, K, D) at step, step
// - 1...
struct States {
    const void *current, *memory;
};

// One piece of the joined input and the columns of the weight that belong to it.
struct Piece {
    const void* x;    // (rows, width), or null: Σ_j a_kj (state in column j) of `mixed`
    int64_t advance;  // elements from one step's x to the next
    States mixed;
    const void* weight;  // (columns, width)
    int64_t stride;      // of its rows
    const void* bias;    // (columns) or null
    int width;
};

struct Linear {
    int pieces;
    Piece piece[2];
    bool mixed;              // a piece is
    const void *add, *gate;  // (rows, columns) or null, (columns) or null
    void* out;               // (rows, columns)
    int64_t out_advance;
    int64_t rows;
    int columns;
    Activation activation;
};

inline int64_t linear_items(const Linear& p) {
    return (p.rows + kLinearRows - 1) / kLinearRows * ((p.columns + kLinearColumns - 1) / kLinearColumns);
}

// The attention of composition at this step, of which Σ_j a_kj is taken.
struct Mixture {
    const float* attention;  // (B, K, stride), the first `blocks`·K columns in use
    int64_t batch, ops, step;
    int stride, blocks;
};

template <class T>
struct LinearScratch {
    static_assert(kLinearWarps * kLinearColumns * sizeof(float) <= 2 * kChunkStride<T> * sizeof(T),
                  "room for `partial`");

    T *rows, *weights;  // two stages each
    float* partial;     // the warps' sums, over the rows
    float* mix;         // the attention of the block's rows

    __host__ __device__ LinearScratch(Arena& arena, int window_columns)
        : rows(arena.take<T>(2 * kLinearRows * kChunkStride<T>)),
          weights(arena.take<T>(2 * kLinearColumns * kChunkStride<T>)),
          partial(reinterpret_cast<float*>(rows)),
          mix(arena.take<float>(static_cast<size_t>(kLinearRows) * window_columns)) {}
};

__device__ inline int least(int64_t a, int64_t b) { return static_cast<int>(a < b ? a : b); }
__host__ __device__ inline int rounded_up(int n, int unit) { return (n + unit - 1) / unit * unit; }

// `rows` rows of `count` elements to shared memory, zero beyond them up to `all_rows` and up to the depth of a product.
template <class T>
__device__ void stage_rows(T* shared, const T* global, int64_t stride, int rows, int all_rows, int count) {
    const int depth = rounded_up(count, kLinearDepth<T>);
    for (int i = threadIdx.x; i < all_rows * kRunsOfChunk; i += kLinearThreads) {
        const int row = i / kRunsOfChunk, column = i % kRunsOfChunk * kRun<T>;
        if (column >= depth) continue;
        const bool inside = row < rows && column < count;
        copy_async(shared + row * kChunkStride<T> + column, inside ? global + row * stride + column : global,
                   inside ? 16 : 0);
    }
}

// The state in column (block, op) of the window of sample b.
template <class T>
__device__ const T* state_at(const States& states, const Mixture& m, int64_t width, int64_t b, int block, int64_t op) {
    const int64_t row = b * m.ops + op;
    if (block == 0) return static_cast<const T*>(states.current) + row * width;
    return static_cast<const T*>(states.memory) + ((m.step + 1 - block) * m.batch * m.ops + row) * width;
}

// Rows `first`.. of Σ_j a_kj (state in column j), columns `column0`.. of it, to shared memory.
template <class T>
__device__ void stage_mixed(T* shared, const Piece& p, const Mixture& m, const float* mix, int64_t first, int column0,
                            int rows, int all_rows, int count) {
    const int depth = rounded_up(count, kLinearDepth<T>);
    for (int i = threadIdx.x; i < all_rows * kRunsOfChunk; i += kLinearThreads) {
        const int row = i / kRunsOfChunk, column = i % kRunsOfChunk * kRun<T>;
        if (column >= depth) continue;
        float sum[kRun<T>] = {};
        if (row < rows && column < count) {
            const int64_t b = (first + row) / m.ops;
            const float* a = mix + row * m.stride;
            for (int block = 0; block < m.blocks; ++block) {
                const T* state = state_at<T>(p.mixed, m, p.width, b, block, 0) + column0 + column;
#pragma unroll 6
                for (int op = 0; op < m.ops; ++op) {
                    float x[kRun<T>];
                    load_run<T>(state + op * static_cast<int64_t>(p.width), x);
                    const float weight = a[block * m.ops + op];
#pragma unroll
                    for (int e = 0; e < kRun<T>; ++e) sum[e] = fmaf(weight, x[e], sum[e]);
                }
            }
        }
        store_run(shared + row * kChunkStride<T> + column, sum);
    }
}

// This warp's part of x Wᵀ over a chunk: sum[i / 4][i % 4] is output `output_of(i)`.
template <class T>
__device__ void multiply_chunk(const T* rows, const T* weights, int row_count, int depth,
                               float (&sum)[kSumsOfLane / 4][4]) {
    const int lane = lane_index();
    if constexpr (sizeof(T) == 4) {
        const T* w = weights + lane % kLinearColumns * kChunkStride<T>;
        const T* x = rows + lane / kLinearColumns * kChunkStride<T>;
        for (int k = warp_index() * 4; k < depth; k += kLinearWarps * 4) {
            const float4 b = *reinterpret_cast<const float4*>(w + k);
#pragma unroll
            for (int group = 0; group < 4; ++group) {
                if (group * 8 >= row_count) continue;
#pragma unroll
                for (int i = group * 4; i < group * 4 + 4; ++i) {
                    const float4 a = *reinterpret_cast<const float4*>(x + 2 * i * kChunkStride<T> + k);
                    float& y = sum[i / 4][i % 4];
                    y = fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, y))));
                }
            }
        }
    } else {
        const T* w = weights + (lane / 16 * 8 + lane % 8) * kChunkStride<T> + lane / 8 % 2 * 8;
        const T* x = rows + lane % 16 * kChunkStride<T> + lane / 16 * 8;
        for (int k = warp_index() * 16; k < depth; k += kLinearWarps * 16) {
            uint32_t b[4];
            load_matrices(b, w + k);
            const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
#pragma unroll
            for (int m = 0; m < kLinearRows / 16; ++m) {
                if (m * 16 >= row_count) continue;
                uint32_t a[4];
                load_matrices(a, x + m * 16 * kChunkStride<T> + k);
                multiply_add<T>(sum[2 * m], a, left);
                multiply_add<T>(sum[2 * m + 1], a, right);
            }
        }
    }
}

// Where output i of this lane lies in the (kLinearRows, kLinearColumns) block.
template <class T>
__device__ inline int output_of(int i) {
    const int lane = lane_index();
    if constexpr (sizeof(T) == 4) return (2 * i + lane / kLinearColumns) * kLinearColumns + lane % kLinearColumns;
    const int row = i / 8 * 16 + i / 2 % 2 * 8 + lane / 4, column = i / 4 % 2 * 8 + lane % 4 * 2 + i % 2;
    return row * kLinearColumns + column;
}

// A chunk of the joined input: which piece, from which of its columns, how many.
struct Chunk {
    int piece, first, count;
};
template <class T>
__device__ inline int chunk_count(const Linear& p) {
    int count = 0;
    for (int i = 0; i < p.pieces; ++i) count += (p.piece[i].width + kChunk<T> - 1) / kChunk<T>;
    return count;
}
template <class T>
__device__ inline Chunk chunk_at(const Linear& p, int index) {
    const int of_first = (p.piece[0].width + kChunk<T> - 1) / kChunk<T>;
    const int piece = index < of_first ? 0 : 1, first = (index - piece * of_first) * kChunk<T>;
    return {piece, first, min(kChunk<T>, p.piece[piece].width - first)};
}

template <class T>
__device__ void stage_chunk(const Linear& p, const Mixture& m, const Chunk& c, int64_t row0, int column0, int rows,
                            const LinearScratch<T>& s, int stage) {
    const Piece& piece = p.piece[c.piece];
    T* x = s.rows + stage * kLinearRows * kChunkStride<T>;
    T* w = s.weights + stage * kLinearColumns * kChunkStride<T>;
    const T* weight = static_cast<const T*>(piece.weight) + column0 * piece.stride + c.first;
    stage_rows<T>(w, weight, piece.stride, least(kLinearColumns, p.columns - column0), kLinearColumns, c.count);
    const int all_rows = rounded_up(rows, sizeof(T) == 4 ? 8 : 16);
    if (piece.x == nullptr) {
        stage_mixed<T>(x, piece, m, s.mix, row0, c.first, rows, all_rows, c.count);
    } else {
        const T* from = static_cast<const T*>(piece.x) + m.step * piece.advance + row0 * piece.width + c.first;
        stage_rows<T>(x, from, piece.width, rows, all_rows, c.count);
    }
    copy_commit();
}

// The rest of an output whose products are summed.
template <class T>
__device__ void finish_output(const Linear& p, int64_t step, int64_t row, int column, float y) {
    for (int i = 0; i < p.pieces; ++i) {
        if (p.piece[i].bias != nullptr) y += to_float(static_cast<const T*>(p.piece[i].bias)[column]);
    }
    const int64_t at = row * p.columns + column;
    if (p.add != nullptr) y += to_float(static_cast<const T*>(p.add)[at]);
    y = activate(y, p.activation);
    if (p.gate != nullptr) y *= to_float(static_cast<const T*>(p.gate)[column]);
    static_cast<T*>(p.out)[step * p.out_advance + at] = from_float<T>(y);
}

template <class T>
__device__ void linear_item(const Linear& p, const Mixture& m, int64_t item, const LinearScratch<T>& s) {
    const int blocks = (p.columns + kLinearColumns - 1) / kLinearColumns;
    const int64_t row0 = item / blocks * kLinearRows;
    const int column0 = static_cast<int>(item % blocks) * kLinearColumns;
    const int rows = least(kLinearRows, p.rows - row0), chunks = chunk_count<T>(p);
    if (p.mixed) {
        for (int i = threadIdx.x; i < rows * m.stride; i += kLinearThreads) s.mix[i] = m.attention[row0 * m.stride + i];
        __syncthreads();
    }

    float sum[kSumsOfLane / 4][4] = {};
    stage_chunk<T>(p, m, chunk_at<T>(p, 0), row0, column0, rows, s, 0);
    for (int c = 0; c < chunks; ++c) {
        if (c + 1 < chunks) {
            stage_chunk<T>(p, m, chunk_at<T>(p, c + 1), row0, column0, rows, s, (c + 1) % 2);
            copy_wait<1>();
        } else {
            copy_wait<0>();
        }
        __syncthreads();
        const int stage = c % 2, depth = rounded_up(chunk_at<T>(p, c).count, kLinearDepth<T>);
        multiply_chunk<T>(s.rows + stage * kLinearRows * kChunkStride<T>,
                          s.weights + stage * kLinearColumns * kChunkStride<T>, rows, depth, sum);
        __syncthreads();
    }

    constexpr int kOutputs = kLinearRows * kLinearColumns;
#pragma unroll
    for (int i = 0; i < kSumsOfLane; ++i) s.partial[warp_index() * kOutputs + output_of<T>(i)] = sum[i / 4][i % 4];
    __syncthreads();
    for (int i = threadIdx.x; i < rows * kLinearColumns; i += kLinearThreads) {
        const int column = column0 + i % kLinearColumns;
        if (column >= p.columns) continue;
        float y = 0.0f;
#pragma unroll
        for (int warp = 0; warp < kLinearWarps; ++warp) y += s.partial[warp * kOutputs + i];
        finish_output<T>(p, m.step, row0 + i / kLinearColumns, column, y);
    }
    __syncthreads();
}

}  // namespace iprm::cuda
