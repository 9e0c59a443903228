#include <ATen/MemoryOverlap.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include <array>

#include "dispatch.h"
#include "ops.h"

namespace iprm::cpu {
namespace {

constexpr int64_t kPieceRows = 98;  // at most: they stay in the second-level cache

// The graph and the lower precision around an op are not for what is inside of it.
struct Inside {
    const at::AutoDispatchBelowAutograd no_graph;
    const c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::DispatchKey::AutocastCPU};
};

void expect_working_dtype(const Tensor& x, const char* name, int64_t dims) {
    expect_floating(x, name, dims);
    TORCH_CHECK_VALUE(accumulator(x.scalar_type()) == x.scalar_type(), name, ": expected float32 or float64, got ",
                      x.scalar_type());
}

// A tensor that is written to, where it lies.
void expect_result(const OptionalTensor& out, const char* name, at::IntArrayRef shape,
                   const at::TensorOptions& options) {
    expect(out, name, shape, options);
    TORCH_CHECK_VALUE(!out || out->is_contiguous(), name, ": expected a contiguous tensor, got one with strides ",
                      out->strides());
    TORCH_CHECK_VALUE(!out || !out->is_neg(), name, ": expected a tensor to write to, got a negated view");
}

void expect_apart(const Tensor& out, const Tensor& x, const char* name) {
    const auto overlap = at::get_overlap_status(out, x);
    TORCH_CHECK_VALUE(overlap != at::MemOverlapStatus::Full && overlap != at::MemOverlapStatus::Partial,
                      "out: expected memory apart from that of ", name, ", got some of it");
}

// A matrix whose rows are without gaps, in whatever distance.
Tensor dense_rows(const Tensor& matrix) {
    const bool dense = (matrix.stride(1) == 1 || matrix.size(1) <= 1) && !matrix.is_neg();
    return dense ? matrix : contiguous(matrix);
}

// out (rows, columns) = x (rows, depth) times the weight, as it is or transposed, + c.
struct Linear {
    Linear(const Tensor& x, const char* name, const Tensor& weight, const OptionalTensor& c, const OptionalTensor& out,
           bool back)
        : back(back) {
        expect_working_dtype(x, name, -1);
        expect_floating(weight, "weight", 2);
        depth = weight.size(back ? 0 : 1);
        columns = weight.size(back ? 1 : 0);
        TORCH_CHECK_VALUE(x.dim() > 0 && x.size(-1) == depth, name, ": expected (..., ", depth,
                          ") as the weight is, got ", x.sizes());
        expect(weight, "weight", weight.sizes(), x.options());
        shape = x.sizes();
        shape.back() = columns;
        rows = c10::multiply_integers(shape.begin(), shape.end() - 1);
        if (c) expect(*c, "c", c->dim() == 1 ? at::IntArrayRef(columns) : at::IntArrayRef(shape), x.options());
        expect_result(out, "out", shape, x.options());

        this->x = contiguous(x);
        this->weight = dense_rows(weight);
        this->c = contiguous(c);
        this->out = out ? *out : at::empty(shape, x.options());
        if (out) expect_apart(*out, this->x, name);
    }

    template <typename T>
    LinearArgs<T> args(const T* weight_data) const {
        const int64_t c_stride = c && c->dim() > 1 ? columns : 0;
        return {rows,        depth,      columns,  weight.stride(0),         data<T>(x),
                weight_data, data<T>(c), c_stride, out.mutable_data_ptr<T>()};
    }

    template <typename T>
    static LinearArgs<T> rows_of(const LinearArgs<T>& all, int64_t row, int64_t rows) {
        LinearArgs<T> part = all;
        part.rows = rows;
        part.x += row * all.depth;
        part.out += row * all.columns;
        if (part.c != nullptr) part.c += row * all.c_stride;
        return part;
    }

    // The kernels of linear_kernel.h, which read the weight once, where it lies.
    template <typename T>
    void by_few_rows() const {
        constexpr int64_t wide = 64;
        const int64_t highest = columns > 4 * wide ? 48 : 12;  // few columns leave the rows to be shared
        constexpr int64_t reading = 4;  // a number of the weight costs as much to read as these many rows to multiply
        const LinearArgs<T> all = args(data<T>(weight));
        const auto kernel = back ? kernels<T>().linear_back : kernels<T>().linear;
        const int64_t work = (std::min(rows, highest) + reading) * depth * wide;
        parallel_pieces(rows, highest, divide_up(columns, wide), work,
                        [&](int64_t row, int64_t count, int64_t first, int64_t last) {
                            kernel(rows_of(all, row, count), first * wide, std::min(last * wide, columns));
                        });
    }

    template <typename T>
    Tensor pack() const {
        const int64_t panel = kernels<T>().panel, panels = divide_up(columns, panel);
        Tensor packed = at::empty({panels, depth, panel}, x.options());
        const PackArgs<T> args{data<T>(weight), weight.stride(0), depth, columns, !back, packed.mutable_data_ptr<T>()};
        parallel(panels, depth * panel,
                 [&](int64_t first, int64_t last) { kernels<T>().pack_plain(args, first, last); });
        return packed;
    }

    // The kernels of rows_kernel.h, which read the packed weight.
    template <typename T>
    void by_panels(Tensor* held) const {
        const int64_t panel = kernels<T>().panel, panels = divide_up(columns, panel);
        const bool found = held != nullptr && held->defined();
        const Tensor packed = found ? *held : pack<T>();
        if (found) expect(packed, "packed", {panels, depth, panel}, x.options());
        if (held != nullptr) *held = packed;
        const LinearArgs<T> all = args(data<T>(packed));
        parallel_pieces(rows, kPieceRows, panels, std::min(rows, kPieceRows) * depth * panel,
                        [&](int64_t row, int64_t count, int64_t first, int64_t last) {
                            kernels<T>().linear_panels(rows_of(all, row, count), first, last);
                        });
    }

    void by_library() const {
        const Inside guard;
        const Tensor left = x.view({rows, depth}), right = back ? weight : weight.t();
        Tensor to = out.view({rows, columns});
        if (!c) {
            at::mm_out(to, left, right);
        } else {
            at::addmm_out(to, c->dim() > 1 ? c->view({rows, columns}) : *c, left, right);
        }
    }

    template <typename T>
    bool has_many_rows(bool held) const {
        const ManyRows& many = kernels<T>().many_rows;
        return rows >= (!held ? many.once : back ? many.held_back : many.held);
    }

    Tensor run(Tensor* packed) const {
        with_accumulator(x.scalar_type(), [&](auto zero) {
            using T = decltype(zero);
            // The library packs the weight, too: that does not pay for one that the nearest caches hold.
            const bool small = depth * columns <= 1 << 15;
            if (!has_many_rows<T>(packed != nullptr)) {
                by_few_rows<T>();
            } else if (kernels<T>().library && !small) {
                by_library();
            } else {
                by_panels<T>(packed);
            }
        });
        return out;
    }

    bool back;
    int64_t rows, depth, columns;
    at::DimVector shape;
    Tensor x, weight, out;
    OptionalTensor c;
};

template <typename T>
void run_row_product(const Tensor& dy, const Tensor& x, Tensor& out, bool accumulate) {
    const int64_t panel = kernels<T>().panel, rows = dy.size(0), outputs = dy.size(1), columns = x.size(1);
    const RowProductArgs<T> all{rows,         outputs,    columns,     data<T>(dy),
                                dy.stride(0), data<T>(x), x.stride(0), out.mutable_data_ptr<T>(),
                                accumulate};
    parallel_pieces(outputs, kPieceRows, divide_up(columns, panel), rows * std::min(outputs, kPieceRows) * panel,
                    [&](int64_t output, int64_t count, int64_t first, int64_t last) {
                        RowProductArgs<T> part = all;
                        part.outputs = count;
                        part.y += output;
                        part.out += output * columns;
                        kernels<T>().row_product(part, first, last);
                    });
}

// Sums of rows, one for each piece of them.
template <typename T>
Tensor sums_of_pieces(const Tensor& dy) {
    const int64_t rows = dy.size(0), columns = dy.size(1), pieces = divide_up(rows, kPieceRows);
    Tensor sums = allocate({pieces, columns}, dy);
    parallel(pieces, kPieceRows * columns, [&](int64_t first, int64_t last) {
        for (int64_t piece = first; piece < last; ++piece) {
            const int64_t row = piece * kPieceRows, count = std::min(kPieceRows, rows - row);
            kernels<T>().sum(
                {data<T>(dy) + row * dy.stride(0), count, dy.stride(0), sums.mutable_data_ptr<T>() + piece * columns},
                0, columns);
        }
    });
    return sums;
}

}  // namespace

Tensor linear(const Tensor& x, const Tensor& weight, const OptionalTensor& c, Tensor* packed,
              const OptionalTensor& out) {
    return Linear(x, "x", weight, c, out, false).run(packed);
}

Tensor linear_back(const Tensor& y, const Tensor& weight, const OptionalTensor& c, Tensor* packed,
                   const OptionalTensor& out) {
    return Linear(y, "y", weight, c, out, true).run(packed);
}

Tensor row_product(const Tensor& dy, const Tensor& x, const OptionalTensor& sum) {
    expect_working_dtype(dy, "dy", 2);
    expect_floating(x, "x", 2);
    const std::array<int64_t, 2> shape{dy.size(1), x.size(1)};
    expect(x, "x", {dy.size(0), x.size(1)}, dy.options());
    expect_result(sum, "sum", shape, dy.options());
    Tensor out = sum ? *sum : at::empty(shape, dy.options());
    with_accumulator(dy.scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        if (!kernels<T>().library) return run_row_product<T>(dense_rows(dy), dense_rows(x), out, sum.has_value());
        const Inside guard;
        if (sum) {
            out.addmm_(dy.t(), x);
        } else {
            at::mm_out(out, dy.t(), x);
        }
    });
    return out;
}

Tensor row_sum(const Tensor& dy) {
    expect_working_dtype(dy, "dy", 2);
    return with_accumulator(dy.scalar_type(),
                            [&](auto zero) { return sum_first(sums_of_pieces<decltype(zero)>(dense_rows(dy))); });
}

}  // namespace iprm::cpu
