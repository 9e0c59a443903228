// Products of a tile of rows, resident in shared memory, with (R, R) weights, which stream past it.
//
// All blocks read the same weights, so these come from the second-level cache, in slabs of kColumns columns by kDepth
// of the contraction, through a ring of kStages slabs filled by cp.async. The stream runs through the products that a
// tile takes: while the end of one is computed, the weights of the next are under way.
//
// 16-bit types multiply by mma with float sums; float32 by fused multiply-adds, exact in the sense that no operand is
// rounded. A thread gets its part of a product as quads: four columns of each of its rows.
#pragma once

#include "element.cuh"
#include "hints.cuh"
#include "reduce.cuh"

namespace iprm::cuda {

inline constexpr int kTileThreads = 256;

__host__ __device__ constexpr int larger(int a, int b) { return a > b ? a : b; }

// The geometry of a tile of BN rows.
template <class T, int BN>
struct TileShape {
    static constexpr bool kMatrix = sizeof(T) == 2;  // multiplied by matrix instructions
    static constexpr int kWarps = kTileThreads / kWarp;
    static constexpr int kColumns = 128;

    // Small tiles are bound by the weights' latency and take deep slabs, four in the ring; large ones leave room for a
    // second block beside them. In float32 two tiles of width 1024 leave 30 KB.
    static constexpr int kDepth = (kMatrix && BN < 64 ? 128 : 64) / static_cast<int>(sizeof(T));
    static constexpr int kStages = kMatrix ? 4 : 3;

    // Rows of 16 bytes more than a multiple of 64: eight of them, read at once, meet eight different banks.
    static constexpr int kPad = kRun<T>;
    static constexpr int kSlab = larger(kColumns * (kDepth + kPad), kDepth*(kColumns + kPad));

    // Warps are kRowWarps x kColumnWarps; a lane has kRows rows and kQuads quads of each.
    static constexpr int kRowWarps = !kMatrix ? kWarps : BN >= 64 ? 2 : 1;
    static constexpr int kColumnWarps = kWarps / kRowWarps;
    static constexpr int kRowLanes = kMatrix ? 4 : kWarp;  // neighbouring lanes that share their rows
    static constexpr int kRows = BN / kRowWarps / (kMatrix ? 8 : 1);
    static constexpr int kWarpColumns = kColumns / kColumnWarps;
    static constexpr int kQuads = kWarpColumns / 4 / kRowLanes;

    // Columns of a tile in shared memory: whole slabs, zero beyond R.
    __host__ __device__ static int width(int R) { return (R + kDepth - 1) / kDepth * kDepth; }
    __host__ __device__ static int stride(int R) { return width(R) + kPad; }

    __device__ static int row_warp(int thread) { return thread / kWarp / kColumnWarps; }
    __device__ static int column_warp(int thread) { return thread / kWarp % kColumnWarps; }
    // A thread's rows: the first, and how far row i lies from it.
    __device__ static int first_row(int thread) {
        return kMatrix ? row_warp(thread) * (BN / kRowWarps) + thread % kWarp / 4 : thread / kWarp * kRows;
    }
    __host__ __device__ static constexpr int row(int i) { return kMatrix ? i / 2 * 16 + i % 2 * 8 : i; }
    // The first (pair = 0) or third (pair = 1) column of a quad; each pair has two neighbours. In A Wᵀ the columns of a
    // quad are neighbours too: `position` sees to that. In A W, where a slab's row is one of W, they cannot be.
    template <bool kTransposed>
    __device__ static int column(int thread, int quad, int pair) {
        if constexpr (!kMatrix) return 4 * (thread % kWarp) + 2 * pair;
        const int begin = column_warp(thread) * kWarpColumns + 16 * quad, lane = thread % 4;
        return begin + (kTransposed ? 4 * lane + 2 * pair : 2 * lane + 8 * pair);
    }
    // Where a slab of A Wᵀ has column c: in the order in which a thread's fragments come, by mma (16 columns: two
    // fragments of 8, two neighbours a lane) or by neighbouring lanes reading neighbouring rows.
    __host__ __device__ static constexpr int position(int c) {
        return !kMatrix ? c % 4 * kWarp + c / 4 : c / 16 * 16 + c / 2 % 2 * 8 + c / 4 % 4 * 2 + c % 2;
    }
};

// Where a thread's quads lie: row `row` + Shape::row(i) of the tile for each i, columns c, c + 1, d, d + 1.
struct Place {
    int row, c, d;
};

// The slabs of kProducts products with C1a and C2, one after the other: A C1aᵀ, A C2ᵀ and, in the backward, A C2, A
// C1a.
template <class T, int BN, int kProducts>
class WeightStream {
    using Shape = TileShape<T, BN>;

  public:
    // A ring of kStages slabs.
    __device__ WeightStream(T* ring, const T* c1a, const T* c2, int R) : ring_(ring), c1a_(c1a), c2_(c2), R_(R) {}

    // The ring must be free.
    __device__ void start() {
        for (int i = 0; i < Shape::kStages - 1; ++i) issue();
    }

    // The next slab, valid until the next call. All threads call; what they did before is then visible to all. Copies
    // that a thread has begun and not committed go with the slab that is issued here, kStages - 1 calls ahead.
    __device__ const T* next() {
        copy_wait<Shape::kStages - 2>();
        __syncthreads();
        issue();
        const T* slab = ring_ + read_ * Shape::kSlab;
        read_ = read_ + 1 < Shape::kStages ? read_ + 1 : 0;
        return slab;
    }

    // Waits for all copies of all threads.
    __device__ void settle() {
        copy_wait<0>();
        __syncthreads();
    }

  private:
    __device__ void issue() {
        if (product_ < kProducts) {
            const T* weight = product_ == 0 || product_ == 3 ? c1a_ : c2_;
            T* slab = ring_ + write_ * Shape::kSlab;
            if (kProducts == 2 || product_ < 2) {
                fetch<true>(slab, weight);
            } else {
                fetch<false>(slab, weight);
            }
            write_ = write_ + 1 < Shape::kStages ? write_ + 1 : 0;
            advance();
        }
        copy_commit();  // also where nothing is left, so that the count of groups holds
    }

    __device__ void advance() {
        if ((k_ += Shape::kDepth) < R_) return;
        k_ = 0;
        if ((column_ += Shape::kColumns) < R_) return;
        column_ = 0;
        ++product_;
    }

    // The slab at (column_, k_): rows of columns for A Wᵀ, rows of the contraction for A W. Zero outside of W. A thread
    // copies every kStep-th row of one run of columns.
    template <bool kTransposed>
    __device__ void fetch(T* slab, const T* weight) const {
        constexpr int kRows = kTransposed ? Shape::kColumns : Shape::kDepth;
        constexpr int kColumns = kTransposed ? Shape::kDepth : Shape::kColumns;
        constexpr int kRuns = kColumns / kRun<T>, kStep = kTileThreads / kRuns, kStride = kColumns + Shape::kPad;
        static_assert(kRows % kStep == 0, "whole rounds");
        const int thread = kProducts == 2 ? static_cast<int>(threadIdx.x) : recomputed_thread();
        const int begin = thread / kRuns, run = thread % kRuns * kRun<T>;
        const int row = (kTransposed ? column_ : k_) + begin, column = (kTransposed ? k_ : column_) + run;
        T* target = slab + (kTransposed ? Shape::position(begin) : begin) * kStride + run;
        constexpr int kAdvance = (kTransposed ? Shape::position(kStep) : kStep) * kStride;
        const int rows = column < R_ ? R_ - row : 0;
        const T* source = rows > 0 ? weight + row * R_ + column : weight;
#pragma unroll
        for (int i = 0; i < kRows / kStep; ++i) {
            const bool inside = i * kStep < rows;
            copy_async(target + i * kAdvance, inside ? source + i * kStep * R_ : weight, inside ? 16 : 0);
        }
    }

    T* ring_;
    const T *c1a_, *c2_;
    int R_;
    int product_ = 0, column_ = 0, k_ = 0;  // of the slab to issue next
    int write_ = 0, read_ = 0;              // stages
};

// A thread's sums: of each quad its two pairs of columns, of these rows two by two, as mma has them.
template <class T, int BN>
struct Sums {
    using Shape = TileShape<T, BN>;
    float d[Shape::kQuads][2][Shape::kRows / 2][4] = {};

    __device__ void quad(int q, float (&x)[Shape::kRows][4]) const {
#pragma unroll
        for (int i = 0; i < Shape::kRows; ++i) {
#pragma unroll
            for (int j = 0; j < 4; ++j) x[i][j] = d[q][j / 2][i / 2][i % 2 * 2 + j % 2];
        }
    }
};

// Row i of x, for a loop that is not unrolled. By selection: an index would put x in local memory.
template <int Rows>
__device__ inline void select_row(const float (&x)[Rows][4], int i, float (&row)[4]) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        row[j] = x[0][j];
#pragma unroll
        for (int other = 1; other < Rows; ++other) row[j] = i == other ? x[other][j] : row[j];
    }
}

// sums += A W over one slab, by mma. `a` is the tile at the slab's first k.
template <bool kTransposed, class T, int BN>
__device__ void accumulate_matrices(const T* a, int stride, const T* slab, Sums<T, BN>& sums) {
    using Shape = TileShape<T, BN>;
    const int thread = recomputed_thread(), lane = thread % kWarp;
    const int begin = Shape::column_warp(thread) * Shape::kWarpColumns;
    a += (Shape::row_warp(thread) * (BN / Shape::kRowWarps) + lane % 16) * stride + lane / 16 * 8;
    if constexpr (kTransposed) {
        slab += (begin + lane % 8 + lane / 16 * 8) * (Shape::kDepth + Shape::kPad) + lane / 8 % 2 * 8;
    } else {
        slab += lane % 16 * (Shape::kColumns + Shape::kPad) + begin + lane / 16 * 8;
    }
#pragma unroll
    for (int k = 0; k < Shape::kDepth; k += 16) {
        uint32_t rows[Shape::kRows / 2][4];
#pragma unroll
        for (int m = 0; m < Shape::kRows / 2; ++m) load_matrices(rows[m], a + m * 16 * stride + k);
#pragma unroll
        for (int q = 0; q < Shape::kQuads; ++q) {
            uint32_t w[4];
            if constexpr (kTransposed) {
                load_matrices(w, slab + q * 16 * (Shape::kDepth + Shape::kPad) + k);
            } else {
                load_matrices_transposed(w, slab + k * (Shape::kColumns + Shape::kPad) + q * 16);
            }
            const uint32_t columns[2][2] = {{w[0], w[1]}, {w[2], w[3]}};
#pragma unroll
            for (int pair = 0; pair < 2; ++pair) {
#pragma unroll
                for (int m = 0; m < Shape::kRows / 2; ++m) {
                    multiply_add<T>(sums.d[q][pair][m], rows[m], columns[pair]);
                }
            }
        }
    }
}

__device__ inline void load_four(const float* p, float (&x)[4]) {
    const float4 raw = *reinterpret_cast<const float4*>(p);
    x[0] = raw.x, x[1] = raw.y, x[2] = raw.z, x[3] = raw.w;
}

// The same in float32. A warp's lanes share the rows, whose elements are broadcast. A slab's terms are summed on their
// own and then added: chains of kDepth and R / kDepth terms round less than one of R.
template <bool kTransposed, int BN>
__device__ void accumulate_floats(const float* a, int stride, const float* slab, Sums<float, BN>& sums) {
    using Shape = TileShape<float, BN>;
    const int lane = lane_index();
    a += Shape::first_row(static_cast<int>(threadIdx.x)) * stride;
    float part[Shape::kRows][4] = {};
#pragma unroll 2
    for (int k = 0; k < Shape::kDepth; k += 4) {
        float w[4][4];  // by k and column, or by column and k
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if constexpr (kTransposed) {
                load_four(slab + (i * kWarp + lane) * (Shape::kDepth + Shape::kPad) + k, w[i]);
            } else {
                load_four(slab + (k + i) * (Shape::kColumns + Shape::kPad) + 4 * lane, w[i]);
            }
        }
#pragma unroll
        for (int i = 0; i < Shape::kRows; ++i) {
            float x[4];
            load_four(a + i * stride + k, x);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
#pragma unroll
                for (int n = 0; n < 4; ++n) part[i][j] = fmaf(x[n], kTransposed ? w[j][n] : w[n][j], part[i][j]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < Shape::kRows; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sums.d[0][j / 2][i / 2][i % 2 * 2 + j % 2] += part[i][j];
    }
}

// A Wᵀ (kTransposed) or A W, of the next R·R weights of the stream. `a` (BN rows of Shape::stride(R)) is zero beyond R.
// For every kColumns columns the epilogue gets prepare(start), before the product, to begin its loads, and then
// (place, x) for each quad; with matrix instructions, whole warps come or stay away. Tiles whose copies were begun
// before the call have arrived then.
template <bool kTransposed, class T, int BN, class Stream, class Epilogue>
__device__ void tile_product(const T* a, int R, Stream& stream, Epilogue& epilogue) {
    using Shape = TileShape<T, BN>;
    const int stride = Shape::stride(R), width = Shape::width(R);
    for (int start = 0; start < R; start += Shape::kColumns) {
        epilogue.prepare(start);
        Sums<T, BN> sums;
        for (int k = 0; k < R; k += Shape::kDepth) {
            const T* slab = stream.next();
            if constexpr (Shape::kMatrix) {
                if (start + Shape::column_warp(static_cast<int>(threadIdx.x)) * Shape::kWarpColumns >= R) continue;
                accumulate_matrices<kTransposed>(a + k, stride, slab, sums);
            } else {
                accumulate_floats<kTransposed>(a + k, stride, slab, sums);
            }
        }
        // Until so many slabs have passed, a copy that was begun before the first of them may be under way.
        if (start == 0 && width < Shape::kStages * Shape::kDepth) stream.settle();
#pragma unroll
        for (int q = 0; q < Shape::kQuads; ++q) {
            const int thread = recomputed_thread();
            const Place place{Shape::first_row(thread), start + Shape::template column<kTransposed>(thread, q, 0),
                              start + Shape::template column<kTransposed>(thread, q, 1)};
            if (place.c >= width) continue;  // a multiple of 32: alike in a warp of matrix instructions
            float x[Shape::kRows][4];
            sums.quad(q, x);
            epilogue(place, x);
        }
    }
}

}  // namespace iprm::cuda
