#include "composition.h"

#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/add.h>
#include <ATen/ops/cat.h>
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
Tensor through(const std::string& activation, const Tensor& dy, const Tensor& x) {
    if (activation == "identity") return dy;
    return gradient(activation, dy, kept_of(activation, x, activate(activation, x)));
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
    if (run_.o.window > 0) {
        past_.push_front(columns(O, E));
        if (static_cast<int64_t>(past_.size()) > run_.o.window) past_.pop_back();
    }
    std::vector<Columns> window{columns(o, e)};
    window.insert(window.end(), past_.begin(), past_.end());
    const Lists lists(window);
    const auto& rates = run_.o.rates;
    const auto [pooled_o, pooled_r, a] = run_.cores.composition(
        query(o), lists.keys, lists.operations, lists.results, gate_, run_.o.mask_self, run_.seed, t,
        rates.composition_product, rates.composition_value, rates.composition_attention);
    run_.kept.keep("pooled_o", pooled_o);
    run_.kept.keep("pooled_r", pooled_r);
    const Tensor next_O = write("Vo", "So", pooled_o, a, o, t), next_E = write("Vr", "Sr", pooled_r, a, e, t);
    return {run_.norm("composition_norm_o", next_O), run_.norm("composition_norm_r", next_E), a};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> Composition::backward(int64_t t, const Tensor& a, const Tensor& da,
                                                                 const Tensor& dO, const Tensor& dE) {
    if (!composes_) return update_back(t, dO, dE);
    const Tensor grad_O = run_.norm_back("composition_norm_o", t, dO);
    const Tensor grad_E = run_.norm_back("composition_norm_r", t, dE);
    auto [d_pooled_o, d_a, d_o] = write_back("Vo", "So", t, grad_O, a, da);
    auto [d_pooled_r, d_attention, d_e] = write_back("Vr", "Sr", t, grad_E, a, d_a);
    std::vector<Columns> window{kept_columns(When::kNow, t)};
    const int64_t first = first_of_window(t);
    for (int64_t s = t; run_.o.window > 0 && s >= first; --s) window.push_back(kept_columns(When::kPast, s));
    const Lists lists(window);
    const auto& rates = run_.o.rates;
    const auto [d_query, d_keys, d_operations, d_results, d_gate] = run_.cores.composition_backward(
        d_pooled_o, d_pooled_r, given(d_attention), run_.kept.at(folds_ ? "folded" : "Qo", t), lists.keys,
        lists.operations, lists.results, gate_, a, run_.o.mask_self, run_.seed, t, rates.composition_product,
        rates.composition_value, rates.composition_attention);
    d_o = query_back(t, d_query, d_gate, d_o);
    std::tie(d_o, d_e) = columns_back(When::kNow, t, {d_keys[0], d_operations[0], d_results[0]}, d_o, d_e);
    for (size_t i = 1; i < window.size(); ++i) {
        const Columns d{d_keys[i], d_operations[i], d_results[i]};
        const auto [found, is_new] = d_past_.emplace(t + 1 - static_cast<int64_t>(i), d);
        const Columns& sum = found->second;
        if (!is_new) at::_foreach_add_({sum.key, sum.operation, sum.result}, {d.key, d.operation, d.result});
    }
    auto [dz, dr, past_O, past_E] = update_back(t, d_o, d_e);
    if (run_.o.window > 0) {  // the memory before this step was in no earlier window
        std::tie(past_O, past_E) = columns_back(When::kPast, t, d_past_.at(t), past_O, past_E);
        d_past_.erase(t);
    }
    return {dz, dr, past_O, past_E};
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
    return {updated("o", "update_norm_o", Uo_, activate(activations.op, z), O),
            updated("e", "update_norm_r", Ur_, E, activate(activations.result, r))};
}

// LN?( W [left ; right] ), kept under its name.
Tensor Composition::updated(const std::string& name, const std::string& norm, Halves& halves, const Tensor& left,
                            const Tensor& right) {
    if (!run_.w.has(norm)) return join(halves, left, right, run_.kept.place(name));
    const Tensor state = run_.norm(norm, join(halves, left, right, {}));
    run_.kept.keep(name, state);
    return state;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> Composition::update_back(int64_t t, const Tensor& d_o, const Tensor& d_e) {
    const auto& activations = run_.o.activations;
    if (!updates_) return {at::zeros_like(d_o), d_e, d_o, at::zeros_like(d_e)};
    const auto [dz, dO] = join_back("Uo", Uo_, t, run_.norm_back("update_norm_o", t, d_o));
    const auto [dE, dr] = join_back("Ur", Ur_, t, run_.norm_back("update_norm_r", t, d_e));
    return {through(activations.op, dz, run_.kept.at("z", t)), through(activations.result, dr, run_.kept.at("r", t)),
            dO, dE};
}

Composition::Halves Composition::halves_of(const std::string& name) const {
    const Map& map = run_.w[name];
    const int64_t D = map.weight.size(0);
    return {map.of_inputs(0, D), map.of_inputs(D, D)};
}

Tensor Composition::join(Halves& halves, const Tensor& left, const Tensor& right, const Tensor& out) const {
    return run_.linear(halves.right, right, run_.linear(halves.left, left, {}, out), out);
}

Composition::Pair Composition::join_back(const std::string& name, Halves& halves, int64_t t, const Tensor& dy) {
    run_.row(name, t, dy);
    return {run_.linear_back(halves.left, dy), run_.linear_back(halves.right, dy)};
}

// The query. Unless the product is dropped, the keys need no projection, see `folds_`.

Tensor Composition::query(const Tensor& o) {
    const Tensor q = run_.linear(run_.w["Qo"], o, {}, run_.kept.place("Qo"));
    if (!folds_) return q;
    return run_.linear_back(run_.w["Ko"], q * c_, {}, run_.kept.place("folded"));
}

Tensor Composition::query_back(int64_t t, const Tensor& d_query, const Tensor& d_gate, const Tensor& d_o) {
    if (!folds_) {
        run_.add("c", d_gate);
        run_.row("Qo", t, d_query);
        return run_.linear_back(run_.w["Qo"], d_query, d_o);
    }
    run_.row("folded", t, d_query);
    const Tensor d_gated = run_.linear(run_.w["Ko"], d_query, at::zeros_like(c_));
    run_.add("c", (d_gated * run_.kept.at("Qo", t)).sum({0, 1}));
    const Tensor dq = d_gated * c_;
    run_.row("Qo", t, dq);
    return run_.linear_back(run_.w["Qo"], dq, d_o);
}

// Columns.

Columns Composition::columns(const Tensor& O, const Tensor& E) {
    Columns c{O, O, E};
    if (projects_keys_) c.key = run_.linear(run_.w["Ko"], O, {}, run_.kept.place("key"));
    if (drops_values_) {
        c.operation = run_.linear(run_.w["Vo"], O, {}, run_.kept.place("operation"));
        c.result = run_.linear(run_.w["Vr"], E, {}, run_.kept.place("result"));
    }
    return c;
}

// Where the columns of step t are kept: with a window, those of the memory stand before those of the states.
int64_t Composition::place(When when, int64_t t) const {
    return run_.o.window == 0 ? t : 2 * t + (when == When::kNow ? 1 : 0);
}

Columns Composition::kept_columns(When when, int64_t t) const {
    const Kept& kept = run_.kept;
    const int64_t i = place(when, t);
    const bool now = when == When::kNow;
    const Tensor O = kept.at(now ? "o" : "O", t), E = kept.at(now ? "e" : "E", t);
    return {projects_keys_ ? kept.at("key", i) : O, drops_values_ ? kept.at("operation", i) : O,
            drops_values_ ? kept.at("result", i) : E};
}

// -> the gradients of the states with what comes through their columns.
Composition::Pair Composition::columns_back(When when, int64_t t, const Columns& d, const Tensor& dO,
                                            const Tensor& dE) {
    const Tensor of_value = column_back("Vo", drops_values_, when, t, d.operation, dO);
    return {column_back("Ko", projects_keys_, when, t, d.key, of_value),
            column_back("Vr", drops_values_, when, t, d.result, dE)};
}

Tensor Composition::column_back(const std::string& name, bool projected, When when, int64_t t, const Tensor& d,
                                const Tensor& dx) {
    if (!projected) return dx + d;
    run_.row(rows_of(name, when == When::kNow), t, d);
    return run_.linear_back(run_.w[name], d, dx);
}

// The new memory: sum_j a_kj drop_upd(V o_j) + S o_k.

Tensor Composition::write(const std::string& V, const std::string& S, const Tensor& pooled, const Tensor& a,
                          const Tensor& state, int64_t t) {
    const Tensor own = run_.linear(run_.w[S], state);
    if (drops_values_) return own + pooled;
    return run_.project(V, pooled, a, attention_site(t), own);
}

// -> the gradients of pooled, of the attention, and of o or e.
std::tuple<Tensor, Tensor, Tensor> Composition::write_back(const std::string& V, const std::string& S, int64_t t,
                                                           const Tensor& dy, const Tensor& a, const Tensor& da) {
    std::pair<Tensor, Tensor> d{dy, da};
    if (!drops_values_) d = run_.project_back(V, t, dy, a, da, attention_site(t));
    run_.row(S, t, dy);
    return {d.first, d.second, run_.linear_back(run_.w[S], dy)};
}

// Weight gradients.

void Composition::gradients(Gradients& gradients) const {
    const Kept& kept = run_.kept;
    const auto& activations = run_.o.activations;
    if (run_.needed("Uo")) {
        gradients["Uo"] = run_.map_gradient("Uo", {activate(activations.op, kept.all("z")), kept.all("O")});
    }
    if (run_.needed("Ur")) {
        gradients["Ur"] = run_.map_gradient("Ur", {kept.all("E"), activate(activations.result, kept.all("r"))});
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
                                        : run_.map_gradient(name, {kept.all(pooled)});
    }
    if (run_.needed("Ko")) {
        gradients["Ko"] = projects_keys_ ? projected_gradient("Ko", kept.all("o"), kept.all("O")) : folded_gradient();
    }
}

// Of a map that the columns were projected by, from all states that were: (T, B, K, D) of each kind.
Gradient Composition::projected_gradient(const std::string& name, const Tensor& now, const Tensor& past) const {
    const Cores& cores = run_.cores;
    const Tensor dy = run_.rows(rows_of(name, true));
    Gradient sum{cores.row_product(dy, now.flatten(0, 2), {}), cores.row_sum(dy)};
    if (run_.o.window > 0) {
        const Tensor d_past = run_.rows(rows_of(name, false));
        sum.first = cores.row_product(d_past, past.flatten(0, 2), sum.first);
        sum.second = sum.second + cores.row_sum(d_past);
    }
    return sum;
}

// Of Ko in Ko^T (c . q); its bias drops out of the softmax.
Gradient Composition::folded_gradient() const {
    const Tensor gated = (run_.kept.all("Qo") * c_).flatten(0, 2);
    return {run_.cores.row_product(gated, run_.rows("folded"), {}), at::zeros_like(c_)};
}

}  // namespace iprm::recurrence
