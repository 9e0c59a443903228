// What a backend gives to the recurrence: the attention cores, dropout, and products of rows with a weight.
#pragma once

#include <tuple>

#include "../common/arguments.h"
#include "weights.h"

namespace iprm::recurrence {

using Tensors = std::vector<Tensor>;

// A table of functions. Those of the attentions are the ops, see csrc/cpu/ops.h.
struct Cores {
    // x (..., inputs) -> weight x + c (..., outputs); c is a bias or has the result's shape. Where `out` is defined, a
    // contiguous tensor, the result is written there. It may be c.
    Tensor (*linear)(const Tensor& x, Map& map, const Tensor& c, const Tensor& out);
    // y (..., outputs) -> y weight + c (..., inputs); c may be undefined.
    Tensor (*linear_back)(const Tensor& y, Map& map, const Tensor& c, const Tensor& out);
    // dy (rows, outputs), x (rows, inputs) -> dy^T x (outputs, inputs), added to `sum` in place where that is defined.
    Tensor (*row_product)(const Tensor& dy, const Tensor& x, const Tensor& sum);
    // dy (rows, outputs) -> the sum of its rows (outputs).
    Tensor (*row_sum)(const Tensor& dy);
    // drop(x), written to `out` where that is defined.
    Tensor (*dropout)(const Tensor& x, double p, const OptionalTensor& seed, int64_t stream, const Tensor& out);

    std::tuple<Tensor, Tensor> (*formation)(const Tensor& query, const Tensor& tokens, const Tensor& gate,
                                            const OptionalTensor& mask, const OptionalTensor& seed, int64_t step,
                                            double p_attention);
    std::tuple<Tensor, Tensor, Tensor> (*formation_backward)(const Tensor& grad_z, const OptionalTensor& grad_attention,
                                                             const Tensor& query, const Tensor& tokens,
                                                             const Tensor& gate, const Tensor& attention,
                                                             const OptionalTensor& seed, int64_t step,
                                                             double p_attention, const Needs& needs);

    // C1a and C2 in the form that the calls of `execution` read, which are given it as `packed`.
    Tensors (*pack)(const Tensor& c1a, const Tensor& c2, bool backward);
    std::tuple<Tensor, Tensor> (*execution)(const Tensor& v, const Tensor& u, const Tensor& g, const Tensor& l,
                                            const Tensor& c1a, const Tensor& c2, const Tensor& c2_bias, const Tensor& w,
                                            const Tensor& tokens, const OptionalTensor& mask,
                                            const OptionalTensor& seed, int64_t step, double p_product,
                                            double p_attention, const std::string& activation, const Tensors& packed);
    std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> (*execution_backward)(
        const Tensor& grad_pooled, const OptionalTensor& grad_attention, const Tensor& v, const Tensor& u,
        const Tensor& g, const Tensor& l, const Tensor& c1a, const Tensor& c2, const Tensor& c2_bias, const Tensor& w,
        const Tensor& tokens, const Tensor& attention, const OptionalTensor& seed, int64_t step, double p_product,
        double p_attention, const std::string& activation, const Needs& needs, const Tensors& packed);
    std::tuple<Tensor, Tensor> (*execution_simple)(const Tensor& keys, const Tensor& query, const Tensor& w,
                                                   const Tensor& tokens, const OptionalTensor& mask,
                                                   const OptionalTensor& seed, int64_t step, double p_product,
                                                   double p_attention, const std::string& activation);
    std::tuple<Tensor, Tensor, Tensor, Tensor> (*execution_simple_backward)(
        const Tensor& grad_pooled, const OptionalTensor& grad_attention, const Tensor& keys, const Tensor& query,
        const Tensor& w, const Tensor& tokens, const Tensor& attention, const OptionalTensor& seed, int64_t step,
        double p_product, double p_attention, const std::string& activation, const Needs& needs);

    std::tuple<Tensor, Tensor, Tensor> (*composition)(const Tensor& query, const Tensors& keys,
                                                      const Tensors& operations, const Tensors& results,
                                                      const Tensor& gate, bool mask_self, const OptionalTensor& seed,
                                                      int64_t step, double p_product, double p_value,
                                                      double p_attention);
    std::tuple<Tensor, Tensors, Tensors, Tensors, Tensor> (*composition_backward)(
        const Tensor& grad_operations, const Tensor& grad_results, const OptionalTensor& grad_attention,
        const Tensor& query, const Tensors& keys, const Tensors& operations, const Tensors& results, const Tensor& gate,
        const Tensor& attention, bool mask_self, const OptionalTensor& seed, int64_t step, double p_product,
        double p_value, double p_attention);
};

}  // namespace iprm::recurrence
