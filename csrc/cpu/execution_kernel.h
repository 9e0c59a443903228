// Operation execution, the logits: h = C2 act(C1a (g * v) + u) + c2, s = w . drop(act(h * l)).
//
// Per (sample, tile of tokens, operation) both products run on tiles that stay in the cache; biases,
// activations, gates and the dot with w are epilogues of the products. The backward makes the tile again, or has what
// the forward kept of it.
#pragma once

#include "amx.h"
#include "bfloat16.h"
#include "dropout_kernel.h"
#include "math.h"
#include "product.h"

namespace iprm::cpu {
namespace {

// One tile of tokens of one sample. Rows are rounded up to whole blocks; the added rows hold zeros in
// `scaled` and are never written to a tensor.
struct Tile {
    template <template <typename> typename Args, typename T>
    Tile(const Args<T>& sizes, int64_t task)
        : sample(task / sizes.tiling.tiles),
          start(task % sizes.tiling.tiles * sizes.tiling.height),
          count(smaller(sizes.tiling.height, sizes.tiling.tokens - start)),
          rows(TileMatrix<T>::rows_for(count)) {}

    int64_t sample, start, count, rows;

    // A row that exists, to read from in place of an added one.
    int64_t existing(int64_t row) const { return smaller(row, count - 1); }
};

template <typename T>
struct TileScratch {
    TileScratch(const ExecutionArgs<T>& args, bool backward)
        : height(round_up(args.tiling.height, TileMatrix<T>::kRowUnit)),
          scaled(height, args.width),
          hidden(height, args.width),
          sums(height * kLanes<T>),
          multipliers(args.product.active() ? multiplier_capacity(height * args.rank + args.width) : 0),
          grad_hidden(backward ? height : 0, args.width),
          grad_pre(backward ? height : 0, args.width),
          transposed(backward ? height : 0, args.rank, args.width),
          grad_logits(backward ? height : 0) {}

    int64_t height;
    TileMatrix<T> scaled;       // A = g * v
    TileMatrix<T> hidden;       // H = act(A C1a^T + u)
    Buffer<T> sums;             // one vector of partial sums of the logit per row
    Buffer<T> multipliers;      // product dropout
    TileMatrix<T> grad_hidden;  // the gradient of A C1a^T + u, and before it is known act' of the hidden tile
    TileMatrix<T> grad_pre;     // P, the gradient of H C2^T + c2
    TransposedScratch<T> transposed;
    Buffer<T> grad_logits;
};

template <typename T>
void scale_tile(const ExecutionArgs<T>& args, const Tile& tile, const T* g, TileScratch<T>& s) {
    const T* v = args.v + (tile.sample * args.tiling.tokens + tile.start) * args.width;
    for (int64_t r = 0; r < tile.rows; ++r) {
        for (int64_t c = 0; c < args.width; c += kTilePanel<T>) {
            Vec<T> row[kTileVectors] = {};
            if (r < tile.count) {
#pragma GCC unroll 16
                for (int j = 0; j < kTileVectors; ++j) {
                    const int64_t d = c + j * kLanes<T>;
                    row[j] = load(v + r * args.width + d) * load(g + d);
                }
            }
            s.scaled.put(r, c, row);
        }
    }
}

// Where the pairs of a tile's first row and an operation lie; null where they are not kept.
template <typename T>
T* tile_pairs(T* pairs, const ExecutionArgs<T>& args, const Tile& tile, int64_t k) {
    if (pairs == nullptr) return nullptr;
    const int64_t row = tile.sample * args.operations + k;
    return pairs + (row * args.tiling.tokens + tile.start) * args.pairs.stride;
}

// Calls epilogue(first row, first column, block) as panel_product does, with numbers that were kept.
template <typename T, typename Epilogue>
IPRM_INLINE void kept_product(const ExecutionArgs<T>& args, const Tile& tile, const T* kept, Epilogue&& epilogue) {
    for_blocks<T>(tile.rows, args.width, [&](int64_t r, int64_t c, auto rows) IPRM_LAMBDA {
        constexpr int kBlock = decltype(rows)::value;
        Vec<T> block[kBlock][kTileVectors];
        each_of<kBlock>([&](int i, int j) IPRM_LAMBDA {
            block[i][j] = load(kept + tile.existing(r + i) * args.pairs.stride + c + j * kLanes<T>);
        });
        epilogue(r, c, block);
    });
}

// acc + u, what precedes the activation of H.
template <typename T, typename Block>
IPRM_INLINE void add_u(const ExecutionArgs<T>& args, const Tile& tile, int64_t r, int64_t c, Block& acc) {
    const T* u = args.u + (tile.sample * args.tiling.tokens + tile.start) * args.width + c;
    each_of<kHeight<Block>>(
        [&](int i, int j) IPRM_LAMBDA { acc[i][j] += load(u + tile.existing(r + i) * args.width + j * kLanes<T>); });
}

// H; what precedes the activation is kept where there is a place for it.
template <typename Act, typename T>
void hidden_tile(const ExecutionArgs<T>& args, const Tile& tile, T* kept, TileScratch<T>& s) {
    panel_product(tile.rows, args.rank, s.scaled, args.c1a_t, args.width,
                  [&](int64_t r, int64_t c, auto& acc) IPRM_LAMBDA {
                      add_u(args, tile, r, c, acc);
#pragma GCC unroll 16
                      for (int i = 0; i < kHeight<decltype(acc)>; ++i) {
#pragma GCC unroll 16
                          for (int j = 0; j < kTileVectors; ++j) {
                              if (kept != nullptr && r + i < tile.count) {
                                  store(kept + (r + i) * args.pairs.stride + c + j * kLanes<T>, acc[i][j]);
                              }
                              acc[i][j] = Act::value(acc[i][j]);
                          }
                          s.hidden.put(r + i, c, acc[i]);
                      }
                  });
}

// The logits of the tile's rows.
template <typename Act, typename T>
void logit_tile(const ExecutionArgs<T>& args, const Tile& tile, const T* l, const T* multipliers, T* kept,
                TileScratch<T>& s, T* logits) {
    T* sums = s.sums.get();
    panel_product(tile.rows, args.rank, s.hidden, args.c2_t, args.width,
                  [&](int64_t r, int64_t c, auto& acc) IPRM_LAMBDA {
#pragma GCC unroll 16
                      for (int i = 0; i < kHeight<decltype(acc)>; ++i) {
                          Vec<T> sum = c > 0 ? load(sums + (r + i) * kLanes<T>) : Vec<T>{};
#pragma GCC unroll 16
                          for (int j = 0; j < kTileVectors; ++j) {
                              const int64_t d = c + j * kLanes<T>;
                              const Vec<T> pre = acc[i][j] + load(args.c2_bias + d);
                              if (kept != nullptr && r + i < tile.count) {
                                  store(kept + (r + i) * args.pairs.stride + d, pre);
                              }
                              Vec<T> y = Act::value(pre * load(l + d));
                              if (multipliers != nullptr) y *= load(multipliers + (r + i) * args.rank + d);
                              sum += y * load(args.w + d);
                          }
                          store(sums + (r + i) * kLanes<T>, sum);
                      }
                  });
    for (int64_t r = 0; r < tile.count; ++r) logits[r] = horizontal_sum(load(sums + r * kLanes<T>));
}

// The product-dropout multipliers of a tile, rows of `rank` numbers; null without dropout.
template <typename Args, typename T>
const T* tile_multipliers(const Args& args, const Tile& tile, int64_t k, T* buffer) {
    if (!args.product.active()) return nullptr;
    const int64_t row = (tile.sample * args.operations + k) * args.tiling.tokens + tile.start;
    return draw_multipliers(args.product, row * args.rank, tile.count * args.rank, buffer);
}

template <typename Act, typename T>
void execution_range(const ExecutionArgs<T>& args, int64_t first, int64_t last) {
    const MatrixUnit<T> unit;
    TileScratch<T> scratch(args, false);
    for (int64_t i = first; i < last; ++i) {
        const Tile tile(args, i / args.operations);
        const int64_t k = i % args.operations, row = tile.sample * args.operations + k;
        scale_tile(args, tile, args.g + row * args.width, scratch);
        hidden_tile<Act>(args, tile, tile_pairs(args.pairs.hidden, args, tile, k), scratch);
        const T* multipliers = tile_multipliers(args, tile, k, scratch.multipliers.get());
        logit_tile<Act>(args, tile, args.l + row * args.width, multipliers, tile_pairs(args.pairs.gated, args, tile, k),
                        scratch, args.logits + row * args.tiling.tokens + tile.start);
    }
}

// Where the gradients of one (task, operation) go.
template <typename T>
struct TileGradients {
    T *v, *u;         // rows of the tile
    T *g, *l;         // this task's and operation's
    T *c2_bias, *w;   // this task's
    T *c1a, *c2;      // the slot's; each may be null
    bool accumulate;  // to the slot's, which are not the first
};

// P, the gradient of `pre` = H C2^T + c2, in its place, and the gradients of l, c2 and w; all of one block.
template <typename Act, typename T, typename Block>
IPRM_INLINE void gate_backward(const ExecutionArgs<T>& args, int64_t r, int64_t c, Block& pre, const T* l,
                               const T* multipliers, TileScratch<T>& s, const TileGradients<T>& out) {
    const T* grad_logits = s.grad_logits.get();
#pragma GCC unroll 16
    for (int j = 0; j < kTileVectors; ++j) {
        const int64_t d = c + j * kLanes<T>;
        const Vec<T> lv = load(l + d), wv = load(args.w + d);
        Vec<T> dl = {}, db = {}, dw = {};  // of the block first: fewer roundings in a long sum
#pragma GCC unroll 16
        for (int i = 0; i < kHeight<Block>; ++i) {
            const auto y = Act::value_and_slope(pre[i][j] * lv);
            Vec<T> grad = splat<Vec<T>>(grad_logits[r + i]);
            if (multipliers != nullptr) grad *= load(multipliers + (r + i) * args.rank + d);
            dw += grad * y.value;
            const Vec<T> gated = grad * wv * y.slope;
            dl += gated * pre[i][j];
            pre[i][j] = gated * lv;
            db += pre[i][j];
        }
        store(out.l + d, load(out.l + d) + dl);
        store(out.c2_bias + d, load(out.c2_bias + d) + db);
        store(out.w + d, load(out.w + d) + dw);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kHeight<Block>; ++i) s.grad_pre.put(r + i, c, pre[i]);
}

// H and its slopes of one block, from what precedes the activation.
template <typename Act, typename T, typename Block>
IPRM_INLINE void hidden_and_slopes(int64_t r, int64_t c, Block& pre, TileScratch<T>& s) {
#pragma GCC unroll 16
    for (int i = 0; i < kHeight<Block>; ++i) {
        Vec<T> slope[kTileVectors];
#pragma GCC unroll 16
        for (int j = 0; j < kTileVectors; ++j) {
            const auto y = Act::value_and_slope(pre[i][j]);
            pre[i][j] = y.value;
            slope[j] = y.slope;
        }
        s.hidden.put(r + i, c, pre[i]);
        s.grad_hidden.keep(r + i, c, slope);
    }
}

// H, its slopes and P: by the two products of the forward.
template <typename Act, typename T>
void pairs_again(const ExecutionArgs<T>& args, const Tile& tile, const T* l, const T* multipliers, TileScratch<T>& s,
                 const TileGradients<T>& out) {
    panel_product(tile.rows, args.rank, s.scaled, args.c1a_t, args.width,
                  [&](int64_t r, int64_t c, auto& acc) IPRM_LAMBDA {
                      add_u(args, tile, r, c, acc);
                      hidden_and_slopes<Act>(r, c, acc, s);
                  });
    panel_product(tile.rows, args.rank, s.hidden, args.c2_t, args.width,
                  [&](int64_t r, int64_t c, auto& acc) IPRM_LAMBDA {
#pragma GCC unroll 16
                      for (int j = 0; j < kTileVectors; ++j) {
                          const Vec<T> bias = load(args.c2_bias + c + j * kLanes<T>);
#pragma GCC unroll 16
                          for (int i = 0; i < kHeight<decltype(acc)>; ++i) acc[i][j] += bias;
                      }
                      gate_backward<Act>(args, r, c, acc, l, multipliers, s, out);
                  });
}

// The same, from what the forward kept.
template <typename Act, typename T>
void pairs_kept(const ExecutionArgs<T>& args, const Tile& tile, int64_t k, const T* l, const T* multipliers,
                TileScratch<T>& s, const TileGradients<T>& out) {
    kept_product(args, tile, tile_pairs(args.pairs.hidden, args, tile, k),
                 [&](int64_t r, int64_t c, auto& pre) IPRM_LAMBDA { hidden_and_slopes<Act>(r, c, pre, s); });
    kept_product(args, tile, tile_pairs(args.pairs.gated, args, tile, k),
                 [&](int64_t r, int64_t c, auto& pre)
                     IPRM_LAMBDA { gate_backward<Act>(args, r, c, pre, l, multipliers, s, out); });
}

// The gradient of A C1a^T + u, in place of the slopes, and du.
template <typename T>
IPRM_NOINLINE void hidden_backward(const ExecutionBackwardArgs<T>& args, const Tile& tile, TileScratch<T>& s,
                                   const TileGradients<T>& out) {
    const int64_t width = args.forward.width;
    panel_product(tile.rows, args.forward.rank, s.grad_pre, args.c2, width,
                  [&](int64_t r, int64_t c, auto& acc) IPRM_LAMBDA {
#pragma GCC unroll 16
                      for (int i = 0; i < kHeight<decltype(acc)>; ++i) {
                          const bool exists = r + i < tile.count;
#pragma GCC unroll 16
                          for (int j = 0; j < kTileVectors; ++j) {
                              acc[i][j] *= s.grad_hidden.kept(r + i, c, j);
                              T* du = out.u + (r + i) * width + c + j * kLanes<T>;
                              if (exists) store(du, load(du) + acc[i][j]);
                          }
                          s.grad_hidden.put(r + i, c, acc[i]);
                      }
                  });
}

// dg and dv.
template <typename T>
IPRM_NOINLINE void scaled_backward(const ExecutionBackwardArgs<T>& args, const Tile& tile, const T* g,
                                   TileScratch<T>& s, const TileGradients<T>& out) {
    const int64_t width = args.forward.width;
    const T* v = args.forward.v + (tile.sample * args.forward.tiling.tokens + tile.start) * width;
    panel_product(tile.rows, args.forward.rank, s.grad_hidden, args.c1a, width,
                  [&](int64_t r, int64_t c, auto& acc) IPRM_LAMBDA {
#pragma GCC unroll 16
                      for (int j = 0; j < kTileVectors; ++j) {
                          const int64_t d = c + j * kLanes<T>;
                          const Vec<T> gv = load(g + d);
                          Vec<T> dg = {};
#pragma GCC unroll 16
                          for (int i = 0; i < kHeight<decltype(acc)>; ++i) {
                              if (r + i >= tile.count) break;
                              const int64_t at = (r + i) * width + d;
                              dg += acc[i][j] * load(v + at);
                              store(out.v + at, load(out.v + at) + acc[i][j] * gv);
                          }
                          store(out.g + d, load(out.g + d) + dg);
                      }
                  });
}

// A weight's gradient, out = or += x^T y; null where it is not asked for.
template <typename T>
IPRM_NOINLINE void weight_backward(const ExecutionArgs<T>& args, const Tile& tile, const TileMatrix<T>& x,
                                   const TileMatrix<T>& y, TileScratch<T>& s, T* out, bool accumulate) {
    if (out == nullptr) return;
    transposed_product(tile.count, x, args.rank, y, args.width, s.transposed,
                       [&](int64_t r, int64_t c, auto& acc) IPRM_LAMBDA {
                           store_block<kHeight<decltype(acc)>>(acc, out + r * args.width + c, args.width, accumulate);
                       });
}

template <typename Act, typename T>
void tile_backward(const ExecutionBackwardArgs<T>& args, const Tile& tile, int64_t k, TileScratch<T>& s,
                   const TileGradients<T>& out) {
    const ExecutionArgs<T>& f = args.forward;
    const int64_t row = tile.sample * f.operations + k;
    const T* g = f.g + row * f.width;
    const T* grad_logits = args.grad_logits + row * f.tiling.tokens + tile.start;
    for (int64_t r = 0; r < tile.rows; ++r) s.grad_logits.get()[r] = r < tile.count ? grad_logits[r] : T(0);

    scale_tile(f, tile, g, s);
    const T* multipliers = tile_multipliers(f, tile, k, s.multipliers.get());
    const T* l = f.l + row * f.width;
    if (f.pairs.hidden == nullptr) {
        pairs_again<Act>(f, tile, l, multipliers, s, out);
    } else {
        pairs_kept<Act>(f, tile, k, l, multipliers, s, out);
    }
    weight_backward(f, tile, s.grad_pre, s.hidden, s, out.c2, out.accumulate);
    hidden_backward(args, tile, s, out);
    weight_backward(f, tile, s.grad_hidden, s.scaled, s, out.c1a, out.accumulate);
    scaled_backward(args, tile, g, s, out);
}

template <typename T>
void set_zero(T* p, int64_t count) {
    std::memset(p, 0, static_cast<size_t>(count) * sizeof(T));
}

template <typename T>
T* slot_of(T* sums, int64_t slot, int64_t size) {
    return sums == nullptr ? nullptr : sums + slot * size;
}

template <typename Act, typename T>
void execution_backward_slot(const ExecutionBackwardArgs<T>& args, int64_t slot, TileScratch<T>& scratch) {
    const ExecutionArgs<T>& f = args.forward;
    const int64_t first = args.tasks * slot / args.slots, last = args.tasks * (slot + 1) / args.slots;
    TileGradients<T> out;
    out.c1a = slot_of(args.grad_c1a, slot, args.slot_size);
    out.c2 = slot_of(args.grad_c2, slot, args.slot_size);
    out.accumulate = false;
    for (int64_t task = first; task < last; ++task) {
        const int64_t tile_index = task / args.groups, group = task % args.groups;
        const Tile tile(f, tile_index);
        const int64_t row = group * args.group_size + (tile.sample * f.tiling.tokens + tile.start) * f.width;
        out.v = args.grad_v + row;
        out.u = args.grad_u + row;
        out.c2_bias = args.grad_c2_bias + task * f.width;
        out.w = args.grad_w + task * f.width;
        set_zero(out.v, tile.count * f.width);
        set_zero(out.u, tile.count * f.width);
        set_zero(out.c2_bias, f.width);
        set_zero(out.w, f.width);
        for (int64_t k = f.operations * group / args.groups; k < f.operations * (group + 1) / args.groups; ++k) {
            out.g = args.grad_g + (tile_index * f.operations + k) * f.width;
            out.l = args.grad_l + (tile_index * f.operations + k) * f.width;
            set_zero(out.g, f.width);
            set_zero(out.l, f.width);
            tile_backward<Act>(args, tile, k, scratch, out);
            out.accumulate = true;
        }
    }
}

template <typename T>
void execution(const ExecutionArgs<T>& args, int64_t first, int64_t last) {
    with_activation(args.activation, [&](auto act) { execution_range<decltype(act)>(args, first, last); });
}

template <typename T>
void execution_backward(const ExecutionBackwardArgs<T>& args, int64_t first, int64_t last) {
    const MatrixUnit<T> unit;
    TileScratch<T> scratch(args.forward, true);
    with_activation(args.forward.activation, [&](auto act) {
        for (int64_t slot = first; slot < last; ++slot) execution_backward_slot<decltype(act)>(args, slot, scratch);
    });
}

// The simple form: s = w . drop(act(q * k)), elementwise.
template <typename Act, typename T>
void execution_simple_range(const SimpleExecutionArgs<T>& args, int64_t first, int64_t last) {
    const int64_t rank = args.rank, tokens = args.tiling.tokens;
    Buffer<T> buffer(args.product.active() ? multiplier_capacity(args.tiling.height * rank) : 0);
    for (int64_t i = first; i < last; ++i) {
        const Tile tile(args, i / args.operations);
        const int64_t k = i % args.operations, row = tile.sample * args.operations + k;
        const T* q = args.query + row * rank;
        const T* multipliers = tile_multipliers(args, tile, k, buffer.get());
        for (int64_t n = 0; n < tile.count; ++n) {
            const T* key = args.keys + (tile.sample * tokens + tile.start + n) * rank;
            Vec<T> sum = {};
            for_columns<T>(rank, [&](int64_t c, auto lanes) IPRM_LAMBDA {
                Vec<T> y = Act::value(lanes.load(q + c) * lanes.load(key + c));
                if (multipliers != nullptr) y *= lanes.load(multipliers + n * rank + c);
                sum += y * lanes.load(args.w + c);
            });
            args.logits[row * tokens + tile.start + n] = horizontal_sum(sum);
        }
    }
}

// All operations of one tile; columns outside, rows inside, so that dq and dw stay in registers.
template <typename Act, typename T>
void execution_simple_task(const SimpleExecutionBackwardArgs<T>& args, int64_t task, T* buffer) {
    const SimpleExecutionArgs<T>& f = args.forward;
    const Tile tile(f, task);
    const int64_t rank = f.rank, row = tile.sample * f.tiling.tokens + tile.start;
    const T* keys = f.keys + row * rank;
    T* grad_keys = args.grad_keys + row * rank;
    T* grad_w = args.grad_w + task * rank;
    set_zero(grad_keys, tile.count * rank);
    set_zero(grad_w, rank);
    for (int64_t k = 0; k < f.operations; ++k) {
        const int64_t query = (tile.sample * f.operations + k);
        const T* q = f.query + query * rank;
        const T* grad_logits = args.grad_logits + query * f.tiling.tokens + tile.start;
        T* grad_q = args.grad_query + (task * f.operations + k) * rank;
        const T* multipliers = tile_multipliers(f, tile, k, buffer);
        for_columns<T>(rank, [&](int64_t c, auto lanes) IPRM_LAMBDA {
            const Vec<T> qv = lanes.load(q + c), wv = lanes.load(f.w + c);
            Vec<T> dq = {}, dw = lanes.load(grad_w + c);
            for (int64_t n = 0; n < tile.count; ++n) {
                const int64_t at = n * rank + c;
                const Vec<T> key = lanes.load(keys + at);
                const auto y = Act::value_and_slope(qv * key);
                Vec<T> grad = splat<Vec<T>>(grad_logits[n]);
                if (multipliers != nullptr) grad *= lanes.load(multipliers + at);
                dw += grad * y.value;
                const Vec<T> gated = grad * wv * y.slope;
                dq += gated * key;
                lanes.store(grad_keys + at, lanes.load(grad_keys + at) + gated * qv);
            }
            lanes.store(grad_q + c, dq);
            lanes.store(grad_w + c, dw);
        });
    }
}

template <typename T>
void execution_simple(const SimpleExecutionArgs<T>& args, int64_t first, int64_t last) {
    with_activation(args.activation, [&](auto act) { execution_simple_range<decltype(act)>(args, first, last); });
}

template <typename T>
void execution_simple_backward(const SimpleExecutionBackwardArgs<T>& args, int64_t first, int64_t last) {
    const SimpleExecutionArgs<T>& f = args.forward;
    Buffer<T> buffer(f.product.active() ? multiplier_capacity(f.tiling.height * f.rank) : 0);
    with_activation(f.activation, [&](auto act) {
        for (int64_t task = first; task < last; ++task) {
            execution_simple_task<decltype(act)>(args, task, buffer.get());
        }
    });
}

}  // namespace
}  // namespace iprm::cpu
