// The products over tiles of bfloat16 numbers, summed in float32: AVX512-BF16 multiplies pairs of them, twice as many
// numbers in an instruction as float32 has. What is no product, and what is between two products, is float32.
//
// Two numbers that follow one another along the sum are one element of an operand, a pair. A row of the left operand is
// such pairs as it lies; a panel of the right one has two rows side by side, lane by lane.
#pragma once

#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)

#    include "product.h"

namespace iprm::cpu {
namespace {

// Two bfloat16 numbers, of which a vector of float32 has as many as numbers.
struct Pair {
    uint32_t bits;
};

template <>
struct VectorOf<Pair> {
    typedef __m512bh type;
};

template <>
struct SumOf<Pair> {
    using type = float;
};

IPRM_INLINE __m512bh load(const Pair* p) { return (__m512bh)_mm512_loadu_si512(p); }

IPRM_INLINE Vec<float> multiply_add(Pair x, __m512bh y, Vec<float> sum) {
    return (Vec<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(static_cast<int>(x.bits)), y);
}

IPRM_INLINE __m512i rounded(Vec<float> x, Vec<float> y) { return (__m512i)_mm512_cvtne2ps_pbh((__m512)y, (__m512)x); }

// The pairs (x[i], y[i]) of two rows of 32 numbers: of the first 16 and of the last.
IPRM_INLINE void interleave(__m512i x, __m512i y, __m512i (&out)[2]) {
    alignas(64) static constexpr uint16_t order[2][32] = {
        {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
         8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47},
        {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
         24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63}};
#    pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) out[i] = _mm512_permutex2var_epi16(x, _mm512_load_si512(order[i]), y);
}

constexpr int64_t pairs_of(int64_t count) { return (count + 1) / 2; }

template <>
constexpr bool kOverTiles<float> = true;

// Rows of pairs.
template <>
class TileMatrix<float> {
  public:
    static constexpr int64_t kRowUnit = kTileRows;

    static constexpr int64_t rows_for(int64_t count) { return with_lower_blocks(count); }

    TileMatrix(int64_t rows, int64_t columns) : ld_(pairs_of(columns) + 16), data_(rows * ld_) {}

    IPRM_INLINE void put(int64_t r, int64_t c, const Vec<float> (&x)[2]) {
        _mm512_storeu_si512(data_.get() + r * ld_ + c / 2, rounded(x[0], x[1]));
    }

    // Numbers kept where an operand's will be put are rounded as it is.
    IPRM_INLINE void keep(int64_t r, int64_t c, const Vec<float> (&x)[2]) { put(r, c, x); }
    IPRM_INLINE Vec<float> kept(int64_t r, int64_t c, int j) const {
        const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row(r) + c / 2 + j * 8));
        return (Vec<float>)_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16);
    }

    const Pair* row(int64_t r) const { return data_.get() + r * ld_; }
    int64_t ld() const { return ld_; }

  private:
    int64_t ld_;
    Buffer<Pair> data_;
};

// Numbers of room that the pairs of a packed panel take.
template <>
constexpr int64_t panel_size<float>(int64_t depth) {
    return pairs_of(depth) * kTilePanel<float>;
}

IPRM_INLINE const Pair* as_pairs(const float* packed) { return reinterpret_cast<const Pair*>(packed); }

template <typename Epilogue>
IPRM_INLINE void panel_product(int64_t rows, int64_t depth, const TileMatrix<float>& a, const float* packed,
                               int64_t width, Epilogue&& epilogue) {
    const int64_t pairs = pairs_of(depth);
    for_blocks<float>(rows, width, [&](int64_t r, int64_t c, auto block) IPRM_LAMBDA {
        tile_product<decltype(block)::value, false>(pairs, a.row(r), a.ld(), as_pairs(packed) + c * pairs,
                                                    kTilePanel<float>,
                                                    [&](auto& acc) IPRM_LAMBDA { epilogue(r, c, acc); });
    });
}

inline void pack(const PackArgs<float>& args, int64_t first, int64_t last) {
    Buffer<float> plain((args.depth + 1) * kTilePanel<float>);  // an odd row is paired with zeros
    for (int64_t panel = first; panel < last; ++panel) {
        pack_panel(args, panel, plain.get());
        float* out = args.packed + panel * panel_size<float>(args.depth);
        for (int64_t k = 0; k < args.depth; k += 2, out += kTilePanel<float>) {
            const float *x = plain.get() + k * kTilePanel<float>, *y = x + kTilePanel<float>;
            __m512i pairs[2];
            interleave(rounded(load(x), load(x + kLanes<float>)), rounded(load(y), load(y + kLanes<float>)), pairs);
            for (int j = 0; j < 2; ++j) _mm512_storeu_si512(out + j * kLanes<float>, pairs[j]);
        }
    }
}

// Both operands with two rows side by side: pairs along the sum over rows.
template <>
struct TransposedScratch<float> {
    TransposedScratch(int64_t depth, int64_t rank, int64_t width)
        : left_ld(round_up(rank, kTilePanel<float>) + 16),
          right_ld(width + 16),
          left(pairs_of(depth) * left_ld),
          right(pairs_of(depth) * right_ld) {}

    int64_t left_ld, right_ld;
    Buffer<Pair> left, right;
};

IPRM_NOINLINE inline void pair_rows(int64_t pairs, int64_t columns, const TileMatrix<float>& x, Pair* out, int64_t ld) {
    for (int64_t k = 0; k < pairs; ++k) {
        for (int64_t c = 0; c < columns; c += kTilePanel<float>) {
            __m512i both[2];
            interleave(_mm512_loadu_si512(x.row(2 * k) + c / 2), _mm512_loadu_si512(x.row(2 * k + 1) + c / 2), both);
            for (int j = 0; j < 2; ++j) _mm512_storeu_si512(out + k * ld + c + j * kLanes<float>, both[j]);
        }
    }
}

template <typename Epilogue>
IPRM_INLINE void transposed_product(int64_t depth, const TileMatrix<float>& x, int64_t rank, const TileMatrix<float>& y,
                                    int64_t width, TransposedScratch<float>& scratch, Epilogue&& epilogue) {
    const int64_t pairs = pairs_of(depth);
    pair_rows(pairs, rank, x, scratch.left.get(), scratch.left_ld);
    pair_rows(pairs, width, y, scratch.right.get(), scratch.right_ld);
    for_blocks<float>(rank, width, [&](int64_t r, int64_t c, auto block) IPRM_LAMBDA {
        const Pair *left = scratch.left.get() + r, *right = scratch.right.get() + c;
        tile_product<decltype(block)::value, true>(pairs, left, scratch.left_ld, right, scratch.right_ld,
                                                   [&](auto& acc) IPRM_LAMBDA { epilogue(r, c, acc); });
    });
}

}  // namespace
}  // namespace iprm::cpu

#endif
