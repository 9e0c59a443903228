// What the recurrence is made of, for binding.cpp, which includes this below its ops: they, and dense products, which
// are the library's.
#pragma once

#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sum.h>

namespace iprm::cuda::binding {
namespace {

using recurrence::Map;

// rows times matrix, plus c where it is defined: a bias, or of the result's shape.
Tensor product(const Tensor& rows, const Tensor& matrix, const Tensor& c, const Tensor& to) {
    at::DimVector shape(rows.sizes());
    shape.back() = matrix.size(1);
    const Tensor result = to.defined() ? to : at::empty(shape, rows.options());
    const Tensor left = rows.reshape({-1, rows.size(-1)});
    Tensor flat = result.view({left.size(0), shape.back()});
    if (c.defined()) {
        at::addmm_out(flat, c.dim() > 1 ? c.reshape(flat.sizes()) : c, left, matrix);
    } else {
        at::mm_out(flat, left, matrix);
    }
    return result;
}

Tensor linear(const Tensor& x, Map& map, const Tensor& c, const Tensor& to) {
    return product(x, map.weight.t(), c, to);
}

Tensor linear_back(const Tensor& y, Map& map, const Tensor& c, const Tensor& to) {
    return product(y, map.weight, c, to);
}

Tensor row_product(const Tensor& dy, const Tensor& x, const Tensor& sum) {
    Tensor s = sum;
    return sum.defined() ? s.addmm_(dy.t(), x) : at::mm(dy.t(), x);
}

Tensor row_sum(const Tensor& dy) { return dy.sum(0); }

Tensors pack(const Tensor&, const Tensor&, bool) { return {}; }  // the kernels read the weights as they are

std::tuple<Tensor, Tensor> execution_of_run(const Tensor& v, const Tensor& u, const Tensor& g, const Tensor& l,
                                            const Tensor& c1a, const Tensor& c2, const Tensor& c2_bias, const Tensor& w,
                                            const Tensor& tokens, const OptionalTensor& mask,
                                            const OptionalTensor& seed, int64_t step, double p_product,
                                            double p_attention, const std::string& activation, const Tensors&) {
    return execution(v, u, g, l, c1a, c2, c2_bias, w, tokens, mask, seed, step, p_product, p_attention, activation);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> execution_backward_of_run(
    const Tensor& grad_pooled, const OptionalTensor& grad_attention, const Tensor& v, const Tensor& u, const Tensor& g,
    const Tensor& l, const Tensor& c1a, const Tensor& c2, const Tensor& c2_bias, const Tensor& w, const Tensor& tokens,
    const Tensor& attention, const OptionalTensor& seed, int64_t step, double p_product, double p_attention,
    const std::string& activation, const Needs& needs, const Tensors&) {
    return execution_backward(grad_pooled, grad_attention, v, u, g, l, c1a, c2, c2_bias, w, tokens, attention, seed,
                              step, p_product, p_attention, activation, needs);
}

const recurrence::Cores kCores{&linear,
                               &linear_back,
                               &row_product,
                               &row_sum,
                               &dropout_to,
                               &formation,
                               &formation_backward,
                               &pack,
                               &execution_of_run,
                               &execution_backward_of_run,
                               &execution_simple,
                               &execution_simple_backward,
                               &composition,
                               &composition_backward};

}  // namespace
}  // namespace iprm::cuda::binding
