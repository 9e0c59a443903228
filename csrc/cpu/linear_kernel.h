// A linear map of few rows, where the weight is read once, where it lies; and of a small weight.
#pragma once

#include "kernels.h"
#include "vector.h"

namespace iprm::cpu {
namespace {

// Columns of the weight's rows side by side in a block of dot products.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kDots = 4;  // with kRows rows 24 accumulators of 32 registers
constexpr int64_t kManyRows = 64;
#else
constexpr int kDots = 2;  // 12 of 16
constexpr int64_t kManyRows = 32;
#endif

constexpr int64_t kRowsAhead = 8;  // rows of the weight between what is read and what is fetched

// The even, or the odd, lanes of x and y, one after the other.
template <int kOdd, typename V>
IPRM_INLINE V every_second(V x, V y) {
    constexpr int n = sizeof(V) / sizeof(Scalar<V>), s = kOdd;
    if constexpr (n == 16) {
        return __builtin_shufflevector(x, y, s, s + 2, s + 4, s + 6, s + 8, s + 10, s + 12, s + 14, s + 16, s + 18,
                                       s + 20, s + 22, s + 24, s + 26, s + 28, s + 30);
    } else if constexpr (n == 8) {
        return __builtin_shufflevector(x, y, s, s + 2, s + 4, s + 6, s + 8, s + 10, s + 12, s + 14);
    } else if constexpr (n == 4) {
        return __builtin_shufflevector(x, y, s, s + 2, s + 4, s + 6);
    } else {
        return __builtin_shufflevector(x, y, s, s + 2);
    }
}

// The sums of the lanes of kCount vectors, side by side; lanes beyond kCount are zero. The order within a sum does
// not depend on where it stands.
template <int kCount, typename T>
IPRM_INLINE Vec<T> lane_sums(const Vec<T>* x) {
    Vec<T> level[kLanes<T>];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<T>; ++i) level[i] = i < kCount ? x[i] : Vec<T>{};
#pragma GCC unroll 4
    for (int count = kLanes<T>; count > 1; count /= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < count / 2; ++i) {
            level[i] =
                every_second<0>(level[2 * i], level[2 * i + 1]) + every_second<1>(level[2 * i], level[2 * i + 1]);
        }
    }
    return level[0];
}

// out[i] = sum of the lanes of x[i]
template <int kCount, typename T>
IPRM_INLINE void store_lane_sums(const Vec<T>* x, T* out) {
    store(out, lane_sums<(kCount < kLanes<T> ? kCount : kLanes<T>), T>(x));
    if constexpr (kCount > kLanes<T>) store_lane_sums<kCount - kLanes<T>>(x + kLanes<T>, out + kLanes<T>);
}

// Calls body(row, constant number of rows) for blocks of near-equal height, at most kRows.
template <typename Body>
IPRM_INLINE void for_even_row_blocks(int64_t rows, Body&& body) {
    for (int64_t r = 0, left = (rows + kRows - 1) / kRows; left > 0; --left) {
        const int64_t height = (rows - r + left - 1) / left;
        switch (height) {
            case 1:
                body(r, std::integral_constant<int, 1>{});
                break;
            case 2:
                body(r, std::integral_constant<int, 2>{});
                break;
            case 3:
                body(r, std::integral_constant<int, 3>{});
                break;
            case 4:
                body(r, std::integral_constant<int, 4>{});
                break;
            case 5:
                body(r, std::integral_constant<int, 5>{});
                break;
            default:
                body(r, std::integral_constant<int, kRows>{});
        }
        r += height;
    }
}

// kBlock rows by kColumns outputs from column `o` on.
template <int kBlock, int kColumns, typename T>
IPRM_INLINE void linear_block(const LinearArgs<T>& a, int64_t r, int64_t o) {
    const T* x = a.x + r * a.depth;
    const T* w = a.weight + o * a.weight_stride;
    Vec<T> acc[kBlock * kColumns] = {};
    for_columns<T>(a.depth, [&](int64_t d, auto lanes) IPRM_LAMBDA {
        Vec<T> wv[kColumns];
#pragma GCC unroll 4
        for (int j = 0; j < kColumns; ++j) {
            wv[j] = lanes.load(w + j * a.weight_stride + d);
            __builtin_prefetch(w + (kColumns + j) * a.weight_stride + d);  // of the next block
        }
#pragma GCC unroll 8
        for (int i = 0; i < kBlock; ++i) {
            const Vec<T> xv = lanes.load(x + i * a.depth + d);
#pragma GCC unroll 4
            for (int j = 0; j < kColumns; ++j) acc[i * kColumns + j] += xv * wv[j];
        }
    });
    T sums[round_up(kBlock * kColumns, kLanes<T>)];
    store_lane_sums<kBlock * kColumns>(acc, sums);
#pragma GCC unroll 8
    for (int i = 0; i < kBlock; ++i) {
        T* out = a.out + (r + i) * a.columns + o;
#pragma GCC unroll 4
        for (int j = 0; j < kColumns; ++j) {
            const T s = sums[i * kColumns + j];
            out[j] = a.c == nullptr ? s : s + a.c[(r + i) * a.c_stride + o + j];
        }
    }
}

// out = x weight^T + c, columns `first` to `last`
template <typename T>
void linear(const LinearArgs<T>& args, int64_t first, int64_t last) {
    int64_t o = first;
    for (; o + kDots <= last; o += kDots) {
        for_even_row_blocks(args.rows, [&](int64_t r, auto rows)
                                           IPRM_LAMBDA { linear_block<decltype(rows)::value, kDots>(args, r, o); });
    }
    for (; o < last; ++o) {
        for_even_row_blocks(
            args.rows, [&](int64_t r, auto rows) IPRM_LAMBDA { linear_block<decltype(rows)::value, 1>(args, r, o); });
    }
}

// kBlock rows by kVectors vectors of columns.
template <int kBlock, int kVectors, typename T, typename Lanes>
IPRM_INLINE void linear_back_block(const LinearArgs<T>& a, int64_t r, int64_t i, Lanes lanes) {
    const T* y = a.x + r * a.depth;
    const T* w = a.weight + i;
    Vec<T> acc[kBlock][kVectors] = {};
#pragma GCC unroll 1
    for (int64_t o = 0; o < a.depth; ++o, w += a.weight_stride) {
        Vec<T> wv[kVectors];
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) {
            wv[j] = lanes.load(w + j * kLanes<T>);
            __builtin_prefetch(w + kRowsAhead * a.weight_stride + j * kLanes<T>);
        }
#pragma GCC unroll 8
        for (int k = 0; k < kBlock; ++k) {
            const T yv = y[k * a.depth + o];
#pragma GCC unroll 4
            for (int j = 0; j < kVectors; ++j) acc[k][j] += yv * wv[j];
        }
    }
#pragma GCC unroll 8
    for (int k = 0; k < kBlock; ++k) {
        T* out = a.out + (r + k) * a.columns + i;
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) {
            const int64_t at = j * kLanes<T>;
            if (a.c != nullptr) acc[k][j] += lanes.load(a.c + (r + k) * a.c_stride + i + at);
            lanes.store(out + at, acc[k][j]);
        }
    }
}

// out = x weight + c, columns `first` to `last`
template <typename T>
void linear_back(const LinearArgs<T>& args, int64_t first, int64_t last) {
    int64_t i = first;
    for (; i + kPanel<T> <= last; i += kPanel<T>) {
        for_even_row_blocks(args.rows, [&](int64_t r, auto rows) IPRM_LAMBDA {
            linear_back_block<decltype(rows)::value, kPanelVectors>(args, r, i, Whole{});
        });
    }
    for_columns<T>(last - i, [&](int64_t d, auto lanes) IPRM_LAMBDA {
        for_even_row_blocks(args.rows, [&](int64_t r, auto rows) IPRM_LAMBDA {
            linear_back_block<decltype(rows)::value, 1>(args, r, i + d, lanes);
        });
    });
}

// The same as `linear`, where rows are many: the columns' part of the weight is transposed first.
template <typename T>
void linear_transposed(const LinearArgs<T>& args, int64_t first, int64_t last) {
    const int64_t columns = last - first;
    const Buffer<T> transposed(args.depth * columns);
    for (int64_t j = 0; j < columns; ++j) {
        const T* row = args.weight + (first + j) * args.weight_stride;
        for (int64_t d = 0; d < args.depth; ++d) transposed.get()[d * columns + j] = row[d];
    }
    LinearArgs<T> part = args;
    part.weight = transposed.get();
    part.weight_stride = columns;
    part.out += first;
    if (part.c != nullptr) part.c += first;
    linear_back(part, 0, columns);
}

}  // namespace
}  // namespace iprm::cpu
