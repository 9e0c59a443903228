// What a backend gives to the recurrence: the attention cores, dropout, and products of rows with a weight.
#pragma once

#include <tuple>

#include "../common/arguments.h"
#include "weights.h"

namespace iprm::recurrence {

using Tensors = std::vector<Tensor>;

// Rows that meet a map.
struct Term {
    Map* map;
    Tensor x;
};

// out (..., outputs) = the sum of the terms' products + bias + addend.
struct Product {
    std::vector<Term> terms;  // at least one: x (..., inputs) for the weight, or y (..., outputs) for the way back
    Tensor bias{}, addend{};  // (outputs), and like out, which it may be; or undefined
    Tensor out{};             // contiguous, and apart from the terms; where it is undefined, it is made
};
using Products = std::vector<Product>;

// The gradients of maps that meet the same rows: weights[i] (outputs, inputs) = dy^T x[i], each bias = the sum of dy.
struct RowProduct {
    Tensors dy;               // (..., outputs), their rows one after the other
    std::vector<Tensors> x;   // (..., inputs) for each weight, as many rows
    Tensors weights, biases;  // written to: rows without gaps, in whatever distance; and contiguous
    bool accumulate = false;  // to what is there
};
using RowProducts = std::vector<RowProduct>;

// One dropout mask.
struct Site {
    double p;
    Role role;
    int64_t step;
};
// Masks that follow one another.
using Sites = std::vector<Site>;

// A table of functions. Those of the attentions are the ops, see csrc/cpu/ops.h.
struct Cores {
    // Products that do not wait for one another: x -> weight x, and y -> y weight.
    void (*linear)(Products& products);
    void (*linear_back)(Products& products);
    void (*row_products)(const RowProducts& products);
    // phi(x), which is x itself where nothing is to be done; written to `out` otherwise, if that is defined.
    Tensor (*activate)(const std::string& name, const Tensor& x, const Tensor& out);
    // drop(x) + addend, written to `out`; both may be undefined. There is a site at least, and each drops.
    Tensor (*dropout)(const Tensor& x, const Sites& sites, const OptionalTensor& seed, const Tensor& addend,
                      const Tensor& out);

    std::tuple<Tensor, Tensor> (*formation)(const Tensor& query, const Tensor& tokens, const Tensor& gate,
                                            const OptionalTensor& mask, const OptionalTensor& seed, int64_t step,
                                            double p_attention);
    std::tuple<Tensor, Tensor, Tensor> (*formation_backward)(const Tensor& grad_z, const OptionalTensor& grad_attention,
                                                             const Tensor& query, const Tensor& tokens,
                                                             const Tensor& gate, const Tensor& attention,
                                                             const OptionalTensor& seed, int64_t step,
                                                             double p_attention, const Needs& needs);

    // C1a and C2 in the form that the calls of `execution` with so many tokens read, which are given it as `packed`.
    // `pairs` are two tensors of Kept, or none.
    Tensors (*pack)(const Tensor& c1a, const Tensor& c2, int64_t tokens, bool backward);
    std::tuple<Tensor, Tensor> (*execution)(const Tensor& v, const Tensor& u, const Tensor& g, const Tensor& l,
                                            const Tensor& c1a, const Tensor& c2, const Tensor& c2_bias, const Tensor& w,
                                            const Tensor& tokens, const OptionalTensor& mask,
                                            const OptionalTensor& seed, int64_t step, double p_product,
                                            double p_attention, const std::string& activation, const Tensors& packed,
                                            const Tensors& pairs);
    std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> (*execution_backward)(
        const Tensor& grad_pooled, const OptionalTensor& grad_attention, const Tensor& v, const Tensor& u,
        const Tensor& g, const Tensor& l, const Tensor& c1a, const Tensor& c2, const Tensor& c2_bias, const Tensor& w,
        const Tensor& tokens, const Tensor& attention, const OptionalTensor& seed, int64_t step, double p_product,
        double p_attention, const std::string& activation, const Needs& needs, const Tensors& packed,
        const Tensors& pairs);
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
