#include <ATen/MemoryOverlap.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/stack.h>

#include <array>
#include <functional>

#include "dispatch.h"
#include "ops.h"

namespace iprm::cpu {
namespace {

using recurrence::Map;
using recurrence::Product;
using recurrence::Products;
using recurrence::RowProduct;
using recurrence::RowProducts;
using recurrence::Tensors;
using recurrence::Term;

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

// A matrix of several parts a row, cut into pieces of near-equal height that are worked on one by one. How rows are cut
// depends on their number alone: where there are many, they stay with a thread from one matrix to the next.
struct Pieces {
    Pieces(int64_t rows, int64_t highest, int64_t parts)
        : rows(rows), height(divide_up(rows, std::max<int64_t>(1, divide_up(rows, highest)))), parts(parts) {}

    int64_t count() const { return height > 0 ? divide_up(rows, height) * parts : 0; }

    // Calls body(first row, rows, first part, last part) for the pieces `first` to `last`.
    template <typename Body>
    void each(int64_t first, int64_t last, Body&& body) const {
        while (first < last) {
            const int64_t row = first / parts * height, part = first % parts,
                          end = std::min(parts, part + last - first);
            body(row, std::min(height, rows - row), part, end);
            first += end - part;
        }
    }

    int64_t rows, height, parts;
};

// Work on several matrices at once, which threads share by its amount.
class Work {
  public:
    // `run(first, last)` for ranges of [0, count), each item worth some `size` operations.
    void add(int64_t count, int64_t size, std::function<void(int64_t, int64_t)> run) {
        size = std::max<int64_t>(1, size);
        if (count > 0) jobs_.push_back({total_, count, size, std::move(run)});
        total_ += count * size;
    }

    void run() const {
        parallel(total_, 1, [&](int64_t first, int64_t last) {
            for (const Job& job : jobs_) {
                const int64_t from = job.items_before(first), to = job.items_before(last);
                if (from < to) job.run(from, to);
            }
        });
    }

  private:
    struct Job {
        int64_t start, count, size;
        std::function<void(int64_t, int64_t)> run;

        // How many of its items start before that point of the whole work.
        int64_t items_before(int64_t point) const {
            return std::clamp<int64_t>(divide_up(std::max<int64_t>(0, point - start), size), 0, count);
        }
    };
    std::vector<Job> jobs_;
    int64_t total_ = 0;
};

// Where a map keeps the form of its weight that a product reads.
Tensor& held_of(Map& map, bool back) { return back ? map.packed_back : map.packed; }

// The table for products of numbers of type T, or of bfloat16 ones.
template <typename T>
const Kernels<T>& kernels_of(Factors factors) {
    return factors == Factors::kBfloat16 ? kernels_for_rows<T>(at::kBFloat16) : kernels<T>();
}

// One of the rows' products with a weight, as it is (back) or transposed.
struct Factor {
    Factor(const Term& term, bool back) : map(*term.map), back(back) {
        const char* name = back ? "y" : "x";
        expect_working_dtype(term.x, name, -1);
        expect_floating(map.weight, "weight", 2);
        depth = map.weight.size(back ? 0 : 1);
        columns = map.weight.size(back ? 1 : 0);
        TORCH_CHECK_VALUE(term.x.dim() > 0 && term.x.size(-1) == depth, name, ": expected (..., ", depth,
                          ") as the weight is, got ", term.x.sizes());
        expect(map.weight, "weight", map.weight.sizes(), term.x.options());
        x = contiguous(term.x);
        weight = dense_rows(map.weight);
    }

    // The library packs the weight, too: that does not pay for one that the nearest caches hold.
    bool small() const { return depth * columns <= 1 << 15; }

    // Makes the packed form, unless the map has it.
    template <typename T>
    void pack(const Kernels<T>& kernels, Work& work) {
        const std::array<int64_t, 2> shape{divide_up(columns, kernels.panel), kernels.panel_size(depth)};
        Tensor& held = held_of(map, back);
        if (held.defined()) {
            expect(held, "packed", shape, x.options());
            packed = held;
            return;
        }
        packed = held = at::empty(shape, x.options());
        const PackArgs<T> args{data<T>(weight), weight.stride(0), depth, columns, !back, packed.mutable_data_ptr<T>()};
        work.add(shape[0], kPacking * shape[1],
                 [args, &kernels](int64_t first, int64_t last) { kernels.pack(args, first, last); });
    }

    Map& map;
    bool back;
    int64_t depth, columns;
    Tensor x, weight, packed;
};

// One product: the sum of its factors' + bias + addend.
class Linear {
  public:
    Linear(Product& product, bool back, bool held, Factors of) : back_(back), of_(of) {
        for (const Term& term : product.terms) factors_.emplace_back(term, back);
        const Tensor& x = factors_.front().x;
        at::DimVector shape(x.sizes());
        columns_ = shape.back() = factors_.front().columns;
        rows_ = c10::multiply_integers(shape.begin(), shape.end() - 1);
        for (const Factor& factor : factors_) {
            TORCH_CHECK_VALUE(factor.columns == columns_ && factor.x.numel() == rows_ * factor.depth,
                              "terms: expected products like the first, ", shape, ", got (.., ", factor.columns,
                              ") of rows ", factor.x.sizes());
        }
        if (product.bias.defined()) expect(product.bias, "c", columns_, x.options());
        if (product.addend.defined()) expect(product.addend, "c", shape, x.options());
        bias_ = contiguous(given(product.bias));
        addend_ = contiguous(given(product.addend));
        expect_result(given(product.out), "out", shape, x.options());
        if (product.out.defined()) {
            for (const Factor& factor : factors_) expect_apart(product.out, factor.x, back ? "y" : "x");
        } else {
            product.out = at::empty(shape, x.options());
        }
        out_ = product.out;
        with_accumulator(x.scalar_type(), [&](auto zero) { way_ = choose<decltype(zero)>(held); });
    }

    at::ScalarType dtype() const { return out_.scalar_type(); }

    template <typename T>
    void pack(Work& work) {
        if (way_ != Way::kPanels) return;
        for (Factor& factor : factors_) factor.pack(kernels_of<T>(of_), work);
    }

    template <typename T>
    void add_to(Work& work) {
        if (way_ == Way::kLibrary) return by_library();
        if (way_ == Way::kPanels) return by_panels<T>(work);
        by_few_rows<T>(work);
    }

  private:
    enum class Way { kFewRows, kPanels, kLibrary };

    template <typename T>
    Way choose(bool held) const {
        const Kernels<T>& kernels = kernels_of<T>(of_);
        const ManyRows& many = kernels.many_rows;
        if (rows_ < (!held ? many.once : back_ ? many.held_back : many.held)) return Way::kFewRows;
        const bool small = std::all_of(factors_.begin(), factors_.end(), [](const Factor& f) { return f.small(); });
        return kernels.library && !small ? Way::kLibrary : Way::kPanels;
    }

    // Those rows of the i-th factor's product, added to what the ones before it gave.
    template <typename T>
    LinearArgs<T> args(size_t i, const T* weight, int64_t row, int64_t rows) const {
        const Factor& factor = factors_[i];
        T* out = out_.mutable_data_ptr<T>() + row * columns_;
        LinearArgs<T> a{
            rows,    factor.depth, columns_, factor.weight.stride(0), data<T>(factor.x) + row * factor.depth, weight,
            nullptr, out,          out};
        if (i > 0) return a;
        a.bias = data<T>(bias_);
        a.addend = addend_ ? data<T>(addend_) + row * columns_ : nullptr;
        return a;
    }

    int64_t depth() const {
        int64_t sum = 0;
        for (const Factor& factor : factors_) sum += factor.depth;
        return sum;
    }

    // The kernels of linear_kernel.h, which read the weight once, where it lies.
    template <typename T>
    void by_few_rows(Work& work) const {
        constexpr int64_t wide = 64;
        const int64_t highest = columns_ > 4 * wide ? 48 : 12;  // few columns leave the rows to be shared
        constexpr int64_t reading = 4;  // a number of the weight costs as much to read as these many rows to multiply
        const Pieces pieces(rows_, highest, divide_up(columns_, wide));
        const auto kernel = back_ ? kernels<T>().linear_back : kernels<T>().linear;
        work.add(pieces.count(), (pieces.height + reading) * depth() * wide, [=, this](int64_t first, int64_t last) {
            pieces.each(first, last, [&](int64_t row, int64_t rows, int64_t part, int64_t end) {
                for (size_t i = 0; i < factors_.size(); ++i) {
                    kernel(args(i, data<T>(factors_[i].weight), row, rows), part * wide,
                           std::min(end * wide, columns_));
                }
            });
        });
    }

    // The kernels of rows_kernel.h or tile_rows_kernel.h, which read the packed weight.
    template <typename T>
    void by_panels(Work& work) const {
        const Kernels<T>& kernels = kernels_of<T>(of_);
        const Pieces pieces(rows_, kPieceRows, divide_up(columns_, kernels.panel));
        work.add(pieces.count(), pieces.height * depth() * kernels.panel,
                 [=, this, &kernels](int64_t first, int64_t last) {
                     pieces.each(first, last, [&](int64_t row, int64_t rows, int64_t part, int64_t end) {
                         for (size_t i = 0; i < factors_.size(); ++i) {
                             kernels.linear_panels(args(i, data<T>(factors_[i].packed), row, rows), part, end);
                         }
                     });
                 });
    }

    void by_library() const {
        const Inside guard;
        Tensor to = out_.view({rows_, columns_});
        for (size_t i = 0; i < factors_.size(); ++i) {
            const Factor& factor = factors_[i];
            const Tensor left = factor.x.view({rows_, factor.depth});
            const Tensor right = back_ ? factor.weight : factor.weight.t();
            if (i > 0) {
                to.addmm_(left, right);
            } else if (addend_ || bias_) {
                at::addmm_out(to, addend_ ? addend_->view({rows_, columns_}) : *bias_, left, right);
            } else {
                at::mm_out(to, left, right);
            }
        }
        if (addend_ && bias_) to.add_(*bias_);
    }

    bool back_;
    Factors of_;
    int64_t rows_, columns_;
    std::vector<Factor> factors_;
    OptionalTensor bias_, addend_;
    Tensor out_;
    Way way_;
};

void run(Products& products, bool back, bool held, Factors of) {
    std::vector<Linear> all;
    for (Product& product : products) all.emplace_back(product, back, held, of);
    if (all.empty()) return;
    with_accumulator(all.front().dtype(), [&](auto zero) {
        using T = decltype(zero);
        Work packing, multiplying;
        for (Linear& linear : all) linear.pack<T>(packing);
        packing.run();
        for (Linear& linear : all) linear.add_to<T>(multiplying);
        multiplying.run();
    });
}

// A single product, of rows x with a weight.
Tensor product_of(const Tensor& x, const Tensor& weight, const OptionalTensor& c, Tensor* packed,
                  const OptionalTensor& out, bool back, Factors of) {
    Map map{weight, {}, {}, {}};
    if (packed != nullptr) held_of(map, back) = *packed;
    const bool is_bias = c && c->dim() == 1;
    Products one{{{{&map, x}}, is_bias ? *c : Tensor(), c && !is_bias ? *c : Tensor(), out.value_or(Tensor())}};
    run(one, back, packed != nullptr, of);
    if (packed != nullptr) *packed = held_of(map, back);
    return one.front().out;
}

// Rows of gradients and of inputs that meet, where they lie.
template <typename T>
struct Segment {
    int64_t rows;
    const T* y;
    int64_t y_stride;
    const T* x;
    int64_t x_stride;
};

// The last dimension's rows of a tensor, one after the other, without gaps in them.
struct Rows {
    Rows(const Tensor& tensor, const char* name) {
        expect_working_dtype(tensor, name, -1);
        TORCH_CHECK_VALUE(tensor.dim() > 1, name, ": expected 2 dimensions or more, got ", tensor.dim());
        this->tensor = tensor.dim() == 2 ? dense_rows(tensor) : contiguous(tensor);
        width = tensor.size(-1);
        count = c10::multiply_integers(tensor.sizes().begin(), tensor.sizes().end() - 1);
        stride = tensor.dim() == 2 ? this->tensor.stride(0) : width;
    }

    Tensor matrix() const { return tensor.dim() == 2 ? tensor : tensor.view({count, width}); }

    Tensor tensor;
    int64_t count, width, stride;
};

std::vector<Rows> rows_of(const Tensors& tensors, const char* name) {
    std::vector<Rows> found;
    for (const Tensor& tensor : tensors) found.emplace_back(tensor, name);
    return found;
}

int64_t count_rows(const std::vector<Rows>& all) {
    int64_t count = 0;
    for (const Rows& rows : all) count += rows.count;
    return count;
}

Tensor joined(const std::vector<Rows>& all) {
    Tensors matrices;
    for (const Rows& rows : all) matrices.push_back(rows.matrix());
    return matrices.size() == 1 ? matrices.front() : at::cat(matrices);
}

// The gradients of maps that meet the same rows dy.
class RowGradients {
  public:
    RowGradients(const RowProduct& product, Factors of)
        : product_(product), of_(of), dy_(rows_of(together(product.dy), "dy")) {
        expect_rows(dy_, "dy", dy_.front(), -1);
        const auto options = dy_.front().tensor.options();
        for (size_t i = 0; i < product.x.size(); ++i) {
            x_.push_back(rows_of(product.x[i], "x"));
            expect_rows(x_[i], "x", dy_.front(), count_rows(dy_));
            const Tensor& weight = product.weights[i];
            expect(weight, "sum", {outputs(), x_[i].front().width}, options);
            TORCH_CHECK_VALUE(weight.stride(1) == 1 || weight.size(1) <= 1,
                              "sum: expected rows without gaps, got strides ", weight.strides());
        }
        for (const Tensor& bias : product.biases) expect_result(bias, "bias", outputs(), options);
    }

    at::ScalarType dtype() const { return dy_.front().tensor.scalar_type(); }

    template <typename T>
    void add_to(Work& work) const {
        if (kernels_of<T>(of_).library) {
            by_library();
        } else {
            for (size_t i = 0; i < x_.size(); ++i) add_weight<T>(work, i);
        }
        if (!product_.biases.empty()) add_biases<T>(work);
    }

  private:
    // Where each tensor has few rows, they are worth a copy side by side.
    static Tensors together(const Tensors& dy) {
        constexpr int64_t few = 32;
        const bool many = dy.size() == 1 || dy.front().numel() >= few * dy.front().size(-1);
        if (many) return dy;
        const Inside guard;
        return {at::stack(dy)};
    }

    int64_t outputs() const { return dy_.front().width; }

    static void expect_rows(const std::vector<Rows>& all, const char* name, const Rows& like, int64_t count) {
        for (const Rows& rows : all) {
            TORCH_CHECK_VALUE(rows.width == all.front().width && rows.tensor.dtype() == like.tensor.dtype(), name,
                              ": expected rows of ", all.front().width, " ", like.tensor.dtype(), ", got of ",
                              rows.width, " ", rows.tensor.dtype());
        }
        const int64_t found = count_rows(all);
        TORCH_CHECK_VALUE(count < 0 || found == count, name, ": expected ", count, " rows, got ", found);
    }

    template <typename T>
    std::vector<Segment<T>> segments(const std::vector<Rows>& all) const {
        std::vector<Segment<T>> found;
        auto x = all.begin();
        int64_t from = 0;  // of x
        for (const Rows& dy : dy_) {
            for (int64_t row = 0; row < dy.count;) {
                while (from == x->count) ++x, from = 0;
                const int64_t count = std::min(dy.count - row, x->count - from);
                found.push_back({count, data<T>(dy.tensor) + row * dy.stride, dy.stride,
                                 data<T>(x->tensor) + from * x->stride, x->stride});
                row += count;
                from += count;
            }
        }
        if (found.empty()) found.push_back({0, nullptr, 0, nullptr, 0});  // what there is to write is zero
        return found;
    }

    template <typename T>
    void add_weight(Work& work, size_t i) const {
        const Tensor& weight = product_.weights[i];
        const Kernels<T>& kernels = kernels_of<T>(of_);
        const int64_t outputs = weight.size(0), columns = weight.size(1);
        const Pieces pieces(outputs, kPieceRows, divide_up(columns, kernels.panel));
        T* out = weight.mutable_data_ptr<T>();
        const int64_t stride = weight.stride(0);
        const bool accumulate = product_.accumulate;
        work.add(pieces.count(), count_rows(dy_) * pieces.height * kernels.panel,
                 [=, &kernels, parts = segments<T>(x_[i])](int64_t first, int64_t last) {
                     pieces.each(first, last, [&](int64_t output, int64_t count, int64_t part, int64_t end) {
                         bool add = accumulate;
                         for (const Segment<T>& s : parts) {
                             kernels.row_product({s.rows, count, columns, s.y + output, s.y_stride, s.x, s.x_stride,
                                                  out + output * stride, stride, add},
                                                 part, end);
                             add = true;
                         }
                     });
                 });
    }

    void by_library() const {
        const Inside guard;
        const Tensor dy = joined(dy_);
        for (size_t i = 0; i < x_.size(); ++i) {
            Tensor weight = product_.weights[i];
            if (product_.accumulate) {
                weight.addmm_(dy.t(), joined(x_[i]));
            } else {
                at::mm_out(weight, dy.t(), joined(x_[i]));
            }
        }
    }

    // The sums of some columns, piece by piece: fewer roundings in a long sum.
    template <typename T>
    void add_biases(Work& work) const {
        constexpr int64_t wide = 64;
        work.add(divide_up(outputs(), wide), count_rows(dy_) * wide, [=, this](int64_t first, int64_t last) {
            for (int64_t part = first; part < last; ++part) {
                const int64_t column = part * wide, count = std::min(wide, outputs() - column);
                std::array<T, wide> sums{}, of_piece;
                for (const Rows& dy : dy_) {
                    const Pieces pieces(dy.count, kPieceRows, 1);
                    pieces.each(0, pieces.count(), [&](int64_t row, int64_t rows, int64_t, int64_t) {
                        const T* y = data<T>(dy.tensor) + row * dy.stride + column;
                        kernels<T>().sum({y, rows, dy.stride, of_piece.data()}, 0, count);
                        for (int64_t i = 0; i < count; ++i) sums[i] += of_piece[i];
                    });
                }
                for (const Tensor& bias : product_.biases) {
                    T* out = bias.mutable_data_ptr<T>() + column;
                    for (int64_t i = 0; i < count; ++i) out[i] = product_.accumulate ? out[i] + sums[i] : sums[i];
                }
            }
        });
    }

    const RowProduct& product_;
    Factors of_;
    std::vector<Rows> dy_;
    std::vector<std::vector<Rows>> x_;
};

}  // namespace

template <Factors kFactors>
Tensor linear(const Tensor& x, const Tensor& weight, const OptionalTensor& c, Tensor* packed,
              const OptionalTensor& out) {
    return product_of(x, weight, c, packed, out, false, kFactors);
}

template <Factors kFactors>
Tensor linear_back(const Tensor& y, const Tensor& weight, const OptionalTensor& c, Tensor* packed,
                   const OptionalTensor& out) {
    return product_of(y, weight, c, packed, out, true, kFactors);
}

template <Factors kFactors>
void linear(Products& products) {
    run(products, false, true, kFactors);
}

template <Factors kFactors>
void linear_back(Products& products) {
    run(products, true, true, kFactors);
}

template <Factors kFactors>
void row_products(const RowProducts& products) {
    std::vector<RowGradients> all;
    for (const RowProduct& product : products) all.emplace_back(product, kFactors);
    if (all.empty()) return;
    with_accumulator(all.front().dtype(), [&](auto zero) {
        Work work;
        for (const RowGradients& gradients : all) gradients.add_to<decltype(zero)>(work);
        work.run();
    });
}

template <Factors kFactors>
Tensor row_product(const Tensor& dy, const Tensor& x, const OptionalTensor& sum) {
    expect_working_dtype(dy, "dy", 2);
    expect_floating(x, "x", 2);
    const std::array<int64_t, 2> shape{dy.size(1), x.size(1)};
    expect(x, "x", {dy.size(0), x.size(1)}, dy.options());
    expect_result(sum, "sum", shape, dy.options());
    const Tensor out = sum ? *sum : at::empty(shape, dy.options());
    row_products<kFactors>({{{dy}, {{x}}, {out}, {}, sum.has_value()}});
    return out;
}

#define IPRM_INSTANTIATE(factors)                                                                      \
    template Tensor linear<factors>(const Tensor&, const Tensor&, const OptionalTensor&, Tensor*,      \
                                    const OptionalTensor&);                                            \
    template Tensor linear_back<factors>(const Tensor&, const Tensor&, const OptionalTensor&, Tensor*, \
                                         const OptionalTensor&);                                       \
    template void linear<factors>(Products&);                                                          \
    template void linear_back<factors>(Products&);                                                     \
    template void row_products<factors>(const RowProducts&);                                           \
    template Tensor row_product<factors>(const Tensor&, const Tensor&, const OptionalTensor&);
IPRM_INSTANTIATE(Factors::kOfInputs)
IPRM_INSTANTIATE(Factors::kBfloat16)
#undef IPRM_INSTANTIATE

Tensor row_sum(const Tensor& dy) {
    expect_working_dtype(dy, "dy", 2);
    const Tensor out = at::empty({dy.size(1)}, dy.options());
    row_products<Factors::kOfInputs>({{{dy}, {}, {}, {out}}});
    return out;
}

}  // namespace iprm::cpu
