// Products of many rows, by the blocks of product.h: with a packed weight, and of rows' transposes with rows.
#pragma once

#include "kernels.h"
#include "product.h"
#include "vector.h"

namespace iprm::cpu {
namespace {

// How deep a product may be whose panel stays in the second-level cache, beside the rows.
template <typename T>
constexpr int64_t kPanelDepth = (128 << 10) / static_cast<int64_t>(sizeof(Vec<T>) * kTileVectors);

constexpr int64_t kRowsTogether = 128;  // of row_product: what a task reads of them stays in the second-level cache

// Rows of 64 bytes side by side, far apart, share few places in the caches: they are packed.
constexpr bool kPacksRows = kVectorBytes * kTileVectors < 128;

// Calls body(first, count) for near-equal parts of at most `most`; for a single empty one where there is nothing.
template <typename Body>
IPRM_INLINE void for_even_parts(int64_t count, int64_t most, Body&& body) {
    int64_t first = 0;
    do {
        const int64_t left = round_up(count - first, most) / most, size = left > 0 ? (count - first) / left : 0;
        body(first, size);
        first += size;
    } while (first < count);
}

// One panel of a product: out = a b + c.
template <typename T>
struct PanelProduct {
    int64_t depth;
    const T* a;  // (rows, depth), or (depth, rows) if transposed
    int64_t a_stride;
    const T* b;  // (depth, kTilePanel)
    int64_t b_stride;
    const T* c;  // or null; may be out
    int64_t c_stride;
    T* out;
    int64_t out_stride, columns;  // of which those beyond a panel are not this one's
};

template <int kBlock, typename T>
IPRM_INLINE void finish_block(const PanelProduct<T>& p, int64_t r, const Vec<T> (&acc)[kBlock][kTileVectors]) {
    const T* c = p.c == nullptr ? nullptr : p.c + r * p.c_stride;
    T* out = p.out + r * p.out_stride;
    if (p.columns < kTilePanel<T>) {
        T sums[kBlock * kTilePanel<T>];
        store_block(acc, sums, kTilePanel<T>, false);
        for (int i = 0; i < kBlock; ++i, out += p.out_stride) {
            for (int64_t j = 0; j < p.columns; ++j) {
                out[j] = sums[i * kTilePanel<T> + j] + (c == nullptr ? 0 : c[i * p.c_stride + j]);
            }
        }
        return;
    }
#pragma GCC unroll 16
    for (int i = 0; i < kBlock; ++i, out += p.out_stride) {
#pragma GCC unroll 16
        for (int j = 0; j < kTileVectors; ++j) {
            const int64_t at = j * kLanes<T>;
            store(out + at, c == nullptr ? acc[i][j] : acc[i][j] + load(c + i * p.c_stride + at));
        }
    }
}

template <int kBlock, bool kTransposed, typename T>
IPRM_NOINLINE void multiply_block(const PanelProduct<T>& p, int64_t r) {
    const int64_t row = kTransposed ? 1 : p.a_stride, column = kTransposed ? p.a_stride : 1;
    micro_product<kBlock>(p.depth, p.a + r * row, row, column, p.b, p.b_stride,
                          [&](auto& acc) IPRM_LAMBDA { finish_block<kBlock>(p, r, acc); });
}

template <bool kTransposed, typename T>
void multiply_panel(const PanelProduct<T>& p, int64_t rows) {
    for_even_row_blocks<kTileRows>(
        rows, [&](int64_t r, auto height) IPRM_LAMBDA { multiply_block<decltype(height)::value, kTransposed>(p, r); });
}

// Rows whose distance in memory lets a block of them stay in the first-level cache: copied, where it does not.
template <typename T>
class NearRows {
  public:
    NearRows(int64_t rows, int64_t columns, const T* x, int64_t stride)
        : copied_(kTileRows > 8 && stride * sizeof(T) % 4096 == 0),  // all in one set of eight places
          stride_(copied_ ? columns + 16 : stride),
          copy_(copied_ ? rows * stride_ : 0),
          x_(copied_ ? copy_.get() : x) {
        for (int64_t r = 0; copied_ && r < rows; ++r) {
            std::memcpy(copy_.get() + r * stride_, x + r * stride, static_cast<size_t>(columns) * sizeof(T));
        }
    }

    const T* get() const { return x_; }
    int64_t stride() const { return stride_; }

  private:
    bool copied_;
    int64_t stride_;
    Buffer<T> copy_;
    const T* x_;
};

// out = x times the packed weight + c, panels `first` to `last`. Deep products are summed part by part, in out.
template <typename T>
void linear_panels(const LinearArgs<T>& args, int64_t first, int64_t last) {
    constexpr int64_t width = kTilePanel<T>;
    for_even_parts(args.depth, kPanelDepth<T>, [&](int64_t k, int64_t depth) IPRM_LAMBDA {
        const NearRows<T> x(args.rows, depth, args.x + k, args.depth);
        const T* c = k > 0 ? args.out : args.c;
        const int64_t c_stride = k > 0 ? args.columns : args.c_stride;
        for (int64_t panel = first, o = first * width; panel < last; ++panel, o += width) {
            multiply_panel<false>(
                PanelProduct<T>{depth, x.get(), x.stride(), args.weight + o * args.depth + k * width, width,
                                c == nullptr ? nullptr : c + o, c_stride, args.out + o, args.columns, args.columns - o},
                args.rows);
        }
    });
}

// out = or += y^T x, panels `first` to `last`
template <typename T>
void row_product(const RowProductArgs<T>& args, int64_t first, int64_t last) {
    constexpr int64_t width = kTilePanel<T>;
    const Buffer<T> packed(kRowsTogether * width);
    for_even_parts(args.rows, kRowsTogether, [&](int64_t k, int64_t depth) IPRM_LAMBDA {
        const bool add = args.accumulate || k > 0;
        for (int64_t panel = first, i = first * width; panel < last; ++panel, i += width) {
            PanelProduct<T> p{depth,         args.y + k * args.y_stride,
                              args.y_stride, args.x + k * args.x_stride + i,
                              args.x_stride, add ? args.out + i : nullptr,
                              args.columns,  args.out + i,
                              args.columns,  args.columns - i};
            if (kPacksRows || p.columns < width) {
                pack_panel<T>({p.b, p.b_stride, depth, smaller(width, p.columns), false, nullptr}, 0, packed.get());
                p.b = packed.get();
                p.b_stride = width;
            }
            multiply_panel<true>(p, args.outputs);
        }
    });
}

}  // namespace
}  // namespace iprm::cpu
