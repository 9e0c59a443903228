// The products over tiles by AMX, whose matrix unit multiplies tiles of bfloat16 and sums in float32.
//
// A float32 number is the sum of three bfloat16 slices, a = a1 + a2 + a3, each at most 2^-8 of the one before. So
// a b = (a3 b1 + a2 b2 + a1 b3) + (a2 b1 + a1 b2) + a1 b1 up to 2^-24 of itself at worst: six products of tiles,
// summed in float32, are as good as one in float32. Where the factors are to be bfloat16, they have one slice, and
// there is one product: a file compiled for AVX512-BF16, too, is of these.
//
// Two vectors of 16 numbers make one row of a tile, lane i of both side by side: the order of the sum is free, as
// long as both operands agree on it, and no lane has to move.
#pragma once

#if defined(__AMX_BF16__)

#    include <atomic>

#    include "product.h"

namespace iprm::cpu {
namespace {

constexpr int64_t kUnit = 16;                  // rows of a tile
constexpr int64_t kDepth = 32;                 // numbers in a row of a tile
constexpr int64_t kTileSize = kUnit * kDepth;  // bfloat16 numbers in a tile
#    if defined(__AVX512BF16__)
constexpr int kSlices = 1;
#    else
#        define IPRM_FORWARD_ONLY  // see kernels_for_pairs
constexpr int kSlices = 3;
#    endif
constexpr int64_t kSliced = kSlices * kTileSize;  // the tiles of all slices, one after the other

typedef uint16_t Half;  // bits of a bfloat16

#    if defined(__AVX512BF16__)
// The pairs (x, y), rounded.
IPRM_INLINE void slice_pairs(Vec<float> x, Vec<float> y, __m512i (&out)[1]) {
    alignas(64) static constexpr uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                       8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    out[0] = _mm512_permutexvar_epi16(_mm512_load_si512(order), (__m512i)_mm512_cvtne2ps_pbh((__m512)y, (__m512)x));
}
#    else
// The slices of the pairs (x, y), a vector each.
IPRM_INLINE void slice_pairs(Vec<float> x, Vec<float> y, __m512i (&out)[kSlices]) {
    const auto nearest = [](Vec<float> a)
                             IPRM_LAMBDA { return (Vec<float>)(((Bits<Vec<float>>)a + 0x8000) & ~0xFFFF); };
#        pragma GCC unroll 3
    for (int s = 0; s < kSlices; ++s) {
        const bool last = s + 1 == kSlices;  // what is left has no more digits than a slice
        const Vec<float> xs = last ? x : nearest(x), ys = last ? y : nearest(y);
        out[s] = _mm512_mask_blend_epi16(0xAAAAAAAA, _mm512_srli_epi32((__m512i)xs, 16), (__m512i)ys);
        x -= xs;
        y -= ys;
    }
}
#    endif

template <>
constexpr bool kOverTiles<float> = true;

// The matrix unit, from construction to destruction: eight tiles of 16 rows of 64 bytes.
template <>
struct MatrixUnit<float> {
    MatrixUnit() {
        struct alignas(64) {
            uint8_t palette, start, reserved[14];
            uint16_t row_bytes[16];
            uint8_t rows[16];
        } configuration = {};
        configuration.palette = 1;
        for (int i = 0; i < 8; ++i) {
            configuration.row_bytes[i] = 64;
            configuration.rows[i] = kUnit;
        }
        std::atomic_signal_fence(std::memory_order_seq_cst);  // to the compiler, this reads eight bytes
        _tile_loadconfig(&configuration);
    }
    ~MatrixUnit() { _tile_release(); }
    MatrixUnit(const MatrixUnit&) = delete;
    MatrixUnit& operator=(const MatrixUnit&) = delete;
};

// Rows are cut into units and columns into blocks of kDepth; for each there are the tiles of the slices.
template <>
class TileMatrix<float> {
  public:
    static constexpr int64_t kRowUnit = kUnit;

    static constexpr int64_t rows_for(int64_t count) { return round_up(count, kUnit); }

    TileMatrix(int64_t rows, int64_t columns)
        : blocks_(round_up(columns, kDepth) / kDepth), data_(round_up(rows, kUnit) * blocks_ * kDepth * kSlices) {}

    IPRM_INLINE void put(int64_t r, int64_t c, const Vec<float> (&x)[2]) {
        __m512i pairs[kSlices];
        slice_pairs(x[0], x[1], pairs);
#    pragma GCC unroll 3
        for (int s = 0; s < kSlices; ++s) _mm512_store_si512(row(r, c) + s * kTileSize, pairs[s]);
    }

    // Numbers kept where an operand's will be put are rounded as its only slice is.
    IPRM_INLINE void keep(int64_t r, int64_t c, const Vec<float> (&x)[2]) { put(r, c, x); }
    IPRM_INLINE Vec<float> kept(int64_t r, int64_t c, int j) const {
        Bits<Vec<float>> x;
        std::memcpy(&x, row(r, c), sizeof(x));
        return (Vec<float>)(j == 0 ? x << 16 : x & ~0xFFFF);
    }

    Half* tiles(int64_t unit, int64_t block) const { return data_.get() + (unit * blocks_ + block) * kSliced; }
    int64_t unit_stride() const { return blocks_ * kSliced; }

  private:
    IPRM_INLINE Half* row(int64_t r, int64_t c) const { return tiles(r / kUnit, c / kDepth) + r % kUnit * kDepth; }

    int64_t blocks_;
    Buffer<Half> data_;
};

// Tiles 0 to 3 are sums, 4 and 5 the left operand's, 6 and 7 the right one's.
template <int kUnits>
IPRM_INLINE void load_left(const Half* a, int64_t unit_stride) {
    _tile_loadd(4, a, 64);
    if constexpr (kUnits == 2) _tile_loadd(5, a + unit_stride, 64);
}

IPRM_INLINE void load_right(const Half* b) {
    _tile_loadd(6, b, 64);
    _tile_loadd(7, b + kSliced, 64);
}

template <int kUnits>
IPRM_INLINE void multiply_tiles() {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if constexpr (kUnits == 2) {
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

// All products of slices, from the small ones to the large one, by the order that loads least.
template <int kUnits>
IPRM_INLINE void multiply_slices(const Half* a, int64_t unit_stride, const Half* b) {
    load_left<kUnits>(a + 2 * kTileSize, unit_stride);
    load_right(b);
    multiply_tiles<kUnits>();  // a3 b1
    load_left<kUnits>(a + kTileSize, unit_stride);
    multiply_tiles<kUnits>();  // a2 b1
    load_right(b + kTileSize);
    multiply_tiles<kUnits>();  // a2 b2
    load_left<kUnits>(a, unit_stride);
    multiply_tiles<kUnits>();  // a1 b2
    load_right(b + 2 * kTileSize);
    multiply_tiles<kUnits>();  // a1 b3
    load_right(b);
    multiply_tiles<kUnits>();  // a1 b1
}

// out (kUnits * 16 x 32) = the product of `blocks` blocks of kDepth; calls between() after each of them.
template <int kUnits, typename Between>
IPRM_INLINE void block_of_tiles(int64_t blocks, const Half* a, int64_t unit_stride, const Half* b, float* out,
                                Between&& between) {
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (kUnits == 2) {
        _tile_zero(2);
        _tile_zero(3);
    }
#    pragma GCC unroll 1
    for (int64_t k = 0; k < blocks; ++k, a += kSliced, b += 2 * kSliced) {
        if constexpr (kSlices == 1) {
            load_left<kUnits>(a, unit_stride);
            load_right(b);
            multiply_tiles<kUnits>();
        } else {
            multiply_slices<kUnits>(a, unit_stride, b);
        }
        between();
    }
    constexpr int64_t ld = kTilePanel<float>, bytes = ld * sizeof(float);
    _tile_stored(0, out, bytes);
    _tile_stored(1, out + kUnit, bytes);
    if constexpr (kUnits == 2) {
        _tile_stored(2, out + kUnit * ld, bytes);
        _tile_stored(3, out + kUnit * ld + kUnit, bytes);
    }
}

// The epilogue of a finished block, four rows at a time.
template <typename Epilogue>
class PendingBlock {
  public:
    explicit PendingBlock(Epilogue& epilogue) : epilogue_(epilogue) {}

    void begin(const float* sums, int64_t rows, int64_t r, int64_t c) {
        sums_ = sums;
        rows_ = rows;
        r_ = r;
        c_ = c;
    }

    // Groups to do in each of `parts` parts, if there are any.
    int64_t share(int64_t parts) const { return parts > 0 ? (rows_ / kGroup + parts - 1) / parts : 0; }

    IPRM_NOINLINE void advance(int64_t groups) {
        for (; groups > 0 && rows_ > 0; --groups, rows_ -= kGroup, r_ += kGroup, sums_ += kGroup * kTilePanel<float>) {
            Vec<float> acc[kGroup][kTileVectors];
#    pragma GCC unroll 8
            for (int i = 0; i < kGroup; ++i) {
#    pragma GCC unroll 8
                for (int j = 0; j < kTileVectors; ++j) acc[i][j] = load(sums_ + i * kTilePanel<float> + j * kUnit);
            }
            epilogue_(r_, c_, acc);
        }
    }

    void finish() { advance(rows_); }

  private:
    static constexpr int kGroup = 4;

    Epilogue& epilogue_;
    const float* sums_ = nullptr;
    int64_t rows_ = 0, r_ = 0, c_ = 0;
};

// The epilogue of one block runs in parts between the products of the next, so that the matrix unit and the
// vector units work at the same time.
template <typename Epilogue>
IPRM_INLINE void panel_product(int64_t rows, int64_t depth, const TileMatrix<float>& a, const float* packed,
                               int64_t width, Epilogue&& epilogue) {
    alignas(64) float sums[2][2 * kUnit * kTilePanel<float>];
    const int64_t blocks = round_up(depth, kDepth) / kDepth;
    PendingBlock<std::remove_reference_t<Epilogue>> pending(epilogue);
    int turn = 0;
    std::atomic_signal_fence(std::memory_order_seq_cst);  // to the compiler, a tile's load does not read memory
    for (int64_t c = 0; c < width; c += kTilePanel<float>) {
        const Half* b = reinterpret_cast<const Half*>(packed) + c / kTilePanel<float> * blocks * 2 * kSliced;
        for (int64_t r = 0; r < rows; r += 2 * kUnit, turn ^= 1) {
            const int64_t share = pending.share(blocks);
            const auto between = [&]() IPRM_LAMBDA { pending.advance(share); };
            const Half* ar = a.tiles(r / kUnit, 0);
            if (r + kUnit < rows) {
                block_of_tiles<2>(blocks, ar, a.unit_stride(), b, sums[turn], between);
            } else {
                block_of_tiles<1>(blocks, ar, a.unit_stride(), b, sums[turn], between);
            }
            pending.finish();
            pending.begin(sums[turn], smaller(2 * kUnit, rows - r), r, c);
        }
    }
    pending.finish();
}

// Floats in a packed panel of the right operand: per block of rows the slices of its two tiles.
template <>
constexpr int64_t panel_size<float>(int64_t depth) {
    return round_up(depth, kDepth) / kDepth * 2 * kSliced / 2;
}

inline void pack(const PackArgs<float>& args, int64_t first, int64_t last) {
    Buffer<float> plain(round_up(args.depth, kDepth) * kTilePanel<float>);
    for (int64_t panel = first; panel < last; ++panel) {
        pack_panel(args, panel, plain.get());
        Half* out = reinterpret_cast<Half*>(args.packed + panel * panel_size<float>(args.depth));
        for (int64_t k = 0; k < args.depth; k += kDepth) {
            for (int64_t j = 0; j < kTileVectors; ++j, out += kSliced) {
                for (int64_t i = 0; i < kUnit; ++i) {
                    const float* x = plain.get() + (k + i) * kTilePanel<float> + j * kUnit;
                    __m512i pairs[kSlices];
                    slice_pairs(load(x), load(x + kUnit * kTilePanel<float>), pairs);
                    for (int s = 0; s < kSlices; ++s) _mm512_store_si512(out + s * kTileSize + i * kDepth, pairs[s]);
                }
            }
        }
    }
}

// The right operand is laid out as if packed, the left one as the rows of its transpose.
template <>
struct TransposedScratch<float> {
    TransposedScratch(int64_t depth, int64_t rank, int64_t width)
        : left(round_up(rank, kDepth), depth), right(width / kTilePanel<float> * panel_size<float>(depth)) {}

    TileMatrix<float> left;
    Buffer<float> right;
};

// Of 32 rows of 32 columns: rows i and i + 16 side by side, in 16 columns and the 16 after them.
IPRM_INLINE void pair_rows(const Half* upper, const Half* lower, int i, __m512i& first, __m512i& second) {
    const __m512i x = _mm512_load_si512(upper + i * kDepth);
    const __m512i y = lower != nullptr ? _mm512_load_si512(lower + i * kDepth) : __m512i{};
    first = _mm512_mask_blend_epi16(0xAAAAAAAA, x, _mm512_slli_epi32(y, 16));
    second = _mm512_mask_blend_epi16(0xAAAAAAAA, _mm512_srli_epi32(x, 16), y);
}

// Transposes a tile, pairs of numbers staying together.
IPRM_INLINE void store_transposed(const __m512i (&x)[kUnit], Half* out) {
    __m512i a[kUnit], b[kUnit];
#    pragma GCC unroll 16
    for (int i = 0; i < kUnit; i += 2) {
        a[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
#    pragma GCC unroll 16
    for (int i = 0; i < kUnit; i += 4) {  // b[i + j]: columns j, j + 4, j + 8, j + 12 of rows i to i + 3
        b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
#    pragma GCC unroll 16
    for (int j = 0; j < 4; ++j) {
        const __m512i even0 = _mm512_shuffle_i32x4(b[j], b[j + 4], 0x88),
                      odd0 = _mm512_shuffle_i32x4(b[j], b[j + 4], 0xDD);
        const __m512i even1 = _mm512_shuffle_i32x4(b[j + 8], b[j + 12], 0x88),
                      odd1 = _mm512_shuffle_i32x4(b[j + 8], b[j + 12], 0xDD);
        _mm512_store_si512(out + j * kDepth, _mm512_shuffle_i32x4(even0, even1, 0x88));
        _mm512_store_si512(out + (j + 4) * kDepth, _mm512_shuffle_i32x4(odd0, odd1, 0x88));
        _mm512_store_si512(out + (j + 8) * kDepth, _mm512_shuffle_i32x4(even0, even1, 0xDD));
        _mm512_store_si512(out + (j + 12) * kDepth, _mm512_shuffle_i32x4(odd0, odd1, 0xDD));
    }
}

// Calls body(block of rows, block of columns, slice, tile of the upper rows, tile of the lower rows or null).
template <typename Body>
IPRM_INLINE void for_tile_pairs(int64_t rows, int64_t columns, const TileMatrix<float>& x, Body&& body) {
    for (int64_t c = 0; c < columns; c += kDepth) {
        for (int64_t r = 0; r < rows; r += kDepth) {
            const Half* upper = x.tiles(r / kUnit, c / kDepth);
            for (int s = 0; s < kSlices; ++s, upper += kTileSize) {
                body(r / kDepth, c / kDepth, s, upper, r + kUnit < rows ? upper + x.unit_stride() : nullptr);
            }
        }
    }
}

IPRM_NOINLINE inline void transpose_left(int64_t rows, int64_t columns, const TileMatrix<float>& x,
                                         TileMatrix<float>& out) {
    for_tile_pairs(rows, columns, x,
                   [&](int64_t r, int64_t c, int s, const Half* upper, const Half* lower) IPRM_LAMBDA {
                       __m512i first[kUnit], second[kUnit];
#    pragma GCC unroll 16
                       for (int i = 0; i < kUnit; ++i) pair_rows(upper, lower, i, first[i], second[i]);
                       store_transposed(first, out.tiles(2 * c, r) + s * kTileSize);
                       store_transposed(second, out.tiles(2 * c + 1, r) + s * kTileSize);
                   });
}

IPRM_NOINLINE inline void pack_right(int64_t rows, int64_t columns, const TileMatrix<float>& x, float* packed) {
    const int64_t blocks = round_up(rows, kDepth) / kDepth;
    for_tile_pairs(rows, columns, x,
                   [&](int64_t r, int64_t c, int s, const Half* upper, const Half* lower) IPRM_LAMBDA {
                       Half* out = reinterpret_cast<Half*>(packed) + (c * blocks + r) * 2 * kSliced + s * kTileSize;
                       for (int i = 0; i < kUnit; ++i, out += kDepth) {
                           __m512i first, second;
                           pair_rows(upper, lower, i, first, second);
                           _mm512_store_si512(out, first);
                           _mm512_store_si512(out + kSliced, second);
                       }
                   });
}

template <typename Epilogue>
IPRM_INLINE void transposed_product(int64_t depth, const TileMatrix<float>& x, int64_t rank, const TileMatrix<float>& y,
                                    int64_t width, TransposedScratch<float>& scratch, Epilogue&& epilogue) {
    transpose_left(depth, rank, x, scratch.left);
    pack_right(depth, width, y, scratch.right.get());
    panel_product(round_up(rank, kUnit), depth, scratch.left, scratch.right.get(), width, epilogue);
}

}  // namespace
}  // namespace iprm::cpu

#endif
