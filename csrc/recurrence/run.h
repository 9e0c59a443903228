// What the stages share in one pass over the steps: the backend's cores, the weights, dropout, norms, what is kept, and
// the rows that weight gradients are made of. Mirrors iprm_kernels/steps/run.py; but here products that do not wait for
// one another are made together.
#pragma once

#include <ATen/TensorOperators.h>

#include <set>
#include <utility>

#include "cores.h"

namespace iprm::recurrence {

// What `gradient` needs of y = phi(x), and the gradient of x from that of y.
const Tensor& kept_of(const std::string& name, const Tensor& x, const Tensor& y);
Tensor gradient(const std::string& name, const Tensor& dy, const Tensor& kept);

// What a gradient is the sum of: products on their way back, and gradients as they are.
struct Parts {
    std::vector<Term> terms{};
    Tensor sum{};  // of the latter, if there are any

    void add(Map& map, const Tensor& dy) { terms.push_back({&map, dy}); }
    void add(const Tensor& d) { sum = sum.defined() ? sum + d : d; }
};

// A weight's and a bias's.
using Gradient = std::pair<Tensor, Tensor>;
using Gradients = std::unordered_map<std::string, Gradient>;

// What the backward needs, by name: tensors of all steps, each step's in its place (iprm_kernels/steps/kept.py has the
// list). The forward fills them in the order of its calls.
class Kept {
  public:
    Kept(const std::vector<std::string>& names, const Tensors& tensors);

    bool has(const std::string& name) const { return tensors_.count(name) > 0; }
    const Tensor& all(const std::string& name) const { return tensors_.at(name).tensor; }
    const Tensor& at(const std::string& name, int64_t i) { return tensors_.at(name).place(i); }
    // The next place of that name, for its tensor to be written to; undefined where the name is not kept.
    Tensor place(const std::string& name);
    // The next place without moving on: for a tensor that is written there and then passed to `keep`. Undefined where
    // the name is not kept, or all its places are filled.
    Tensor place_ahead(const std::string& name);
    // Keeps a tensor, be it made in the next place or not: then it is copied there by `finish`.
    void keep(const std::string& name, const Tensor& x);
    void finish();

  private:
    struct Entry {
        explicit Entry(const Tensor& tensor) : tensor(tensor), views(tensor.size(0)) {}
        const Tensor& place(size_t i) {
            if (!views.at(i).defined()) views[i] = tensor.select(0, static_cast<int64_t>(i));
            return views[i];
        }

        Tensor tensor;
        Tensors views;  // of its places, made when they are asked for
        size_t next = 0;
        std::vector<std::pair<size_t, Tensor>> elsewhere{};  // by place
    };
    std::unordered_map<std::string, Entry> tensors_;
};

class Run {
  public:
    Run(const Cores& cores, Weights& weights, const Options& options, OptionalTensor seed, Kept kept, bool returning,
        std::set<std::string> needs);

    const Cores& cores;
    Weights& w;
    const Options& o;
    OptionalTensor seed;
    Kept kept;
    bool returning;               // this is the walk back
    std::set<std::string> needs;  // the maps whose gradients are asked for

    bool needed(const std::string& name) const { return needs.count(name) > 0; }
    // The rows that went into a map: kept under its name where they were dropped, otherwise under another.
    const std::string& input_of(const std::string& name, const std::string& otherwise) const {
        return kept.has(name) ? name : otherwise;
    }

    // Products that do not wait for one another, made at once: of rows with weights, and of gradients back with them.
    // What each gives stands in its `out`.
    void linear(Products& products) const { cores.linear(products); }
    void linear_back(Products& products) const { cores.linear_back(products); }
    // Adds map.weight x + map.bias to the products. The numbers are there once these are made.
    static Tensor put(Products& products, Map& map, const Tensor& x, const Tensor& out = {});
    // map.weight x + map.bias.
    Tensor linear(Map& map, const Tensor& x, const Tensor& out = {}) const;
    // The sums of all their parts, made at once. A sum of none is undefined.
    Tensors sums_of(const std::vector<Parts>& gradients) const;
    // The gradient of x from that of map.weight x, plus an addend.
    Tensor linear_back(Map& map, const Tensor& dy, const Tensor& addend = {}, const Tensor& out = {}) const;

    // Whether any of the sites drops anything.
    static bool drops(const Sites& sites);
    // drop(x), one site after the other; of a gradient too, as a mask is its own transpose.
    Tensor drop(const Tensor& x, const Sites& sites, const Tensor& out = {}) const;
    // drop(x) + addend, where anything is dropped.
    Tensor drop_and_add(const Tensor& x, const Sites& sites, const Tensor& addend) const;
    // drop(x), which goes into the map of that name; kept where it is not x itself.
    Tensor dropped_input(const std::string& name, const Tensor& x, const Sites& sites);
    // W drop(x) + bias, for the map of that name.
    Tensor dropped_linear(const std::string& name, const Tensor& x, const Sites& sites);
    Tensor dropped_linear_back(const std::string& name, const Tensor& dy, const Sites& sites, const Tensor& addend);

    // second drop(phi(first x)), and the gradient of what the first layer gives; both layers' rows are put down.
    Tensor two_layers(const std::string& first, const std::string& second, Map& map, const Tensor& x,
                      const std::string& activation, const Site& site, const Tensor& out = {});
    Tensor two_layers_back(const std::string& first, const std::string& second, Map& map, int64_t t, const Tensor& dy,
                           const std::string& activation, const Site& site);

    // A map after the pooling: sum_j drop(a_kj) (W x_j + b) = W (sum_j drop(a_kj) x_j) + b sum_j drop(a_kj).
    // Adds W pooled + b total to a product. total = sum_j drop(a_kj) is 1 where nothing is dropped; else b is the
    // weight of a second term, of one input.
    void project(Product& product, const std::string& name, const Tensor& pooled, const Tensor& a, const Site& site);
    // -> the gradient of pooled, and that of the attention a.
    std::pair<Tensor, Tensor> project_back(const std::string& name, int64_t t, const Tensor& dy, const Tensor& a,
                                           const Tensor& da, const Site& site);
    // W's and b's from what was pooled (T, B, K, .), as `map_gradient` has them.
    Gradient project_gradient(const std::string& name, const Tensor& pooled);

    // LN(x) by the norm of that name; x where there is none.
    Tensor norm(const std::string& name, const Tensor& x);
    Tensor norm_back(const std::string& name, int64_t t, const Tensor& dy);

    // Puts down the gradient (B, K, outputs) of what a map gives in step t; under its name with ".total" what its bias
    // met.
    void row(const std::string& name, int64_t t, const Tensor& dy);
    // The rows put down under a name, of all steps. They are asked for once, and not held longer.
    Tensors rows(const std::string& name) {
        auto found = rows_.extract(name);
        TORCH_INTERNAL_ASSERT(found, "no rows of ", name);
        return std::move(found.mapped());
    }
    const Tensor& rows_of_step(const std::string& name, int64_t t) const { return rows_.at(name)[t]; }

    // Weight and bias gradients of a map from its rows and its inputs (T, B, K, .), which are joined along the width.
    // The numbers of these and the next are there once `finish_gradients` has made them, all at once.
    Gradient map_gradient(const std::string& name, const Tensors& inputs);
    // Likewise of rows that are given, where each input is of several tensors, one after the other.
    Gradient row_gradient(Tensors dy, std::vector<Tensors> inputs, bool need_bias = true);
    // Of several maps that the same rows meet, each with its own input.
    std::vector<Gradient> shared_gradients(Tensors dy, const Tensors& inputs);
    void finish_gradients();
    // Both gradients of what was added up step by step: a layer norm, or a map of the tokens.
    Gradient summed_gradient(const std::string& name) const { return {sums.at(name), sums.at(name + ".bias")}; }
    // Of a map to one logit. Its bias shifts a whole row of logits, and drops out of the softmax.
    Gradient gate_gradient(const std::string& name) const;

    // Adds a step's part of a gradient that is no product over rows; `add_up` does so, for a step at once.
    void add(const std::string& name, const Tensor& grad);
    void add_up();
    // Adds the weight's and the bias's gradient of a map of the tokens, dy^T x and the sum of dy, both (B, N, .).
    void add_products(const std::string& weight, const std::string& bias, const Tensor& dy, const Tensor& x);

    std::unordered_map<std::string, Tensor> sums;

  private:
    // sum_j drop(a_kj): (B, K, 1), in the dtype of `like`.
    Tensor total(const Tensor& a, const Site& site, const Tensor& like) const;
    // The bias of a map, as a map of one number.
    Map& column_of(const std::string& name);
    // The bias of a map, plus the one that it always meets, if any.
    const Tensor& biases_sum(const Tensor& bias, const std::string& name);

    std::unordered_map<std::string, Map> columns_;
    std::unordered_map<std::string, Tensor> biases_;
    std::unordered_map<std::string, Tensors> rows_;
    RowProducts row_products_;
    Tensors sums_to_add_, parts_;
};

}  // namespace iprm::recurrence
