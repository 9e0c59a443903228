#include "run.h"

#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/elu.h>
#include <ATen/ops/elu_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/native_layer_norm.h>
#include <ATen/ops/native_layer_norm_backward.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/sigmoid_backward.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/tanh_backward.h>
#include <ATen/ops/threshold_backward.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

namespace iprm::recurrence {

Tensor activate(const std::string& name, const Tensor& x) {
    switch (parse_activation(name)) {
        case Activation::kIdentity:
            return x;
        case Activation::kTanh:
            return at::tanh(x);
        case Activation::kElu:
            return at::elu(x);
        case Activation::kRelu:
            return at::relu(x);
        case Activation::kGelu:
            return at::gelu(x);
        default:
            return at::sigmoid(x);
    }
}

const Tensor& kept_of(const std::string& name, const Tensor& x, const Tensor& y) { return name == "gelu" ? x : y; }

Tensor gradient(const std::string& name, const Tensor& dy, const Tensor& kept) {
    switch (parse_activation(name)) {
        case Activation::kIdentity:
            return dy;
        case Activation::kTanh:
            return at::tanh_backward(dy, kept);
        case Activation::kElu:
            return at::elu_backward(dy, 1.0, 1.0, 1.0, true, kept);
        case Activation::kRelu:
            return at::threshold_backward(dy, kept, 0);
        case Activation::kGelu:
            return at::gelu_backward(dy, kept);
        default:
            return at::sigmoid_backward(dy, kept);
    }
}

Kept::Kept(const std::vector<std::string>& names, const Tensors& tensors) {
    TORCH_CHECK_VALUE(names.size() == tensors.size(), "kept: expected ", names.size(), " tensors, got ",
                      tensors.size());
    for (size_t i = 0; i < names.size(); ++i) tensors_.emplace(names[i], Entry{tensors[i]});
}

Tensor Kept::place(const std::string& name) {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? Tensor() : found->second.tensor.select(0, found->second.next++);
}

void Kept::keep(const std::string& name, const Tensor& x) {
    const auto found = tensors_.find(name);
    if (found != tensors_.end()) found->second.elsewhere.push_back(x);
}

void Kept::finish() {
    for (auto& [_, entry] : tensors_) {
        if (!entry.elsewhere.empty()) at::stack_out(entry.tensor, entry.elsewhere);
        entry.elsewhere.clear();
    }
}

Run::Run(const Cores& cores, Weights& weights, const Options& options, OptionalTensor seed, Kept kept, bool returning,
         std::set<std::string> needs)
    : cores(cores),
      w(weights),
      o(options),
      seed(std::move(seed)),
      kept(std::move(kept)),
      returning(returning),
      needs(std::move(needs)) {}

// Products of rows with a weight: (B, K, inputs) -> (B, K, outputs) and back.

Tensor Run::put(Products& products, Map& map, const Tensor& x, const Tensor& out) {
    at::DimVector shape(x.sizes());
    shape.back() = map.weight.size(0);
    products.push_back({{{&map, x}}, map.bias, {}, out.defined() ? out : at::empty(shape, x.options())});
    return products.back().out;
}

Tensor Run::linear(Map& map, const Tensor& x, const Tensor& out) const {
    Products one{{{{&map, x}}, map.bias, {}, out}};
    linear(one);
    return one.front().out;
}

Tensor Run::linear_back(Map& map, const Tensor& dy, const Tensor& addend, const Tensor& out) const {
    Products one{{{{&map, dy}}, {}, addend, out}};
    linear_back(one);
    return one.front().out;
}

Tensors Run::sums_of(const std::vector<Parts>& gradients) const {
    Products products;
    for (const Parts& parts : gradients) {
        if (!parts.terms.empty()) products.push_back({parts.terms, {}, parts.sum});
    }
    linear_back(products);
    Tensors sums;
    auto made = products.begin();
    for (const Parts& parts : gradients) sums.push_back(parts.terms.empty() ? parts.sum : (made++)->out);
    return sums;
}

// Dropout.

namespace {

Sites active(Sites sites) {
    sites.erase(std::remove_if(sites.begin(), sites.end(), [](const Site& site) { return site.p == 0.0; }),
                sites.end());
    return sites;
}

}  // namespace

bool Run::drops(const Sites& sites) { return !active(sites).empty(); }

Tensor Run::drop(const Tensor& x, const Sites& sites, const Tensor& out) const {
    return drops(sites) ? cores.dropout(x, active(sites), seed, {}, out) : x;
}

Tensor Run::drop_and_add(const Tensor& x, const Sites& sites, const Tensor& addend) const {
    return cores.dropout(x, active(sites), seed, addend, {});
}

Tensor Run::dropped_input(const std::string& name, const Tensor& x, const Sites& sites) {
    return drops(sites) ? drop(x, sites, kept.place(name)) : x;
}

Tensor Run::dropped_linear(const std::string& name, const Tensor& x, const Sites& sites) {
    return linear(w[name], dropped_input(name, x, sites));
}

Tensor Run::dropped_linear_back(const std::string& name, const Tensor& dy, const Sites& sites, const Tensor& addend) {
    if (!drops(sites)) return linear_back(w[name], dy, addend);
    return drop_and_add(linear_back(w[name], dy), sites, addend);
}

// Two layers.

Tensor Run::two_layers(const std::string& first, const std::string& second, Map& map, const Tensor& x,
                       const std::string& activation, const Site& site, const Tensor& out) {
    const Tensor before = linear(w[first], x), hidden = activate(activation, before);
    kept.keep(first + "φ", kept_of(activation, before, hidden));  // where `second` does not tell it
    Tensor dropped = hidden;
    if (site.p > 0.0) {
        dropped = drop(hidden, {site}, kept.place(second));
    } else {
        kept.keep(second, hidden);
    }
    return linear(map, dropped, out);
}

Tensor Run::two_layers_back(const std::string& first, const std::string& second, Map& map, int64_t t, const Tensor& dy,
                            const std::string& activation, const Site& site) {
    row(second, t, dy);
    const Tensor slope = kept.at(input_of(first + "φ", second), t);
    const Tensor d_before = gradient(activation, drop(linear_back(map, dy), {site}), slope);
    row(first, t, d_before);
    return d_before;
}

// A map after the pooling.

void Run::project(Product& product, const std::string& name, const Tensor& pooled, const Tensor& a, const Site& site) {
    Map& map = w[name];
    product.terms.push_back({&map, pooled});
    const bool drops = site.p > 0.0;
    Tensor& to = drops ? product.addend : product.bias;
    const Tensor bias = drops ? map.bias * drop(a, {site}).sum(-1, true).to(pooled.scalar_type()) : map.bias;
    to = to.defined() ? to + bias : bias;
}

std::pair<Tensor, Tensor> Run::project_back(const std::string& name, int64_t t, const Tensor& dy, const Tensor& a,
                                            const Tensor& da, const Site& site) {
    Map& map = w[name];
    row(name, t, dy);
    Tensor d_attention = da;
    if (site.p > 0.0) {
        const Tensor total = drop(a, {site}).sum(-1, true).to(dy.scalar_type());
        add(name + ".bias", (dy * total).sum({0, 1}));
        const Tensor d_total = at::matmul(dy, map.bias).unsqueeze(-1).to(a.scalar_type());
        const Tensor d = drop(d_total.expand_as(a), {site});
        d_attention = da.defined() ? da + d : d;
    }
    return {linear_back(map, dy), d_attention};
}

// LN?

Tensor Run::norm(const std::string& name, const Tensor& x) {
    if (!w.has(name)) return x;
    kept.keep(name, x);
    const Map& map = w[name];
    return at::layer_norm(x, {x.size(-1)}, map.weight, map.bias, o.epsilons.at(name));
}

Tensor Run::norm_back(const std::string& name, int64_t t, const Tensor& dy) {
    if (!w.has(name)) return dy;
    const Map& map = w[name];
    const Tensor x = kept.at(name, t);
    const auto shape = dy.sizes().slice(dy.dim() - 1);
    const auto [_, mean, rstd] = at::native_layer_norm(x, shape, map.weight, map.bias, o.epsilons.at(name));
    const bool need = needed(name);
    const auto [dx, d_weight, d_bias] =
        at::native_layer_norm_backward(dy.contiguous(), x, shape, mean, rstd, map.weight, map.bias, {true, need, need});
    if (need) {
        add(name, d_weight);
        add(name + ".bias", d_bias);
    }
    return dx;
}

// Weight gradients.

void Run::row(const std::string& name, int64_t t, const Tensor& dy) {
    Tensors& rows = rows_[name];
    rows.resize(o.steps);
    rows[t] = dy;
}

Gradient Run::map_gradient(const std::string& name, const Tensors& inputs) {
    std::vector<Tensors> each;
    for (const Tensor& x : inputs) each.push_back({x});
    const auto bias = sums.find(name + ".bias");
    const bool found = bias != sums.end();
    const Gradient gradient = row_gradient(rows(name), std::move(each), !found);
    return {gradient.first, found ? bias->second : gradient.second};
}

Gradient Run::row_gradient(Tensors dy, std::vector<Tensors> inputs, bool need_bias) {
    const auto options = dy.front().options();
    const int64_t outputs = dy.front().size(-1);
    int64_t width = 0;
    for (const Tensors& x : inputs) width += x.front().size(-1);
    Gradient found{at::empty({outputs, width}, options), Tensor()};
    RowProduct product{std::move(dy), std::move(inputs), {}, {}};
    int64_t first = 0;
    for (const Tensors& x : product.x) {
        const int64_t columns = x.front().size(-1);
        product.weights.push_back(found.first.narrow(1, first, columns));
        first += columns;
    }
    if (need_bias) product.biases.push_back(found.second = at::empty({outputs}, options));
    row_products_.push_back(std::move(product));
    return found;
}

std::vector<Gradient> Run::shared_gradients(Tensors dy, const Tensors& inputs) {
    const auto options = dy.front().options();
    const int64_t outputs = dy.front().size(-1);
    RowProduct product{std::move(dy), {}, {}, {}};
    std::vector<Gradient> found;
    for (const Tensor& x : inputs) {
        found.emplace_back(at::empty({outputs, x.size(-1)}, options), at::empty({outputs}, options));
        product.x.push_back({x});
        product.weights.push_back(found.back().first);
        product.biases.push_back(found.back().second);
    }
    row_products_.push_back(std::move(product));
    return found;
}

void Run::finish_gradients() {
    cores.row_products(row_products_);
    row_products_.clear();
}

Gradient Run::gate_gradient(const std::string& name) const {
    return {sums.at(name).unsqueeze(0), at::zeros_like(w[name].bias)};
}

void Run::add(const std::string& name, const Tensor& grad) {
    const auto [found, first] = sums.emplace(name, grad);
    if (first) return;
    sums_to_add_.push_back(found->second);
    parts_.push_back(grad);
}

void Run::add_up() {
    if (!parts_.empty()) at::_foreach_add_(sums_to_add_, parts_);
    sums_to_add_.clear();
    parts_.clear();
}

void Run::add_products(const std::string& weight, const std::string& bias, const Tensor& dy, const Tensor& x) {
    Tensor &d_weight = sums[weight], &d_bias = sums[bias];
    const bool accumulate = d_weight.defined();
    if (!accumulate) {
        d_weight = at::empty({dy.size(-1), x.size(-1)}, dy.options());
        d_bias = at::empty({dy.size(-1)}, dy.options());
    }
    cores.row_products({{{dy}, {{x}}, {d_weight}, {d_bias}, accumulate}});
}

}  // namespace iprm::recurrence
