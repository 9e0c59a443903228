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

// One panel of a product: out = a b + bias + addend.
template <typename T>
struct PanelProduct {
    int64_t depth;
    const T* a;  // (rows, depth), or (depth, rows) if transposed
    int64_t a_stride;
    const T* b;  // (depth, kTilePanel)
    int64_t b_stride;
    const T *bias, *addend;  // or null; the addend's rows are as far apart as those of out, which it may be
    T* out;
    int64_t out_stride, columns;  // of which those beyond a panel are not this one's
};

template <int kBlock, typename T>
IPRM_INLINE void finish_block(const PanelProduct<T>& p, int64_t r, const Vec<T> (&acc)[kBlock][kTileVectors]) {
    const T* addend = p.addend == nullptr ? nullptr : p.addend + r * p.out_stride;
    T* out = p.out + r * p.out_stride;
    if (p.columns < kTilePanel<T>) {
        T sums[kBlock * kTilePanel<T>];
        store_block(acc, sums, kTilePanel<T>, false);
        for (int i = 0; i < kBlock; ++i) {
            for (int64_t j = 0; j < p.columns; ++j) {
                const T biased = sums[i * kTilePanel<T> + j] + (p.bias == nullptr ? T(0) : p.bias[j]);
                const int64_t at = i * p.out_stride + j;
                out[at] = addend == nullptr ? biased : biased + addend[at];
            }
        }
        return;
    }
#pragma GCC unroll 16
    for (int j = 0; j < kTileVectors; ++j) {
        const Vec<T> bias = p.bias == nullptr ? Vec<T>{} : load(p.bias + j * kLanes<T>);
#pragma GCC unroll 16
        for (int i = 0; i < kBlock; ++i) {
            const int64_t at = i * p.out_stride + j * kLanes<T>;
            const Vec<T> biased = p.bias == nullptr ? acc[i][j] : acc[i][j] + bias;
            store(out + at, addend == nullptr ? biased : biased + load(addend + at));
        }
    }
}

template <int kBlock, bool kTransposed, int64_t kChain, typename T>
IPRM_NOINLINE void multiply_block(const PanelProduct<T>& p, int64_t r) {
    const T* a = p.a + r * (kTransposed ? 1 : p.a_stride);
    micro_product<kBlock, kTransposed, kChain>(p.depth, a, p.a_stride, p.b, p.b_stride,
                                               [&](auto& acc) IPRM_LAMBDA { finish_block<kBlock>(p, r, acc); });
}

template <bool kTransposed, int64_t kChain, typename T>
void multiply_chained(const PanelProduct<T>& p, int64_t rows) {
    for_even_row_blocks<kTileRows>(rows, [&](int64_t r, auto height) IPRM_LAMBDA {
        multiply_block<decltype(height)::value, kTransposed, kChain>(p, r);
    });
}

// Chains of 64 make sums of some hundreds of products round as the library's do; short ones are left whole.
template <bool kTransposed, typename T>
void multiply_panel(const PanelProduct<T>& p, int64_t rows) {
    p.depth > 128 ? multiply_chained<kTransposed, 64>(p, rows) : multiply_chained<kTransposed, 0>(p, rows);
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

// out = x times the packed weight + .., panels `first` to `last`. Deep products are summed part by part, in out.
template <typename T>
void linear_panels(const LinearArgs<T>& args, int64_t first, int64_t last) {
    constexpr int64_t width = kTilePanel<T>;
    for_even_parts(args.depth, kPanelDepth<T>, [&](int64_t k, int64_t depth) IPRM_LAMBDA {
        const NearRows<T> x(args.rows, depth, args.x + k, args.depth);
        const T* bias = k > 0 ? nullptr : args.bias;
        const T* addend = k > 0 ? args.out : args.addend;
        for (int64_t panel = first, o = first * width; panel < last; ++panel, o += width) {
            multiply_panel<false>(
                PanelProduct<T>{depth, x.get(), x.stride(), args.weight + o * args.depth + k * width, width,
                                bias == nullptr ? nullptr : bias + o, addend == nullptr ? nullptr : addend + o,
                                args.out + o, args.columns, args.columns - o},
                args.rows);
        }
    });
}

// out = or += y^T x, panels `first` to `last`
template <typename T>
void row_product(const RowProductArgs<T>& args, int64_t first, int64_t last) {
    constexpr int64_t width = kTilePanel<T>;
    for_even_parts(args.rows, kRowsTogether, [&](int64_t k, int64_t depth) IPRM_LAMBDA {
        const bool add = args.accumulate || k > 0;
        for (int64_t panel = first, i = first * width; panel < last; ++panel, i += width) {
            T* out = args.out + i;
            PanelProduct<T> p{depth,
                              args.y + k * args.y_stride,
                              args.y_stride,
                              args.x + k * args.x_stride + i,
                              args.x_stride,
                              nullptr,
                              add ? out : nullptr,
                              out,
                              args.out_stride,
                              args.columns - i};
            const bool packs = kPacksRows || p.columns < width;
            const Buffer<T> packed(packs ? depth * width : 0);
            if (packs) {
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
