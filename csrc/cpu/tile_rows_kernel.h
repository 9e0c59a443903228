// Products of many rows over tiles, for the instruction sets that are faster with those than with rows as they lie.
#pragma once

#include "amx.h"
#include "bfloat16.h"
#include "kernels.h"
#include "product.h"

namespace iprm::cpu {
namespace {

// How much of a sum is made at once: rows of so many numbers stay in the second-level cache.
constexpr int64_t kTogether = 256;

// Puts rows into a tile, and zeros where its products work on more.
template <typename T>
IPRM_NOINLINE void put_rows(TileMatrix<T>& tile, int64_t rows, int64_t columns, const T* x, int64_t stride) {
    constexpr int64_t width = kTilePanel<T>;
    for (int64_t r = 0; r < TileMatrix<T>::rows_for(rows); ++r, x += stride) {
        for (int64_t c = 0; c < columns; c += width) {
            alignas(64) T padded[width] = {};
            const T* from = x + c;
            if (r >= rows || c + width > columns) {
                if (r < rows) std::memcpy(padded, from, static_cast<size_t>(columns - c) * sizeof(T));
                from = padded;
            }
            Vec<T> row[kTileVectors];
#pragma GCC unroll 16
            for (int j = 0; j < kTileVectors; ++j) row[j] = load(from + j * kLanes<T>);
            tile.put(r, c, row);
        }
    }
}

// out = acc + bias + addend, of the rows and columns that there are. Rows of the addend, which may be out, lie as its.
template <typename T, typename Block>
IPRM_INLINE void finish_rows(int64_t rows, int64_t columns, int64_t stride, const T* bias, const T* addend, T* out,
                             const Block& acc) {
    for_columns<T>(smaller(columns, kTilePanel<T>), [&](int64_t c, auto lanes) IPRM_LAMBDA {
        const Vec<T> biases = bias == nullptr ? Vec<T>{} : lanes.load(bias + c);
#pragma GCC unroll 16
        for (int i = 0; i < kHeight<Block>; ++i) {
            if (i >= rows) break;
            Vec<T> y = acc[i][c / kLanes<T>] + biases;
            if (addend != nullptr) y += lanes.load(addend + i * stride + c);
            lanes.store(out + i * stride + c, y);
        }
    });
}

// linear_panels
template <typename T>
void linear_tiles(const LinearArgs<T>& args, int64_t first, int64_t last) {
    constexpr int64_t width = kTilePanel<T>;
    const int64_t rows = TileMatrix<T>::rows_for(args.rows);
    const MatrixUnit<T> unit;
    TileMatrix<T> x(rows, smaller(kTogether, round_up(args.depth, width)));
    int64_t k = 0;
    do {
        const int64_t depth = smaller(kTogether, args.depth - k);
        const T* bias = k > 0 ? nullptr : args.bias;
        const T* addend = k > 0 ? args.out : args.addend;
        put_rows(x, args.rows, depth, args.x + k, args.depth);
        for (int64_t panel = first; panel < last; ++panel) {
            const T* packed = args.weight + panel * panel_size<T>(args.depth) + panel_size<T>(k);
            const int64_t o = panel * width;
            panel_product(rows, depth, x, packed, width, [&](int64_t r, int64_t, auto& acc) IPRM_LAMBDA {
                const int64_t at = r * args.columns + o;
                finish_rows<T>(args.rows - r, args.columns - o, args.columns, bias == nullptr ? nullptr : bias + o,
                               addend == nullptr ? nullptr : addend + at, args.out + at, acc);
            });
        }
        k += kTogether;
    } while (k < args.depth);
}

// row_product
template <typename T>
void row_product_tiles(const RowProductArgs<T>& args, int64_t first, int64_t last) {
    constexpr int64_t width = kTilePanel<T>;
    const int64_t together = smaller(kTogether, args.rows), height = TileMatrix<T>::rows_for(together);
    const int64_t from = first * width, columns = smaller(last * width, args.columns) - from;
    const MatrixUnit<T> unit;
    TileMatrix<T> y(height, round_up(args.outputs, width)), x(height, round_up(columns, width));
    TransposedScratch<T> scratch(together, args.outputs, round_up(columns, width));
    int64_t k = 0;
    do {
        const int64_t depth = smaller(kTogether, args.rows - k);
        const bool add = args.accumulate || k > 0;
        put_rows(y, depth, args.outputs, args.y + k * args.y_stride, args.y_stride);
        put_rows(x, depth, columns, args.x + k * args.x_stride + from, args.x_stride);
        transposed_product(depth, y, args.outputs, x, round_up(columns, width), scratch,
                           [&](int64_t r, int64_t c, auto& acc) IPRM_LAMBDA {
                               T* out = args.out + r * args.out_stride + from + c;
                               finish_rows<T>(args.outputs - r, columns - c, args.out_stride, nullptr,
                                              add ? out : nullptr, out, acc);
                           });
        k += kTogether;
    } while (k < args.rows);
}

}  // namespace
}  // namespace iprm::cpu
