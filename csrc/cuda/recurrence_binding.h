// What the recurrence is made of, for binding.cpp, which includes this below its ops: they, and dense products, which
// are the library's.
#pragma once

#include <ATen/ops/addmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/elu.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/tanh.h>

namespace iprm::cuda::binding {
namespace {

using recurrence::Product;
using recurrence::Products;
using recurrence::RowProduct;
using recurrence::RowProducts;
using recurrence::Site;
using recurrence::Sites;
using recurrence::Term;

Tensor matrix(const Tensor& rows) { return rows.reshape({-1, rows.size(-1)}); }

// The tensors' rows, one after the other.
Tensor rows_of(const Tensors& tensors) {
    if (tensors.size() == 1) return matrix(tensors.front());
    Tensors all;
    for (const Tensor& tensor : tensors) all.push_back(matrix(tensor));
    return at::cat(all);
}

void multiply(Product& product, bool back) {
    Tensor flat;
    for (const Term& term : product.terms) {
        const Tensor weight = back ? term.map->weight : term.map->weight.t(), rows = matrix(term.x);
        if (flat.defined()) {
            flat.addmm_(rows, weight);
            continue;
        }
        if (!product.out.defined()) {
            at::DimVector shape(term.x.sizes());
            shape.back() = weight.size(1);
            product.out = at::empty(shape, term.x.options());
        }
        flat = product.out.view({rows.size(0), weight.size(1)});
        const Tensor c = product.addend.defined() ? matrix(product.addend) : product.bias;
        if (c.defined()) {
            at::addmm_out(flat, c, rows, weight);
        } else {
            at::mm_out(flat, rows, weight);
        }
    }
    if (product.bias.defined() && product.addend.defined()) product.out.add_(product.bias);
}

void linear(Products& products) {
    for (Product& product : products) multiply(product, false);
}

void linear_back(Products& products) {
    for (Product& product : products) multiply(product, true);
}

void row_products(const RowProducts& products) {
    for (const RowProduct& product : products) {
        const Tensor dy = rows_of(product.dy);
        for (size_t i = 0; i < product.x.size(); ++i) {
            const Tensor x = rows_of(product.x[i]);
            Tensor weight = product.weights[i];
            if (product.accumulate) {
                weight.addmm_(dy.t(), x);
            } else {
                at::mm_out(weight, dy.t(), x);
            }
        }
        if (product.biases.empty()) continue;
        Tensor bias = product.biases.front();
        if (product.accumulate) {
            bias.add_(dy.sum(0));
        } else {
            at::sum_out(bias, dy, 0);
        }
        for (size_t i = 1; i < product.biases.size(); ++i) product.biases[i].copy_(bias);
    }
}

Tensor activate(const std::string& name, const Tensor& x, const Tensor& out) {
    const Activation activation = parse_activation(name);
    if (activation == Activation::kIdentity) return x;
    Tensor y = out.defined() ? out : at::empty_like(x);
    switch (activation) {
        case Activation::kTanh:
            return at::tanh_out(y, x);
        case Activation::kElu:
            return at::elu_out(y, x);
        case Activation::kRelu:
            return at::relu_out(y, x);
        case Activation::kGelu:
            return at::gelu_out(y, x);
        default:
            return at::sigmoid_out(y, x);
    }
}

Tensor dropout_of_run(const Tensor& x, const Sites& sites, const OptionalTensor& seed, const Tensor& addend,
                      const Tensor& out) {
    Tensor y = x;
    for (size_t i = 0; i < sites.size(); ++i) {
        const Site& site = sites[i];
        const bool last = i + 1 == sites.size();
        y = dropout_to(y, site.p, seed, stream_of(site.step, site.role), last ? out : Tensor());
    }
    return addend.defined() ? y.add_(addend) : y;
}

Tensors pack(const Tensor&, const Tensor&, int64_t, bool) { return {}; }  // the kernels read the weights as they are

std::tuple<Tensor, Tensor> execution_of_run(const Tensor& v, const Tensor& u, const Tensor& g, const Tensor& l,
                                            const Tensor& c1a, const Tensor& c2, const Tensor& c2_bias, const Tensor& w,
                                            const Tensor& tokens, const OptionalTensor& mask,
                                            const OptionalTensor& seed, int64_t step, double p_product,
                                            double p_attention, const std::string& activation, const Tensors&,
                                            const Tensors&) {
    return execution(v, u, g, l, c1a, c2, c2_bias, w, tokens, mask, seed, step, p_product, p_attention, activation);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> execution_backward_of_run(
    const Tensor& grad_pooled, const OptionalTensor& grad_attention, const Tensor& v, const Tensor& u, const Tensor& g,
    const Tensor& l, const Tensor& c1a, const Tensor& c2, const Tensor& c2_bias, const Tensor& w, const Tensor& tokens,
    const Tensor& attention, const OptionalTensor& seed, int64_t step, double p_product, double p_attention,
    const std::string& activation, const Needs& needs, const Tensors&, const Tensors&) {
    return execution_backward(grad_pooled, grad_attention, v, u, g, l, c1a, c2, c2_bias, w, tokens, attention, seed,
                              step, p_product, p_attention, activation, needs);
}

const recurrence::Cores kCores{&linear,
                               &linear_back,
                               &row_products,
                               &activate,
                               &dropout_of_run,
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
