// Execution = "full": the logits of a tile of BN pairs (pairs.cuh), wherever a sample or an operation ends in it, and
// their gradients. Nothing of the pairs' size is stored in the forward:
//
//     x = g ⊙ v,  hidden = φ(x C1aᵀ + u)                       product 1, into a second resident tile
//     h = hidden C2ᵀ + c2,  s = w · drop(φ(h ⊙ l))              product 2; h lives in registers
//
// The backward computes both again and goes on, in the same two tiles:
//
//     dπ = ds w ⊙ mask ⊙ φ'(h ⊙ l),  dh = dπ ⊙ l               in the end of product 2, over x
//     d_pre = dh C2 ⊙ φ'(pre)                                   product 3, over hidden
//     dx = d_pre C1a                                            product 4, over dh
//
// and writes for each pair what the gradients are sums of. x, hidden, dh, d_pre are rounded to the inputs' dtype, as
// the operands of the next product.
#pragma once

#include "draw.cuh"
#include "hints.cuh"
#include "pairs.cuh"
#include "product.cuh"
#include "token_sums.cuh"

namespace iprm::cuda {

// A tile's shared memory, forward and backward.
template <class T, int BN>
struct PairTile {
    using Shape = TileShape<T, BN>;

    __host__ __device__ PairTile(Arena& arena, int R)
        : operation(arena.take<int64_t>(BN)),
          token(arena.take<int64_t>(BN)),
          sums(arena.take<float>(Shape::kColumnWarps * BN)),
          x(arena.take<T>(BN * Shape::stride(R))),
          hidden(arena.take<T>(BN * Shape::stride(R))),
          ring(arena.take<T>(Shape::kStages * Shape::kSlab)) {
#if defined(__CUDA_ARCH__)
        assume_shared(operation), assume_shared(token), assume_shared(sums);
        assume_shared(x), assume_shared(hidden), assume_shared(ring);
#endif
    }

    int64_t *operation, *token;  // where the rows begin that a pair reads
    float* sums;                 // forward: each warp's part of the logits; backward: ds
    T *x, *hidden;               // the two tiles
    T* ring;                     // of weights
};

__host__ __device__ constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// One tile at work: the pairs from `first` on. Rows beyond the last pair compute it again and are not stored.
template <class T, int BN>
struct PairWork {
    using Shape = TileShape<T, BN>;

    const Pairs& pairs;
    PairTile<T, BN> tile;
    int64_t first;
    int count, R, stride;  // rows that exist; widths

    __device__ PairWork(const Pairs& pairs, int64_t index, Arena& arena)
        : pairs(pairs),
          tile(arena, static_cast<int>(pairs.R)),
          first(index * BN),
          count(static_cast<int>(smaller(BN, pairs.B * pairs.K * pairs.N - first))),
          R(static_cast<int>(pairs.R)),
          stride(Shape::stride(R)) {}

    __device__ bool exists(int row) const { return row < count; }
    // The rows of the tile, in a tensor of pairs; row `row` of it, in one of operations or tokens.
    template <class E>
    __device__ E* of_pairs(E* data) const {
        return data + first * R;
    }
    __device__ const T* of_operation(const void* data, int row) const {
        return static_cast<const T*>(data) + tile.operation[row];
    }
    __device__ const T* of_token(const void* data, int row) const {
        return static_cast<const T*>(data) + tile.token[row];
    }

    __device__ void find_rows() const {
        for (int row = static_cast<int>(threadIdx.x); row < BN; row += kTileThreads) {
            const PairRows rows = locate(first + (exists(row) ? row : count - 1), pairs.K, pairs.N);
            tile.operation[row] = rows.operation * R, tile.token[row] = rows.token * R;
        }
    }

    // f(row, c) for the runs of a tile's first `columns` columns: a warp has every kWarps-th row.
    template <class F>
    __device__ void for_runs(int columns, F&& f) const {
        const int thread = recomputed_thread();
        for (int c = thread % kWarp * kRun<T>; c < columns; c += kWarp * kRun<T>) {
#pragma unroll 1
            for (int row = thread / kWarp; row < BN; row += Shape::kWarps) f(row, c);
        }
    }

    // Begins to copy BN rows into a tile; the columns beyond R become zero.
    template <class RowOf>
    __device__ void copy_rows(T* target, RowOf&& row_of) const {
        for_runs(Shape::width(R), [&](int row, int c) {
            const T* source = row_of(row);
            copy_async(target + row * stride + c, c < R ? source + c : source, c < R ? 16 : 0);
        });
    }

    // x = g ⊙ v, also to the tile's rows of a tensor of pairs, unless null. The loads of two rows are under way at
    // once.
    __device__ void scale(T* scaled) const {
        for (int c = lane_index() * kRun<T>; c < Shape::width(R); c += kWarp * kRun<T>) {
#pragma unroll 1
            for (int begin = warp_index(); begin < BN; begin += 2 * Shape::kWarps) {
                float v[2][kRun<T>] = {}, g[2][kRun<T>] = {};
                if (c < R) {
#pragma unroll
                    for (int j = 0; j < 2; ++j) {
                        const int row = begin + j * Shape::kWarps;
                        load_run(of_token(pairs.v, row) + c, v[j]);
                        load_run(of_operation(pairs.g, row) + c, g[j]);
                    }
                }
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    const int row = begin + j * Shape::kWarps;
#pragma unroll
                    for (int i = 0; i < kRun<T>; ++i) v[j][i] *= g[j][i];
                    store_run(tile.x + row * stride + c, v[j]);
                    if (scaled != nullptr && c < R && exists(row)) store_run(scaled + row * R + c, v[j]);
                }
            }
        }
    }

    // A tile to its rows of a tensor of pairs.
    __device__ void store_rows(T* target, const T* source) const {
        for_runs(R, [&](int row, int c) {
            if (!exists(row)) return;
            *reinterpret_cast<uint4*>(target + row * R + c) = load_raw(source + row * stride + c);
        });
    }
};

// End of product 1, over the copy of u: hidden = φ(pre), pre = x C1aᵀ + u. The backward keeps pre.
template <class T, int BN, bool kKeep>
struct HiddenEnd {
    const PairWork<T, BN>& work;
    T* pre;

    __device__ void prepare(int) {}
    __device__ void operator()(const Place& at, float (&x)[TileShape<T, BN>::kRows][4]) {
        using Shape = TileShape<T, BN>;
        T* u = work.tile.hidden + at.row * work.stride + at.c;
#pragma unroll
        for (int i = 0; i < Shape::kRows; ++i) {
            float add[4];
            unpack_quad<T>(load_quad(u + Shape::row(i) * work.stride), add);
#pragma unroll
            for (int j = 0; j < 4; ++j) x[i][j] += add[j];
            if constexpr (kKeep) {
                const int row = at.row + Shape::row(i);
                if (work.exists(row)) store_quad<T>(pre + row * work.R, at.c, work.R, x[i]);
            }
        }
        activate_all(x, work.pairs.activation);
#pragma unroll
        for (int i = 0; i < Shape::kRows; ++i) store_quad(u + Shape::row(i) * work.stride, pack_quad<T>(x[i]));
    }
};

// What the end of product 2 reads of c2, w and l. The smallest tiles, which may be alone on their multiprocessor, begin
// before the product; of l they fetch one row a thread, mostly that of its other rows too.
template <class T, int BN>
struct GateInputs {
    using Shape = TileShape<T, BN>;
    static constexpr bool kAhead = BN == 16 && Shape::kQuads == 1;
    const PairWork<T, BN>& work;
    Quad<T> bias, weight, l;

    __device__ explicit GateInputs(const PairWork<T, BN>& work) : work(work) {}

    __device__ void prepare(int start) {
        if constexpr (!kAhead) return;
        const int thread = static_cast<int>(threadIdx.x);
        load(Shape::first_row(thread), start + Shape::template column<true>(thread, 0, 0));
    }
    __device__ void begin(const Place& at) {
        if constexpr (!kAhead) load(at.row, at.c);
    }
    // l of row i.
    __device__ void row(int i, const Place& at, float (&x)[4]) const {
        unpack_quad<T>(i == 0 ? l : load_row(at.row + Shape::row(i), at.c), x);
    }

  private:
    __device__ void load(int row, int c) {
        bias = load_quad(static_cast<const T*>(work.pairs.c2_bias), c, work.R);
        weight = load_quad(static_cast<const T*>(work.pairs.w), c, work.R);
        l = load_row(row, c);
    }
    __device__ Quad<T> load_row(int row, int c) const {
        return load_quad(work.of_operation(work.pairs.l, row), c, work.R);
    }
};

// End of product 2, forward: sum += w · drop(φ(h ⊙ l)).
template <class T, int BN>
struct LogitEnd {
    using Shape = TileShape<T, BN>;
    const PairWork<T, BN>& work;
    GateInputs<T, BN> inputs;
    float sum[Shape::kRows] = {};

    __device__ explicit LogitEnd(const PairWork<T, BN>& work) : work(work), inputs(work) {}

    __device__ void prepare(int start) { inputs.prepare(start); }
    __device__ void operator()(const Place& at, float (&x)[Shape::kRows][4]) {
        inputs.begin(at);
        const Draw draw = draw_of(work.pairs.product);  // anew: the keys of all rounds would stay in registers
        float bias[4];
        unpack_quad<T>(inputs.bias, bias);
#pragma unroll
        for (int i = 0; i < Shape::kRows; ++i) {
            float l[4];
            inputs.row(i, at, l);
#pragma unroll
            for (int j = 0; j < 4; ++j) x[i][j] = (x[i][j] + bias[j]) * l[j];
        }
        activate_all(x, work.pairs.activation);
        float w[4];
        unpack_quad<T>(inputs.weight, w);
#pragma unroll
        for (int i = 0; i < Shape::kRows; ++i) {
            drop_run(draw, work.first + at.row + Shape::row(i), at.c, x[i]);
#pragma unroll
            for (int j = 0; j < 4; ++j) sum[i] += x[i][j] * w[j];
        }
    }

    // The logits: lanes that share a row, then the warps beside each other, in their order.
    __device__ void store(float* s) {
        const int thread = static_cast<int>(threadIdx.x), first = Shape::first_row(thread);
#pragma unroll
        for (int i = 0; i < Shape::kRows; ++i) {
            const float total = warp_reduce<Sum, Shape::kRowLanes>(sum[i]);
            if (lane_index() % Shape::kRowLanes == 0) {
                work.tile.sums[Shape::column_warp(thread) * BN + first + Shape::row(i)] = total;
            }
        }
        __syncthreads();
        for (int row = static_cast<int>(threadIdx.x); row < BN; row += kTileThreads) {
            float total = 0.0f;
#pragma unroll
            for (int warp = 0; warp < Shape::kColumnWarps; ++warp) total += work.tile.sums[warp * BN + row];
            if (work.exists(row)) s[work.first + row] = total;
        }
    }
};

// s of tile `index`. All threads of a block of kTileThreads.
template <class T, int BN>
__device__ void logits_item(const Pairs& pairs, float* s, int64_t index, Arena& arena) {
    const PairWork<T, BN> work(pairs, index, arena);
    const PairTile<T, BN>& tile = work.tile;
    __syncthreads();  // the arena may hold another tile, still read
    WeightStream<T, BN, 2> stream(tile.ring, static_cast<const T*>(pairs.c1a), static_cast<const T*>(pairs.c2), work.R);
    stream.start();
    work.find_rows();
    __syncthreads();
    work.copy_rows(tile.hidden, [&](int row) { return work.of_token(pairs.u, row); });
    work.scale(nullptr);
    HiddenEnd<T, BN, false> hidden{work, nullptr};
    tile_product<true, T, BN>(tile.x, work.R, stream, hidden);
    LogitEnd<T, BN> logit(work);
    tile_product<true, T, BN>(tile.hidden, work.R, stream, logit);
    logit.store(s);
}

// End of product 2, backward: dh over x, d_l = dπ ⊙ h to memory, and this tile's parts (one for each row of warps) of
// dw = Σ ds mask ⊙ φ(h ⊙ l) and dc2 = Σ dh.
template <class T, int BN>
struct GateEnd {
    using Shape = TileShape<T, BN>;
    const PairWork<T, BN>& work;
    const int64_t begin;  // number of these samples' first pair
    const PairGradients& out;
    GateInputs<T, BN> inputs;

    __device__ GateEnd(const PairWork<T, BN>& work, int64_t begin, const PairGradients& out)
        : work(work), begin(begin), out(out), inputs(work) {}

    __device__ void prepare(int start) { inputs.prepare(start); }
    __device__ void operator()(const Place& at, const float (&x)[Shape::kRows][4]) {
        inputs.begin(at);
        const Draw draw = draw_of(work.pairs.product);
        float bias[4], w[4], total_w[4] = {}, total_c2[4] = {};
        unpack_quad<T>(inputs.bias, bias);
        unpack_quad<T>(inputs.weight, w);
#pragma unroll 1
        for (int i = 0; i < Shape::kRows; ++i) {  // unrolled, its addresses alone would fill the registers
            const int row = at.row + Shape::row(i);
            float h[4], l[4], y[4], slopes[4], ds[4], dh[4];
            select_row(x, i, h);
            inputs.row(i, at, l);
#pragma unroll
            for (int j = 0; j < 4; ++j) h[j] += bias[j], y[j] = h[j] * l[j], ds[j] = work.tile.sums[row];
            activate_with_slopes(y, slopes, work.pairs.activation);
            drop_run(draw, begin + work.first + row, at.c, ds);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const float gated = ds[j] * w[j] * slopes[j];
                dh[j] = gated * l[j];
                total_w[j] += ds[j] * y[j];
                total_c2[j] += dh[j];
                y[j] = gated * h[j];
            }
            store_quad(work.tile.x + row * work.stride + at.c, pack_quad<T>(dh));
            if (work.exists(row)) {
                store_quad<T>(work.of_pairs(static_cast<T*>(out.d_l)) + row * work.R, at.c, work.R, y);
            }
        }
        store_sums(at, total_w, out.sum_w);
        store_sums(at, total_c2, out.sum_c2);
    }

    // Over the lanes that have the same columns, in the order of the rows.
    __device__ void store_sums(const Place& at, float (&total)[4], float* sums) const {
        if constexpr (Shape::kMatrix) {
#pragma unroll
            for (int distance = 4; distance < kWarp; distance *= 2) {
#pragma unroll
                for (int j = 0; j < 4; ++j) total[j] += __shfl_xor_sync(kAllLanes, total[j], distance);
            }
            if (lane_index() >= 4) return;
        }
        const int64_t part = work.first / BN * Shape::kRowWarps + at.row / (BN / Shape::kRowWarps);
        store_quad<float>(sums + part * work.R, at.c, work.R, total);
    }
};

// End of product 3, over the copy of pre: d_pre = x ⊙ φ'(pre).
template <class T, int BN>
struct SlopeEnd {
    const PairWork<T, BN>& work;

    __device__ void prepare(int) {}
    __device__ void operator()(const Place& at, float (&x)[TileShape<T, BN>::kRows][4]) {
        using Shape = TileShape<T, BN>;
        float pre[Shape::kRows][4];
#pragma unroll
        for (int i = 0; i < Shape::kRows; ++i) {
            const T* row = work.tile.hidden + (at.row + Shape::row(i)) * work.stride;
            load_pair(row + at.c, pre[i][0], pre[i][1]);
            load_pair(row + at.d, pre[i][2], pre[i][3]);
        }
        slope_all(pre, work.pairs.activation);
#pragma unroll
        for (int i = 0; i < Shape::kRows; ++i) {
            T* row = work.tile.hidden + (at.row + Shape::row(i)) * work.stride;
            store_pair(row + at.c, x[i][0] * pre[i][0], x[i][1] * pre[i][1]);
            store_pair(row + at.d, x[i][2] * pre[i][2], x[i][3] * pre[i][3]);
        }
    }
};

// End of product 4: dx over dh.
template <class T, int BN>
struct StoreEnd {
    const PairWork<T, BN>& work;

    __device__ void prepare(int) {}
    __device__ void operator()(const Place& at, float (&x)[TileShape<T, BN>::kRows][4]) {
        using Shape = TileShape<T, BN>;
#pragma unroll
        for (int i = 0; i < Shape::kRows; ++i) {
            T* row = work.tile.x + (at.row + Shape::row(i)) * work.stride;
            store_pair(row + at.c, x[i][0], x[i][1]);
            store_pair(row + at.d, x[i][2], x[i][3]);
        }
    }
};

// The gradients' summands of tile `index`. Between two products the tile that the first has written goes to memory.
template <class T, int BN>
__device__ void gradients_item(const Pairs& pairs, const float* ds, int64_t begin, const PairGradients& out,
                               int64_t index, Arena& arena) {
    const PairWork<T, BN> work(pairs, index, arena);
    const PairTile<T, BN>& tile = work.tile;
    WeightStream<T, BN, 4> stream(tile.ring, static_cast<const T*>(pairs.c1a), static_cast<const T*>(pairs.c2), work.R);
    stream.start();
    work.find_rows();
    for (int row = static_cast<int>(threadIdx.x); row < BN; row += kTileThreads) {
        tile.sums[row] = work.exists(row) ? ds[work.first + row] : 0.0f;
    }
    __syncthreads();
    work.copy_rows(tile.hidden, [&](int row) { return work.of_token(pairs.u, row); });
    work.scale(work.of_pairs(static_cast<T*>(out.scaled)));
    T* d_pre = work.of_pairs(static_cast<T*>(out.d_pre));  // holds pre until product 3
    HiddenEnd<T, BN, true> hidden{work, d_pre};
    tile_product<true, T, BN>(tile.x, work.R, stream, hidden);
    __syncthreads();
    work.store_rows(work.of_pairs(static_cast<T*>(out.hidden)), tile.hidden);

    GateEnd<T, BN> gate(work, begin, out);
    tile_product<true, T, BN>(tile.hidden, work.R, stream, gate);
    __syncthreads();
    work.store_rows(work.of_pairs(static_cast<T*>(out.d_h)), tile.x);

    work.copy_rows(tile.hidden, [&](int row) { return d_pre + (work.exists(row) ? row : 0) * work.R; });
    SlopeEnd<T, BN> slope{work};
    tile_product<false, T, BN>(tile.x, work.R, stream, slope);
    __syncthreads();
    work.store_rows(d_pre, tile.hidden);

    StoreEnd<T, BN> store{work};
    tile_product<false, T, BN>(tile.hidden, work.R, stream, store);
    __syncthreads();
    work.store_rows(work.of_pairs(static_cast<T*>(out.d_x)), tile.x);
}

// Block (b, tile of tokens), columns from `start` on: dv = Σ_k g ⊙ dx, du = Σ_k d_pre and the tile's part of
// dg = Σ_n v ⊙ dx and dl = Σ_n d_l.
template <class T>
__device__ void reduce_item(const Pairs& pairs, const PairGradients& in, T* dv, T* du, float* sum_g, float* sum_l,
                            int64_t item, int64_t start, Arena& arena) {
    constexpr int kCount = kRun<T>;
    const TokenSums<kCount, 2> sums(arena);
    const TokenTile tile(item, pairs.N);
    const int64_t b = tile.b, n = tile.n;
    const int64_t R = pairs.R, c = start + lane_index() * kCount;
    const T *g = static_cast<const T*>(pairs.g), *v = static_cast<const T*>(pairs.v);
    const T *d_x = static_cast<const T*>(in.d_x), *d_pre = static_cast<const T*>(in.d_pre);
    const T* d_l = static_cast<const T*>(in.d_l);
    float tokens[kThreadTokens][kCount] = {}, total_v[kThreadTokens][kCount] = {}, total_u[kThreadTokens][kCount] = {};
    if (c < R) {
#pragma unroll
        for (int j = 0; j < kThreadTokens; ++j) {
            if (n + j < pairs.N) load_run(v + (b * pairs.N + n + j) * R + c, tokens[j]);
        }
    }
    for (int64_t k = 0; k < pairs.K; ++k) {
        const int64_t operation = b * pairs.K + k;
        float total_g[kCount] = {}, total_l[kCount] = {};
        if (c < R) {
            float gate[kCount];
            load_run(g + operation * R + c, gate);
#pragma unroll
            for (int j = 0; j < kThreadTokens; ++j) {
                if (n + j >= pairs.N) continue;
                const int64_t at = (operation * pairs.N + n + j) * R + c;
                float x[kCount], pre[kCount], l[kCount];
                load_run(d_x + at, x);
                load_run(d_pre + at, pre);
                load_run(d_l + at, l);
#pragma unroll
                for (int i = 0; i < kCount; ++i) {
                    total_v[j][i] += gate[i] * x[i];
                    total_u[j][i] += pre[i];
                    total_g[i] += tokens[j][i] * x[i];
                    total_l[i] += l[i];
                }
            }
        }
        const int round = static_cast<int>(k % 2);
        sums.put(round, 0, total_g);
        sums.put(round, 1, total_l);
        __syncthreads();
        const int64_t part = (item * pairs.K + k) * R + start;
        sums.store(round, R - start, [&](int which) { return (which == 0 ? sum_g : sum_l) + part; });
    }
    if (c >= R) return;
#pragma unroll
    for (int j = 0; j < kThreadTokens; ++j) {
        if (n + j >= pairs.N) continue;
        store_run(dv + (b * pairs.N + n + j) * R + c, total_v[j]);
        store_run(du + (b * pairs.N + n + j) * R + c, total_u[j]);
    }
}

}  // namespace iprm::cuda
