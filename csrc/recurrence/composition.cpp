#include "composition.h"

#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/zeros_like.h>

namespace iprm::recurrence {
namespace {

// Keys, operations and results of a window.
struct Lists {
    explicit Lists(const std::vector<Columns>& window) {
        for (const Columns& c : window) {
            keys.push_back(c.key);
            operations.push_back(c.operation);
            results.push_back(c.result);
        }
    }
    Tensors keys, operations, results;
};

// The gradient of x from that of phi(x).
Tensor through(const Cores& cores, const std::string& activation, const Tensor& dy, const Tensor& x) {
    if (activation == "identity") return dy;
    return gradient(activation, dy, kept_of(activation, x, cores.activate(activation, x, {})));
}

std::string rows_of(const std::string& name, bool now) { return name + (now ? " now" : " past"); }

}  // namespace

Composition::Composition(Run& run)
    : run_(run),
      updates_(run.w.has("Uo")),
      composes_(run.w.has("Qo")),
      drops_values_(run.o.rates.composition_value > 0.0),
      projects_keys_(run.w.has("Ko") && run.o.rates.composition_product > 0.0),
      folds_(run.w.has("Ko") && !projects_keys_) {
    if (updates_) {
        Uo_ = halves_of("Uo");
        Ur_ = halves_of("Ur");
    }
    if (composes_) {
        c_ = run.w["c"].weight.select(0, 0);
        gate_ = folds_ ? at::ones_like(c_) : c_;
    }
}

std::tuple<Tensor, Tensor, Tensor> Composition::forward(int64_t t, const Tensor& z, const Tensor& r, const Tensor& O,
                                                        const Tensor& E) {
    const auto [o, e] = update(z, r, O, E);
    if (!composes_) return {o, e, Tensor()};
    Products products;
    if (run_.o.window > 0) past_.push_front(columns(O, E, products));
    if (static_cast<int64_t>(past_.size()) > run_.o.window) past_.pop_back();
    std::vector<Columns> window{columns(o, e, products)};
    window.insert(window.end(), past_.begin(), past_.end());
    const Tensor q = Run::put(products, run_.w["Qo"], o, run_.kept.place("Qo"));
    run_.linear(products);
    const Lists lists(window);
    const auto& rates = run_.o.rates;
    const auto [pooled_o, pooled_r, a] = run_.cores.composition(
        folds_ ? folded(q) : q, lists.keys, lists.operations, lists.results, gate_, run_.o.mask_self, run_.seed, t,
        rates.composition_product, rates.composition_value, rates.composition_attention);
    run_.kept.keep("pooled_o", pooled_o);
    run_.kept.keep("pooled_r", pooled_r);
    Products written{write("Vo", "So", pooled_o, a, o, t), write("Vr", "Sr", pooled_r, a, e, t)};
    // The next step keeps them, unless norms follow.
    if (!run_.w.has("composition_norm_o")) written[0].out = run_.kept.place_ahead("O");
    if (!run_.w.has("composition_norm_r")) written[1].out = run_.kept.place_ahead("E");
    run_.linear(written);
    return {run_.norm("composition_norm_o", written[0].out), run_.norm("composition_norm_r", written[1].out), a};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> Composition::backward(int64_t t, const Tensor& a, const Tensor& da,
                                                                 const Tensor& dO, const Tensor& dE) {
    if (!composes_) return update_back(t, {{}, dO}, {{}, dE}, {}, {});
    Parts o, e;  // of the gradients of this step's states
    const Tensor grad_O = run_.norm_back("composition_norm_o", t, dO);
    const Tensor grad_E = run_.norm_back("composition_norm_r", t, dE);
    const auto [d_pooled_o, d_a] = write_back("Vo", "So", t, grad_O, a, da, o);
    const auto [d_pooled_r, d_attention] = write_back("Vr", "Sr", t, grad_E, a, d_a, e);
    std::vector<Columns> window{kept_columns(When::kNow, t)};
    const int64_t first = first_of_window(t);
    for (int64_t s = t; run_.o.window > 0 && s >= first; --s) window.push_back(kept_columns(When::kPast, s));
    const Lists lists(window);
    const auto& rates = run_.o.rates;
    const auto [d_query, d_keys, d_operations, d_results, d_gate] = run_.cores.composition_backward(
        d_pooled_o, d_pooled_r, given(d_attention), run_.kept.at(folds_ ? "folded" : "Qo", t), lists.keys,
        lists.operations, lists.results, gate_, a, run_.o.mask_self, run_.seed, t, rates.composition_product,
        rates.composition_value, rates.composition_attention);
    query_back(t, d_query, d_gate, o);
    columns_back(When::kNow, t, {d_keys[0], d_operations[0], d_results[0]}, o, e);
    for (size_t i = 1; i < window.size(); ++i) {
        const Columns d{d_keys[i], d_operations[i], d_results[i]};
        const auto [found, is_new] = d_past_.emplace(t + 1 - static_cast<int64_t>(i), d);
        const Columns& sum = found->second;
        if (!is_new) at::_foreach_add_({sum.key, sum.operation, sum.result}, {d.key, d.operation, d.result});
    }
    Parts past_O, past_E;
    if (run_.o.window > 0) {  // the memory before this step was in no earlier window
        columns_back(When::kPast, t, d_past_.at(t), past_O, past_E);
        d_past_.erase(t);
    }
    return update_back(t, o, e, std::move(past_O), std::move(past_E));
}

// o = LN?( Uo [ phi_o(z) ; O ] ), e = LN?( Ur [ E ; phi_r(r) ] ); without update o = O, e = r.

Composition::Pair Composition::update(const Tensor& z, const Tensor& r, const Tensor& O, const Tensor& E) {
    const auto& activations = run_.o.activations;
    if (!updates_) {
        run_.kept.keep("o", O);
        run_.kept.keep("e", r);
        return {O, r};
    }
    run_.kept.keep("r", r);
    Products states{joined(Uo_, run_.cores.activate(activations.op, z, {}), O, "o", "update_norm_o"),
                    joined(Ur_, E, run_.cores.activate(activations.result, r, {}), "e", "update_norm_r")};
    run_.linear(states);
    return {normed(states[0].out, "o", "update_norm_o"), normed(states[1].out, "e", "update_norm_r")};
}

// W [left ; right], kept under its name unless a norm follows.
Product Composition::joined(Halves& halves, const Tensor& left, const Tensor& right, const std::string& name,
                            const std::string& norm) {
    const Tensor place = run_.w.has(norm) ? Tensor() : run_.kept.place(name);
    return {{{&halves.left, left}, {&halves.right, right}}, halves.left.bias, {}, place};
}

Tensor Composition::normed(const Tensor& state, const std::string& name, const std::string& norm) {
    if (!run_.w.has(norm)) return state;
    const Tensor result = run_.norm(norm, state);
    run_.kept.keep(name, result);
    return result;
}

// From what the gradients of o and e, and so far those of O and E, are the sums of: those of z, r, O and E.
std::tuple<Tensor, Tensor, Tensor, Tensor> Composition::update_back(int64_t t, const Parts& o, const Parts& e, Parts O,
                                                                    Parts E) {
    const auto& activations = run_.o.activations;
    const Tensors states = run_.sums_of({o, e});
    if (!updates_) {
        O.add(states[0]);
        const Tensors d = run_.sums_of({O, E});
        const Tensor zero = at::zeros_like(states[0]);
        return {zero, states[1], d[0], d[1].defined() ? d[1] : zero};
    }
    const Tensor d_o = run_.norm_back("update_norm_o", t, states[0]);
    const Tensor d_e = run_.norm_back("update_norm_r", t, states[1]);
    run_.row("Uo", t, d_o);
    run_.row("Ur", t, d_e);
    O.add(Uo_.right, d_o);
    E.add(Ur_.left, d_e);
    const Tensors d = run_.sums_of({{{{&Uo_.left, d_o}}}, {{{&Ur_.right, d_e}}}, O, E});
    return {through(run_.cores, activations.op, d[0], run_.kept.at("z", t)),
            through(run_.cores, activations.result, d[1], run_.kept.at("r", t)), d[2], d[3]};
}

Composition::Halves Composition::halves_of(const std::string& name) const {
    const Map& map = run_.w[name];
    const int64_t D = map.weight.size(0);
    return {map.of_inputs(0, D), map.of_inputs(D, D)};
}

// The query. Unless the product is dropped, the keys need no projection, see `folds_`.

Tensor Composition::folded(const Tensor& q) {
    return run_.linear_back(run_.w["Ko"], q * c_, {}, run_.kept.place("folded"));
}

void Composition::query_back(int64_t t, const Tensor& d_query, const Tensor& d_gate, Parts& o) {
    Tensor dq = d_query;
    if (folds_) {
        run_.row("folded", t, d_query);
        Products gated{{{{&run_.w["Ko"], d_query}}}};  // whose bias does not count
        run_.linear(gated);
        run_.add("c", (gated[0].out * run_.kept.at("Qo", t)).sum(at::IntArrayRef({0, 1})));
        dq = gated[0].out * c_;
    } else {
        run_.add("c", d_gate);
    }
    run_.row("Qo", t, dq);
    o.add(run_.w["Qo"], dq);
}

// Columns.

// Their numbers are there once the products are made.
Columns Composition::columns(const Tensor& O, const Tensor& E, Products& products) {
    Columns c{O, O, E};
    if (projects_keys_) c.key = Run::put(products, run_.w["Ko"], O, run_.kept.place("key"));
    if (drops_values_) {
        c.operation = Run::put(products, run_.w["Vo"], O, run_.kept.place("operation"));
        c.result = Run::put(products, run_.w["Vr"], E, run_.kept.place("result"));
    }
    return c;
}

// Where the columns of step t are kept: with a window, those of the memory stand before those of the states.
int64_t Composition::place(When when, int64_t t) const {
    return run_.o.window == 0 ? t : 2 * t + (when == When::kNow ? 1 : 0);
}

Columns Composition::kept_columns(When when, int64_t t) const {
    Kept& kept = run_.kept;
    const int64_t i = place(when, t);
    const bool now = when == When::kNow;
    const auto state = [&](const char* o, const char* memory) { return kept.at(now ? o : memory, t); };
    return {projects_keys_ ? kept.at("key", i) : state("o", "O"),
            drops_values_ ? kept.at("operation", i) : state("o", "O"),
            drops_values_ ? kept.at("result", i) : state("e", "E")};
}

// Adds what comes to the states through their columns.
void Composition::columns_back(When when, int64_t t, const Columns& d, Parts& O, Parts& E) {
    column_back("Vo", drops_values_, when, t, d.operation, O);
    column_back("Ko", projects_keys_, when, t, d.key, O);
    column_back("Vr", drops_values_, when, t, d.result, E);
}

void Composition::column_back(const std::string& name, bool projected, When when, int64_t t, const Tensor& d,
                              Parts& state) {
    if (!projected) return state.add(d);
    run_.row(rows_of(name, when == When::kNow), t, d);
    state.add(run_.w[name], d);
}

// The new memory: sum_j a_kj drop_upd(V o_j) + S o_k.

Product Composition::write(const std::string& V, const std::string& S, const Tensor& pooled, const Tensor& a,
                           const Tensor& state, int64_t t) {
    Product product{{{&run_.w[S], state}}, run_.w[S].bias};
    if (drops_values_) {
        product.addend = pooled;
    } else {
        run_.project(product, V, pooled, a, attention_site(t));
    }
    return product;
}

// -> the gradients of pooled and of the attention; what comes to o or e is added.
Composition::Pair Composition::write_back(const std::string& V, const std::string& S, int64_t t, const Tensor& dy,
                                          const Tensor& a, const Tensor& da, Parts& state) {
    run_.row(S, t, dy);
    state.add(run_.w[S], dy);
    if (drops_values_) return {dy, da};
    return run_.project_back(V, t, dy, a, da, attention_site(t));
}

// Weight gradients.

void Composition::gradients(Gradients& gradients) const {
    const Kept& kept = run_.kept;
    const auto& activations = run_.o.activations;
    if (run_.needed("Uo")) {
        gradients["Uo"] =
            run_.map_gradient("Uo", {run_.cores.activate(activations.op, kept.all("z"), {}), kept.all("O")});
    }
    if (run_.needed("Ur")) {
        gradients["Ur"] =
            run_.map_gradient("Ur", {kept.all("E"), run_.cores.activate(activations.result, kept.all("r"), {})});
    }
    for (const char* name : {"update_norm_o", "update_norm_r", "composition_norm_o", "composition_norm_r"}) {
        if (run_.needed(name)) gradients[name] = run_.summed_gradient(name);
    }
    if (!composes_) return;
    gradients["c"] = run_.gate_gradient("c");
    const std::pair<const char*, const char*> of_states[] = {{"Qo", "o"}, {"So", "o"}, {"Sr", "e"}};
    for (const auto& [name, x] : of_states) {
        if (run_.needed(name)) gradients[name] = run_.map_gradient(name, {kept.all(x)});
    }
    const std::tuple<const char*, const char*, const char*, const char*> of_columns[] = {{"Vo", "pooled_o", "o", "O"},
                                                                                         {"Vr", "pooled_r", "e", "E"}};
    for (const auto& [name, pooled, now, past] : of_columns) {
        if (!run_.needed(name)) continue;
        gradients[name] = drops_values_ ? projected_gradient(name, kept.all(now), kept.all(past))
                                        : run_.project_gradient(name, kept.all(pooled));
    }
    if (run_.needed("Ko")) {
        gradients["Ko"] = projects_keys_ ? projected_gradient("Ko", kept.all("o"), kept.all("O")) : folded_gradient();
    }
}

// Of a map that the columns were projected by, from all states that were: (T, B, K, D) of each kind.
Gradient Composition::projected_gradient(const std::string& name, const Tensor& now, const Tensor& past) const {
    Tensors dy = run_.rows(rows_of(name, true)), x{now};
    if (run_.o.window > 0) {
        const Tensors d_past = run_.rows(rows_of(name, false));
        dy.insert(dy.end(), d_past.begin(), d_past.end());
        x.push_back(past);
    }
    return run_.row_gradient(std::move(dy), {x});
}

// Of Ko in Ko^T (c . q); its bias drops out of the softmax.
Gradient Composition::folded_gradient() const {
    const Gradient found = run_.row_gradient({run_.kept.all("Qo") * c_}, {run_.rows("folded")}, false);
    return {found.first, at::zeros_like(c_)};
}

}  // namespace iprm::recurrence
