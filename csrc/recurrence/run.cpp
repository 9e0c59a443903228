#include "run.h"

#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/elu_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/native_layer_norm.h>
#include <ATen/ops/native_layer_norm_backward.h>
#include <ATen/ops/sigmoid_backward.h>
#include <ATen/ops/tanh_backward.h>
#include <ATen/ops/threshold_backward.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <iterator>

namespace iprm::recurrence {

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
    for (size_t i = 0; i < names.size(); ++i) tensors_.emplace(names[i], Entry(tensors[i]));
}

Tensor Kept::place(const std::string& name) {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? Tensor() : found->second.place(found->second.next++);
}

Tensor Kept::place_ahead(const std::string& name) {
    const auto found = tensors_.find(name);
    if (found == tensors_.end() || found->second.next == found->second.views.size()) return Tensor();
    return found->second.place(found->second.next);
}

void Kept::keep(const std::string& name, const Tensor& x) {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) return;
    Entry& entry = found->second;
    if (!x.is_same(entry.views.at(entry.next))) entry.elsewhere.emplace_back(entry.next, x);
    ++entry.next;
}

void Kept::finish() {
    for (auto& [_, entry] : tensors_) {
        if (entry.elsewhere.empty()) continue;
        if (entry.elsewhere.size() == entry.views.size()) {
            Tensors all;
            for (const auto& [_, x] : entry.elsewhere) all.push_back(x);
            at::stack_out(entry.tensor, all);
        } else {
            for (const auto& [i, x] : entry.elsewhere) entry.place(i).copy_(x);
        }
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

bool drops_any(const Site& site) { return site.p > 0.0; }

Sites active(const Sites& sites) {
    Sites found;
    std::copy_if(sites.begin(), sites.end(), std::back_inserter(found), drops_any);
    return found;
}

}  // namespace

bool Run::drops(const Sites& sites) { return std::any_of(sites.begin(), sites.end(), drops_any); }

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
    // All are made where they are kept: the slope apart where `second` does not tell it.
    const bool of_before = activation == "gelu", is_dropped = site.p > 0.0;
    const Tensor slope = kept.place_ahead(first + "φ"), input = is_dropped ? Tensor() : kept.place_ahead(second);
    const Tensor before = linear(w[first], x, of_before ? slope : Tensor());
    const Tensor hidden = cores.activate(activation, before, of_before || !slope.defined() ? input : slope);
    kept.keep(first + "φ", kept_of(activation, before, hidden));
    Tensor dropped = hidden;
    if (is_dropped) {
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
    if (site.p > 0.0) {
        product.terms.push_back({&column_of(name), total(a, site, pooled)});
    } else {
        product.bias = biases_sum(product.bias, name);
    }
}

// The same in every step.
const Tensor& Run::biases_sum(const Tensor& bias, const std::string& name) {
    Tensor& sum = biases_[name];
    if (!sum.defined()) sum = bias.defined() ? bias + w[name].bias : w[name].bias;
    return sum;
}

std::pair<Tensor, Tensor> Run::project_back(const std::string& name, int64_t t, const Tensor& dy, const Tensor& a,
                                            const Tensor& da, const Site& site) {
    row(name, t, dy);
    Products back{{{{&w[name], dy}}}};
    if (site.p == 0.0) {
        linear_back(back);
        return {back[0].out, da};
    }
    back.push_back({{{&column_of(name), dy}}});
    linear_back(back);
    if (needed(name)) row(name + ".total", t, total(a, site, dy));
    const Tensor d = drop(back[1].out.to(a.scalar_type()).expand_as(a), {site});
    return {back[0].out, da.defined() ? da + d : d};
}

Gradient Run::project_gradient(const std::string& name, const Tensor& pooled) {
    if (rows_.count(name + ".total") == 0) return map_gradient(name, {pooled});
    Gradient found = row_gradient(rows(name), {{pooled}}, false);
    found.second = at::empty({found.first.size(0)}, found.first.options());
    RowProduct& product = row_products_.back();
    product.x.push_back(rows(name + ".total"));
    product.weights.push_back(found.second.unsqueeze(1));
    return found;
}

Tensor Run::total(const Tensor& a, const Site& site, const Tensor& like) const {
    return drop(a, {site}).sum(-1, true).to(like.scalar_type());
}

Map& Run::column_of(const std::string& name) {
    return columns_.try_emplace(name, Map{w[name].bias.unsqueeze(1), {}, {}, {}}).first->second;
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
    return row_gradient(rows(name), std::move(each));
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
        product.weights.push_back(columns == width ? found.first : found.first.narrow(1, first, columns));
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
