// Matrix products: a register-tiled micro-kernel over packed panels for the large ones, plain blocks of rows
// for the small ones.
#pragma once

#include "kernels.h"
#include "vector.h"

namespace iprm::cpu {
namespace {

// Rows of a left operand, four by a pointer: an address is then a pointer and at most one index, and few registers do
// for all of them. The compiler would rather have an index for each row, and no registers left for the loop.
template <int kBlock, typename T>
class RowPointers {
  public:
    RowPointers(const T* a, int64_t stride) : stride_(stride) {
#pragma GCC unroll 8
        for (int i = 0; i < kGroups; ++i) {
            group_[i] = a + 4 * i * stride;
            asm("" : "+r"(group_[i]));  // or it would see through this
        }
    }
    IPRM_INLINE T at(int i) const { return group_[i / 4][i % 4 * stride_]; }
    IPRM_INLINE void next() {
#pragma GCC unroll 8
        for (int i = 0; i < kGroups; ++i) ++group_[i];
    }

  private:
    static constexpr int kGroups = (kBlock + 3) / 4;
    const T* group_[kGroups];
    int64_t stride_;
};

// Rows that are columns in memory, side by side.
template <typename T>
class ColumnPointer {
  public:
    ColumnPointer(const T* a, int64_t stride) : a_(a), stride_(stride) {}
    IPRM_INLINE T at(int i) const { return a_[i]; }
    IPRM_INLINE void next() { a_ += stride_; }

  private:
    const T* a_;
    int64_t stride_;
};

template <int kBlock, typename Body>
IPRM_INLINE void each_of(Body&& body) {
#pragma GCC unroll 16
    for (int i = 0; i < kBlock; ++i) {
#pragma GCC unroll 16
        for (int j = 0; j < kTileVectors; ++j) body(i, j);
    }
}

// The type of a sum of products of elements T, and one term of it; bfloat16.h has another element.
template <typename T>
struct SumOf {
    using type = T;
};
template <typename T>
IPRM_INLINE Vec<T> multiply_add(T x, Vec<T> y, Vec<T> sum) {
    return sum + x * y;
}

// acc[i][j] = sum over k of a(i, k) * b[k * ldb + j], for a block of rows and a panel of columns. Rows of a are `lda`
// apart, or if transposed its columns are. Of kChain products at a time, where that is not 0, the sum is made by itself
// and then added to those before it: one chain over a long depth would round more than the library does.
template <int kBlock, bool kTransposed, int64_t kChain, typename T, typename Epilogue>
IPRM_INLINE void micro_product(int64_t depth, const T* __restrict a, int64_t lda, const T* __restrict b, int64_t ldb,
                               Epilogue&& epilogue) {
    using Sum = Vec<typename SumOf<T>::type>;
    Sum acc[kBlock][kTileVectors], sum[kBlock][kTileVectors];
    std::conditional_t<kTransposed, ColumnPointer<T>, RowPointers<kBlock, T>> rows(a, lda);
    for (int64_t k = 0;;) {
        each_of<kBlock>([&](int i, int j) IPRM_LAMBDA { acc[i][j] = Sum{}; });
        const int64_t end = kChain == 0 ? depth : std::min(depth, k + kChain);
#pragma GCC unroll 1
        for (; k < end; ++k, rows.next()) {
            decltype(load(b)) bv[kTileVectors];
#pragma GCC unroll 16
            for (int j = 0; j < kTileVectors; ++j) bv[j] = load(b + k * ldb + j * kLanes<T>);
#pragma GCC unroll 16
            for (int i = 0; i < kBlock; ++i) {
                const T av = rows.at(i);
#pragma GCC unroll 16
                for (int j = 0; j < kTileVectors; ++j) acc[i][j] = multiply_add(av, bv[j], acc[i][j]);
            }
        }
        if (kChain > 0 && k > kChain) each_of<kBlock>([&](int i, int j) IPRM_LAMBDA { acc[i][j] += sum[i][j]; });
        if (kChain == 0 || k == depth) break;
        each_of<kBlock>([&](int i, int j) IPRM_LAMBDA { sum[i][j] = acc[i][j]; });
    }
    epilogue(acc);
}

// Rows come in blocks of kTileRows, and at the end in lower ones, so that few are added to make the blocks whole.
constexpr int64_t with_lower_blocks(int64_t rows) { return rows <= 4 ? 4 : round_up(rows, 2); }

// How many of the rows come in blocks of kTileRows; rather than two rows, two blocks of half the height are left.
constexpr int64_t rows_of_whole_blocks(int64_t rows) {
    const int64_t left = rows % kTileRows;
    if (left > kTileRows - 2) return rows - left + kTileRows;
    return left > 0 && left <= 2 && rows > kTileRows ? rows - left - kTileRows : rows - left;
}

// The height of the next block of what is left, at most kTileRows + 2 rows.
constexpr int lower_block(int64_t left) {
    if (left <= 4 || kTileRows < 8) return 4;
    return left <= 6 || left == 9 || left == 10 ? 6 : 8;
}

// Calls body(row, constant number of rows) for the lower blocks from `first` on.
template <typename Body>
IPRM_INLINE void for_lower_blocks(int64_t first, int64_t rows, Body&& body) {
    for (int64_t r = first, height; r < rows; r += height) {
        height = lower_block(rows - r);
        if constexpr (kTileRows > 8) {
            if (height == 8) body(r, std::integral_constant<int, 8>{});
            if (height == 6) body(r, std::integral_constant<int, 6>{});
        }
        if (height == 4) body(r, std::integral_constant<int, 4>{});
    }
}

// Calls body(row, column, constant number of rows) for the blocks of each panel. The whole blocks have loops of their
// own: the compiler makes worse code of them where lower ones stand beside them.
template <typename T, typename Body>
IPRM_INLINE void for_blocks(int64_t rows, int64_t width, Body&& body) {
    const int64_t whole = rows_of_whole_blocks(rows);
    for (int64_t c = 0; c < width; c += kTilePanel<T>) {
        for (int64_t r = 0; r < whole; r += kTileRows) body(r, c, std::integral_constant<int, kTileRows>{});
    }
    if (whole >= rows) return;
    for (int64_t c = 0; c < width; c += kTilePanel<T>) {
        for_lower_blocks(whole, rows, [&](int64_t r, auto block) IPRM_LAMBDA { body(r, c, block); });
    }
}

// What the products over tiles are made of, for one number type. amx.h and bfloat16.h have others for float.

// Whether products of many rows, too, are faster over tiles than with rows as they lie.
template <typename T>
constexpr bool kOverTiles = false;

// Held by a thread while it computes such products.
template <typename T>
struct MatrixUnit {
    MatrixUnit() {}
};

// The rows of a tile, an operand of the products. Columns come and go in panels of kTileVectors vectors.
template <typename T>
class TileMatrix {
  public:
    static constexpr int64_t kRowUnit = kTileRows;  // there is room for whole multiples of this many rows

    // How many rows the products work on where `count` matter.
    static constexpr int64_t rows_for(int64_t count) { return with_lower_blocks(count); }

    TileMatrix(int64_t rows, int64_t columns)
        : ld_(columns + 16),  // off the powers of two, with room for a block of rows when they are columns
          data_(rows * ld_) {}

    IPRM_INLINE void put(int64_t r, int64_t c, const Vec<T> (&x)[kTileVectors]) { keep(r, c, x); }

    // Numbers kept where an operand's will be put.
    IPRM_INLINE void keep(int64_t r, int64_t c, const Vec<T> (&x)[kTileVectors]) {
#pragma GCC unroll 16
        for (int j = 0; j < kTileVectors; ++j) store(data_.get() + r * ld_ + c + j * kLanes<T>, x[j]);
    }
    IPRM_INLINE Vec<T> kept(int64_t r, int64_t c, int j) const { return load(row(r) + c + j * kLanes<T>); }

    const T* row(int64_t r) const { return data_.get() + r * ld_; }
    int64_t ld() const { return ld_; }

  private:
    int64_t ld_;
    Buffer<T> data_;
};

// Room for the operands of transposed_product, which may be smaller.
template <typename T>
struct TransposedScratch {
    TransposedScratch(int64_t, int64_t, int64_t) {}
};

// Rows in a block of accumulators, as an epilogue is given it.
template <typename Block>
constexpr int kHeight = static_cast<int>(std::extent_v<std::remove_reference_t<Block>>);

// A block that is not whole, in a function of its own: the compiler would run out of registers where several stand in
// one, and store to memory in the loop.
template <int kBlock, bool kTransposed, typename T, typename Epilogue>
IPRM_NOINLINE void lower_tile_product(int64_t depth, const T* a, int64_t lda, const T* b, int64_t ldb,
                                      const Epilogue& epilogue) {
    micro_product<kBlock, kTransposed, 0>(depth, a, lda, b, ldb, epilogue);
}

template <int kBlock, bool kTransposed, typename T, typename Epilogue>
IPRM_INLINE void tile_product(int64_t depth, const T* a, int64_t lda, const T* b, int64_t ldb,
                              const Epilogue& epilogue) {
    if constexpr (kBlock < kTileRows) {
        lower_tile_product<kBlock, kTransposed>(depth, a, lda, b, ldb, epilogue);
    } else {
        micro_product<kBlock, kTransposed, 0>(depth, a, lda, b, ldb, epilogue);
    }
}

// The product of `rows` rows (TileMatrix::rows_for) with packed panels: epilogue(first row, first column, acc).
template <typename T, typename Epilogue>
IPRM_INLINE void panel_product(int64_t rows, int64_t depth, const TileMatrix<T>& a, const T* packed, int64_t width,
                               Epilogue&& epilogue) {
    for_blocks<T>(rows, width, [&](int64_t r, int64_t c, auto block) IPRM_LAMBDA {
        tile_product<decltype(block)::value, false>(depth, a.row(r), a.ld(), packed + c * depth, kTilePanel<T>,
                                                    [&](auto& acc) IPRM_LAMBDA { epilogue(r, c, acc); });
    });
}

// Stores a block of accumulators in rows of `width` numbers, or adds it to them.
template <int kBlock, typename T>
IPRM_INLINE void store_block(const Vec<T> (&acc)[kBlock][kTileVectors], T* out, int64_t width, bool accumulate) {
#pragma GCC unroll 16
    for (int i = 0; i < kBlock; ++i) {
#pragma GCC unroll 16
        for (int j = 0; j < kTileVectors; ++j) {
            T* p = out + i * width + j * kLanes<T>;
            store(p, accumulate ? load(p) + acc[i][j] : acc[i][j]);
        }
    }
}

// x^T y over `depth` rows: epilogue(first row, first column, acc). `rank` columns of x, rounded up to whole blocks,
// become rows; of y there are whole panels.
template <typename T, typename Epilogue>
IPRM_INLINE void transposed_product(int64_t depth, const TileMatrix<T>& x, int64_t rank, const TileMatrix<T>& y,
                                    int64_t width, TransposedScratch<T>&, Epilogue&& epilogue) {
    for_blocks<T>(rank, width, [&](int64_t r, int64_t c, auto block) IPRM_LAMBDA {
        tile_product<decltype(block)::value, true>(depth, x.row(0) + r, x.ld(), y.row(0) + c, y.ld(),
                                                   [&](auto& acc) IPRM_LAMBDA { epilogue(r, c, acc); });
    });
}

// out[k * kTilePanel + j] = in[j * ld + k]
template <typename T>
IPRM_INLINE void pack_transposed(const T* in, int64_t ld, int64_t depth, int64_t columns, T* out) {
    constexpr int64_t n = kLanes<T>, width = kTilePanel<T>;
    const int64_t squares_down = depth / n * n, squares_across = columns / n * n;
    for (int64_t k = 0; k < squares_down; k += n) {
        for (int64_t j = 0; j < squares_across; j += n) {
            Vec<T> x[n];
#pragma GCC unroll 16
            for (int64_t i = 0; i < n; ++i) x[i] = load(in + (j + i) * ld + k);
            transpose<T>(x);
#pragma GCC unroll 16
            for (int64_t i = 0; i < n; ++i) store(out + (k + i) * width + j, x[i]);
        }
    }
    for (int64_t j = 0; j < columns; ++j) {
        for (int64_t k = j < squares_across ? squares_down : 0; k < depth; ++k) out[k * width + j] = in[j * ld + k];
    }
}

// Columns of one panel of the matrix, (depth, kTilePanel), zero beyond the last column.
template <typename T>
void pack_panel(const PackArgs<T>& args, int64_t panel, T* out) {
    const int64_t depth = args.depth, ld = args.row_stride;
    constexpr int64_t width = kTilePanel<T>;
    const int64_t c0 = panel * width, columns = smaller(width, args.columns - c0);
    if (columns < width) std::memset(out, 0, static_cast<size_t>(depth * width) * sizeof(T));
    if (args.transpose) return pack_transposed(args.weight + c0 * ld, ld, depth, columns, out);
    for (int64_t k = 0; k < depth; ++k) {
        const T* in = args.weight + k * ld + c0;
        if (columns == width) {
            std::memcpy(out + k * width, in, width * sizeof(T));
        } else {
            for (int64_t j = 0; j < columns; ++j) out[k * width + j] = in[j];
        }
    }
}

// Numbers in a packed panel.
template <typename T>
constexpr int64_t panel_size(int64_t depth) {
    return depth * kTilePanel<T>;
}

template <typename T>
void pack(const PackArgs<T>& args, int64_t first, int64_t last) {
    for (int64_t panel = first; panel < last; ++panel) {
        pack_panel(args, panel, args.packed + panel * panel_size<T>(args.depth));
    }
}

template <typename T>
void sum(const SumArgs<T>& args, int64_t first, int64_t last) {
    constexpr int64_t chunk = 2048;  // stays in the first-level cache while the parts stream through
    for (int64_t c = first; c < last; c += chunk) {
        const int64_t n = smaller(chunk, last - c);
        T* __restrict out = args.out + c;
        for (int64_t i = 0; i < n; ++i) out[i] = 0;
        for (int64_t j = 0; j < args.count; ++j) {
            const T* __restrict part = args.parts + j * args.stride + c;
            for (int64_t i = 0; i < n; ++i) out[i] += part[i];
        }
    }
}

template <int kBlock, int kVectors, typename T, typename Lanes>
IPRM_INLINE void block_product(int64_t depth, const T* a, int64_t row, int64_t column, const T* b, int64_t ldb, T* c,
                               int64_t ldc, bool accumulate, Lanes lanes) {
    Vec<T> acc[kBlock][kVectors] = {};
    for (int64_t k = 0; k < depth; ++k) {
        Vec<T> bv[kVectors];
#pragma GCC unroll 8
        for (int j = 0; j < kVectors; ++j) bv[j] = lanes.load(b + k * ldb + j * kLanes<T>);
#pragma GCC unroll 8
        for (int i = 0; i < kBlock; ++i) {
            const T av = a[i * row + k * column];
#pragma GCC unroll 8
            for (int j = 0; j < kVectors; ++j) acc[i][j] += av * bv[j];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kBlock; ++i) {
#pragma GCC unroll 8
        for (int j = 0; j < kVectors; ++j) {
            T* p = c + i * ldc + j * kLanes<T>;
            lanes.store(p, accumulate ? lanes.load(p) + acc[i][j] : acc[i][j]);
        }
    }
}

// c (m x n) = or += a (m x depth, by strides) b (depth x n)
template <typename T>
IPRM_NOINLINE void small_product(int64_t m, int64_t n, int64_t depth, const T* a, int64_t row, int64_t column,
                                 const T* b, int64_t ldb, T* c, int64_t ldc, bool accumulate) {
    for_row_blocks(m, [&](int64_t r, auto rows) IPRM_LAMBDA {
        constexpr int block = decltype(rows)::value;
        const T* ar = a + r * row;
        T* cr = c + r * ldc;
        int64_t j = 0;
        for (; j + kPanel<T> <= n; j += kPanel<T>) {
            block_product<block, kPanelVectors>(depth, ar, row, column, b + j, ldb, cr + j, ldc, accumulate, Whole{});
        }
        for (; j + kLanes<T> <= n; j += kLanes<T>) {
            block_product<block, 1>(depth, ar, row, column, b + j, ldb, cr + j, ldc, accumulate, Whole{});
        }
        if (j < n) {
            block_product<block, 1>(depth, ar, row, column, b + j, ldb, cr + j, ldc, accumulate, Part{n - j});
        }
    });
}

template <int kBlock, int kColumns, typename T>
IPRM_INLINE void dot_block(int64_t dim, const T* x, const T* y, T* out, int64_t ld, bool accumulate) {
    Vec<T> acc[kBlock][kColumns] = {};
    for_columns<T>(dim, [&](int64_t d, auto lanes) IPRM_LAMBDA {
        Vec<T> yv[kColumns];
#pragma GCC unroll 8
        for (int j = 0; j < kColumns; ++j) yv[j] = lanes.load(y + j * dim + d);
#pragma GCC unroll 8
        for (int i = 0; i < kBlock; ++i) {
            const Vec<T> xv = lanes.load(x + i * dim + d);
#pragma GCC unroll 8
            for (int j = 0; j < kColumns; ++j) acc[i][j] += xv * yv[j];
        }
    });
#pragma GCC unroll 8
    for (int i = 0; i < kBlock; ++i) {
#pragma GCC unroll 8
        for (int j = 0; j < kColumns; ++j) {
            const T s = horizontal_sum(acc[i][j]);
            out[i * ld + j] = accumulate ? out[i * ld + j] + s : s;
        }
    }
}

// out[k * ld + c] = or += x_k . y_c, for m rows of x and n rows of y, each of `dim` numbers
template <typename T>
IPRM_NOINLINE void dot_rows(int64_t m, int64_t n, int64_t dim, const T* x, const T* y, T* out, int64_t ld,
                            bool accumulate) {
    int64_t c = 0;
    for (; c + 2 <= n; c += 2) {
        for_row_blocks(m, [&](int64_t r, auto rows) IPRM_LAMBDA {
            dot_block<decltype(rows)::value, 2>(dim, x + r * dim, y + c * dim, out + r * ld + c, ld, accumulate);
        });
    }
    if (c < n) {
        for_row_blocks(m, [&](int64_t r, auto rows) IPRM_LAMBDA {
            dot_block<decltype(rows)::value, 1>(dim, x + r * dim, y + c * dim, out + r * ld + c, ld, accumulate);
        });
    }
}

}  // namespace
}  // namespace iprm::cpu
