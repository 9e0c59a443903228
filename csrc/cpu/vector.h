// Vectors of the width of the instruction set this file is compiled for, by the compiler's vector extension.
// Included by kernels.cpp only: everything here lives in an unnamed namespace, so that the copies compiled
// for different instruction sets cannot be mixed up by the linker.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

#if defined(__AVX2__)
#    include <immintrin.h>
#endif

#define IPRM_INLINE __attribute__((always_inline)) inline
#define IPRM_NOINLINE __attribute__((noinline))
#define IPRM_LAMBDA __attribute__((always_inline))

namespace iprm::cpu {
namespace {

// Blocks of accumulators. In the large products over tiles, whose right operand is packed, a block is high and
// narrow, so that a panel of the right operand (depth x kTileVectors vectors) stays in the first-level cache;
// the small products read their right operand where it lies, a block of kRows x kPanelVectors at a time.
#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr int kTileRows = 14, kTileVectors = 2;  // 28 accumulators of 32 registers
constexpr int kPanelVectors = 4;                 // 24
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
constexpr int kTileRows = 6, kTileVectors = 2;  // 12 of 16
constexpr int kPanelVectors = 2;
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16;
constexpr int kTileRows = 6, kTileVectors = 4;  // 24 of 32
constexpr int kPanelVectors = 4;
#else
constexpr int kVectorBytes = 16;
constexpr int kTileRows = 6, kTileVectors = 2;  // 12 of 16
constexpr int kPanelVectors = 2;
#endif
constexpr int kRows = 6;

template <typename T>
struct VectorOf {
    typedef T type __attribute__((vector_size(kVectorBytes)));
};
template <typename T>
using Vec = typename VectorOf<T>::type;
template <typename V>
using Scalar = std::remove_cv_t<std::remove_reference_t<decltype(std::declval<V>()[0])>>;
template <typename V>
using Bits = Vec<std::conditional_t<sizeof(Scalar<V>) == 4, int32_t, int64_t>>;

template <typename T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));
template <typename T>
constexpr int kPanel = kPanelVectors * kLanes<T>;
template <typename T>
constexpr int kTilePanel = kTileVectors * kLanes<T>;

template <typename V>
IPRM_INLINE V splat(Scalar<V> x) {
    return x - V{};  // not V{} + x, which would lose the sign of a zero
}

template <typename T>
IPRM_INLINE Vec<T> load(const T* p) {
    Vec<T> x;
    std::memcpy(&x, p, sizeof(x));
    return x;
}

template <typename T>
IPRM_INLINE void store(T* p, Vec<T> x) {
    std::memcpy(p, &x, sizeof(x));
}

// The larger of low and x, the smaller of high and x; NaN passes. The compilers do not see the instruction in
// the choice.
template <typename V>
IPRM_INLINE V at_least(V x, Scalar<V> low) {
#if defined(__AVX512F__)
    if constexpr (sizeof(Scalar<V>) == 4) {
        return (V)_mm512_max_ps((__m512)splat<V>(low), (__m512)x);
    } else {
        return (V)_mm512_max_pd((__m512d)splat<V>(low), (__m512d)x);
    }
#elif defined(__AVX2__)
    if constexpr (sizeof(Scalar<V>) == 4) {
        return (V)_mm256_max_ps((__m256)splat<V>(low), (__m256)x);
    } else {
        return (V)_mm256_max_pd((__m256d)splat<V>(low), (__m256d)x);
    }
#else
    return low > x ? splat<V>(low) : x;
#endif
}

template <typename V>
IPRM_INLINE V at_most(V x, Scalar<V> high) {
#if defined(__AVX512F__)
    if constexpr (sizeof(Scalar<V>) == 4) {
        return (V)_mm512_min_ps((__m512)splat<V>(high), (__m512)x);
    } else {
        return (V)_mm512_min_pd((__m512d)splat<V>(high), (__m512d)x);
    }
#elif defined(__AVX2__)
    if constexpr (sizeof(Scalar<V>) == 4) {
        return (V)_mm256_min_ps((__m256)splat<V>(high), (__m256)x);
    } else {
        return (V)_mm256_min_pd((__m256d)splat<V>(high), (__m256d)x);
    }
#else
    return high < x ? splat<V>(high) : x;
#endif
}

// A whole vector of a row, or the first `count` lanes of one at the row's end (the others read as zero).
struct Whole {
    template <typename T>
    IPRM_INLINE Vec<T> load(const T* p) const {
        return cpu::load(p);
    }
    template <typename T>
    IPRM_INLINE void store(T* p, Vec<T> x) const {
        cpu::store(p, x);
    }
};

struct Part {
    int64_t count;

    template <typename T>
    IPRM_INLINE Vec<T> load(const T* p) const {
        Vec<T> x = {};
        for (int i = 0; i < kLanes<T>; ++i) {
            if (i < count) x[i] = p[i];
        }
        return x;
    }
    template <typename T>
    IPRM_INLINE void store(T* p, Vec<T> x) const {
        for (int i = 0; i < kLanes<T>; ++i) {
            if (i < count) p[i] = x[i];
        }
    }
};

// Calls body(column, lanes) for each vector of a row of `count` numbers.
template <typename T, typename Body>
IPRM_INLINE void for_columns(int64_t count, Body&& body) {
    int64_t c = 0;
    for (; c + kLanes<T> <= count; c += kLanes<T>) body(c, Whole{});
    if (c < count) body(c, Part{count - c});
}

// Calls body(row, constant number of rows) for blocks of 6, 2 and 1 rows.
template <typename Body>
IPRM_INLINE void for_row_blocks(int64_t rows, Body&& body) {
    int64_t r = 0;
    for (; r + kRows <= rows; r += kRows) body(r, std::integral_constant<int, kRows>{});
    for (; r + 2 <= rows; r += 2) body(r, std::integral_constant<int, 2>{});
    if (r < rows) body(r, std::integral_constant<int, 1>{});
}

template <typename Body, int... kLess>
IPRM_INLINE void with_height(int64_t height, std::integer_sequence<int, kLess...>, Body&& body) {
    ((height == kLess + 1 ? body(std::integral_constant<int, kLess + 1>{}) : void()), ...);
}

// Calls body(row, constant number of rows) for blocks of near-equal height, at most kMost.
template <int kMost, typename Body>
IPRM_INLINE void for_even_row_blocks(int64_t rows, Body&& body) {
    for (int64_t r = 0, left = (rows + kMost - 1) / kMost; left > 0; --left) {
        const int64_t height = (rows - r + left - 1) / left;
        with_height(height, std::make_integer_sequence<int, kMost>{}, [&](auto rows) IPRM_LAMBDA { body(r, rows); });
        r += height;
    }
}

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

// Transposes a square. Each round moves one bit of the lanes' numbers to those of the vectors, and one back.
template <typename T>
IPRM_INLINE void transpose(Vec<T> (&x)[kLanes<T>]) {
#pragma GCC unroll 4
    for (int bit = 1; bit < kLanes<T>; bit *= 2) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes<T>; ++i) {
            if ((i & bit) != 0) continue;
            const Vec<T> even = every_second<0>(x[i], x[i | bit]), odd = every_second<1>(x[i], x[i | bit]);
            x[i] = even;
            x[i | bit] = odd;
        }
    }
}

template <typename V>
IPRM_INLINE Scalar<V> horizontal_sum(V x) {
    constexpr int lanes = sizeof(V) / sizeof(Scalar<V>);
    Scalar<V> part[lanes];
    std::memcpy(part, &x, sizeof(x));
#pragma GCC unroll 8
    for (int half = lanes / 2; half > 0; half /= 2) {
#pragma GCC unroll 32
        for (int i = 0; i < half; ++i) part[i] += part[i + half];
    }
    return part[0];
}

constexpr int64_t round_up(int64_t x, int64_t unit) { return (x + unit - 1) / unit * unit; }
IPRM_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Zeroed, aligned scratch memory; none for no numbers.
template <typename T>
class Buffer {
  public:
    explicit Buffer(int64_t count) {
        if (count == 0) return;
        const size_t bytes = static_cast<size_t>(round_up(count * static_cast<int64_t>(sizeof(T)) + 64, 64));
        data_ = static_cast<T*>(std::aligned_alloc(64, bytes));
        if (data_ == nullptr) throw std::bad_alloc();
        std::memset(data_, 0, bytes);
    }
    ~Buffer() { std::free(data_); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    T* get() const { return data_; }

  private:
    T* data_ = nullptr;
};

}  // namespace
}  // namespace iprm::cpu
