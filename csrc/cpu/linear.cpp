#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include "dispatch.h"
#include "ops.h"

namespace iprm::cpu {
namespace {

// out (rows, columns) = x (rows, depth) times the weight, as it is or transposed, + c.
struct Linear {
    Linear(const Tensor& x, const char* name, const Tensor& weight, const OptionalTensor& c, bool back) : back(back) {
        expect_floating(x, name, -1);
        TORCH_CHECK_VALUE(accumulator(x.scalar_type()) == x.scalar_type(), name, ": expected float32 or float64, got ",
                          x.scalar_type());
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

        this->x = contiguous(x);
        this->weight = weight.stride(1) == 1 && !weight.is_neg() ? weight : contiguous(weight);
        this->c = contiguous(c);
    }

    // The kernels of linear_kernel.h, over parts whose sizes do not depend on the number of threads; a part's rows stay
    // with the thread that had them before.
    template <typename T>
    Tensor by_kernels() const {
        constexpr int64_t column_chunk = 64;
        const bool many = rows >= kernels<T>().many_rows;
        const int64_t row_chunk = many ? 64 : 48;
        Tensor out = at::empty(shape, x.options());
        const int64_t c_stride = c && c->dim() > 1 ? columns : 0;
        const LinearArgs<T> all{rows,
                                depth,
                                columns,
                                weight.stride(0),
                                data<T>(x),
                                data<T>(weight),
                                data<T>(c),
                                c_stride,
                                out.mutable_data_ptr<T>()};
        const auto forward = many ? kernels<T>().linear_transposed : kernels<T>().linear;
        const auto kernel = back ? kernels<T>().linear_back : forward;
        const int64_t high = (rows + row_chunk - 1) / row_chunk, wide = (columns + column_chunk - 1) / column_chunk;
        constexpr int64_t reading = 4;  // a number of the weight costs as much to read as these many rows to multiply
        const int64_t work = (std::min(rows, row_chunk) + reading) * depth * column_chunk;
        parallel(high * wide, work, [&](int64_t first, int64_t last) {
            for (int64_t task = first; task < last; ++task) {
                const int64_t row = task / wide * row_chunk, column = task % wide * column_chunk;
                LinearArgs<T> part = all;
                part.rows = std::min(row_chunk, rows - row);
                part.x += row * depth;
                part.out += row * columns;
                if (part.c != nullptr) part.c += row * c_stride;
                kernel(part, column, std::min(column + column_chunk, columns));
            }
        });
        return out;
    }

    // The library's product; the graph and the lower precision around an op are not for what is inside of it.
    Tensor by_library() const {
        const at::AutoDispatchBelowAutograd no_graph;
        const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::DispatchKey::AutocastCPU);
        const Tensor left = x.view({rows, depth}), right = back ? weight : weight.t();
        if (!c) return at::mm(left, right).view(shape);
        return at::addmm(c->dim() > 1 ? c->view({rows, columns}) : *c, left, right).view(shape);
    }

    Tensor run() const {
        return with_accumulator(x.scalar_type(), [&](auto zero) {
            using T = decltype(zero);
            // The library packs the weight: that pays where rows are many, but not of one that the nearest caches hold.
            const bool small = depth * columns <= 1 << 15;
            return rows < kernels<T>().many_rows || small ? by_kernels<T>() : by_library();
        });
    }

    bool back;
    int64_t rows, depth, columns;
    at::DimVector shape;
    Tensor x, weight;
    OptionalTensor c;
};

}  // namespace

Tensor linear(const Tensor& x, const Tensor& weight, const OptionalTensor& c) {
    return Linear(x, "x", weight, c, false).run();
}

Tensor linear_back(const Tensor& y, const Tensor& weight, const OptionalTensor& c) {
    return Linear(y, "y", weight, c, true).run();
}

}  // namespace iprm::cpu
