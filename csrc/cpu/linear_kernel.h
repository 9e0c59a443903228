// A linear map of few rows, where the weight is read once, where it lies.
#pragma once

#include "kernels.h"
#include "vector.h"

namespace iprm::cpu {
namespace {

// Columns of the weight's rows side by side in a block of dot products.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kDots = 4;  // with kRows rows 24 accumulators of 32 registers
#else
constexpr int kDots = 2;  // 12 of 16
#endif

#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
constexpr ManyRows kManyRows{32, 1, 1};  // a packed weight is half as large as one that is read where it lies
#elif defined(__AVX512F__)
constexpr ManyRows kManyRows{64, 32, 64};
#elif defined(__AVX2__)
constexpr ManyRows kManyRows{24, 12, 12};
#else
constexpr ManyRows kManyRows{32, 32, 32};
#endif

// The library has the instructions that this table does without.
#if defined(__AVX2__)
constexpr bool kLibrary = false;
#else
constexpr bool kLibrary = true;
#endif

constexpr int64_t kRowsAhead = 8;  // rows of the weight between what is read and what is fetched

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
            const T biased = a.bias == nullptr ? s : s + a.bias[o + j];
            out[j] = a.addend == nullptr ? biased : biased + a.addend[(r + i) * a.columns + o + j];
        }
    }
}

// out = x weight^T + .., columns `first` to `last`
template <typename T>
void linear(const LinearArgs<T>& args, int64_t first, int64_t last) {
    int64_t o = first;
    for (; o + kDots <= last; o += kDots) {
        for_even_row_blocks<kRows>(args.rows, [&](int64_t r, auto rows) IPRM_LAMBDA {
            linear_block<decltype(rows)::value, kDots>(args, r, o);
        });
    }
    for (; o < last; ++o) {
        for_even_row_blocks<kRows>(
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
            if (a.bias != nullptr) acc[k][j] += lanes.load(a.bias + i + at);
            if (a.addend != nullptr) acc[k][j] += lanes.load(a.addend + (r + k) * a.columns + i + at);
            lanes.store(out + at, acc[k][j]);
        }
    }
}

// out = x weight + .., columns `first` to `last`
template <typename T>
void linear_back(const LinearArgs<T>& args, int64_t first, int64_t last) {
    int64_t i = first;
    for (; i + kPanel<T> <= last; i += kPanel<T>) {
        for_even_row_blocks<kRows>(args.rows, [&](int64_t r, auto rows) IPRM_LAMBDA {
            linear_back_block<decltype(rows)::value, kPanelVectors>(args, r, i, Whole{});
        });
    }
    for_columns<T>(last - i, [&](int64_t d, auto lanes) IPRM_LAMBDA {
        for_even_row_blocks<kRows>(args.rows, [&](int64_t r, auto rows) IPRM_LAMBDA {
            linear_back_block<decltype(rows)::value, 1>(args, r, i + d, lanes);
        });
    });
}

}  // namespace
}  // namespace iprm::cpu
