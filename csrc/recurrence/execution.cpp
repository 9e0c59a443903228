#include "execution.h"

#include <ATen/ops/cat.h>

namespace iprm::recurrence {

Execution::Execution(Run& run, const Tensor& V, OptionalTensor mask, bool need_tokens)
    : run_(run),
      V_(V),
      mask_(std::move(mask)),
      need_tokens_(need_tokens),
      w_(run.w["w"].weight.select(0, 0)),
      once_(run.o.rates.visual == 0.0) {}

Look Execution::look_once() {
    if (same_.x.defined()) return same_;
    return same_ = with_keys(V_, 0);
}

Look Execution::with_keys(const Tensor& x, int64_t place) {
    Tensors keys;
    for (const auto& name : names_of_keys()) keys.push_back(run_.kept.has(name) ? run_.kept.at(name, place) : Tensor());
    return run_.returning && keys[0].defined() ? Look{x, keys} : look(x, keys);
}

Look Execution::tokens(int64_t t) {
    if (once_) return look_once();
    return with_keys(run_.drop(V_, visual_sites(t)), t);
}

std::pair<Tensor, Tensor> Execution::forward(int64_t t, const Tensor& z, const Tensor& E) {
    const auto [pooled, a] = attend(t, tokens(t), z, E);
    Products projected(1);
    if (!run_.w.has("execution_norm")) projected[0].out = run_.kept.place_ahead("r");
    run_.project(projected[0], "Wv", pooled, a, attention_site(t));
    run_.linear(projected);
    run_.kept.keep("Wv", pooled);
    return {run_.norm("execution_norm", projected[0].out), a};
}

std::pair<Tensor, Tensor> Execution::backward(int64_t t, const Tensor& a, const Tensor& da, const Tensor& dr,
                                              const Tensor& dz, const Tensor& dE) {
    const Look look = tokens(t);
    const Tensor grad = run_.norm_back("execution_norm", t, dr);
    const auto [d_pooled, d_attention] = run_.project_back("Wv", t, grad, a, da, attention_site(t));
    const auto [grad_z, grad_E, d_look] = attend_back(t, look, a, d_pooled, d_attention, dz, dE);
    if (once_) {
        sum_up(d_look);
    } else {
        look_back(look, d_look, visual_sites(t));
    }
    return {grad_z, grad_E};
}

void Execution::sum_up(const Look& d) {
    if (need_tokens_) run_.add("x", d.x);
    if (!needs_keys()) return;
    const auto names = names_of_keys();
    for (size_t i = 0; i < names.size(); ++i) run_.add(names[i], d.keys[i]);
}

void Execution::finish() {
    if (!once_ || !needs_keys()) return;
    Look d{need_tokens_ ? run_.sums.at("x") : Tensor(), {}};
    for (const auto& name : names_of_keys()) d.keys.push_back(run_.sums.at(name));
    look_back(look_once(), d, {});
}

void Execution::tokens_back(Map& first, const Tensor& d, const Tensor& dx, const Sites& sites) {
    run_.add("V", run_.drop(run_.linear_back(first, d, dx), sites));
}

void Execution::gradients(Gradients& gradients) const {
    gradients["w"] = run_.gate_gradient("w");
    if (run_.needed("Wv")) gradients["Wv"] = run_.project_gradient("Wv", run_.kept.all("Wv"));
    if (run_.needed("execution_norm")) gradients["execution_norm"] = run_.summed_gradient("execution_norm");
}

namespace {

// h_kn = C2 phi_v( C1a (g_k . v_n) + u_n ),  s_kn = w . drop(phi_v( h_kn . (Wq z_k) )).
class Full : public Execution {
  public:
    Full(Run& run, const Tensor& V, OptionalTensor mask, bool need_tokens)
        : Execution(run, V, std::move(mask), need_tokens),
          C1a_(run.w["C1"].weight.narrow(1, 0, run.w.reduced())),
          C1b_(run.w["C1"].of_inputs(run.w.reduced(), run.w.reduced())),
          bias_g_(run.w["We"].bias + run.w["Wz"].bias),
          packed_(run.cores.pack(C1a_, run.w["C2"].weight, V.size(1), run.returning)) {}

    void gradients(Gradients& gradients) const override;

  private:
    std::vector<std::string> names_of_keys() const override { return {"v", "u"}; }
    bool needs_maps_of_keys() const override { return run_.needed("Wk") || run_.needed("C1"); }

    Look look(const Tensor& x, const Tensors& places) override {
        const Tensor v = run_.linear(run_.w["Wk"], x, places[0]);
        return {x, {v, run_.linear(C1b_, v, places[1])}};
    }
    void look_back(const Look& look, const Look& d, const Sites& sites) override;
    Attended attend(int64_t t, const Look& look, const Tensor& z, const Tensor& E) override;
    Back attend_back(int64_t t, const Look& look, const Tensor& a, const Tensor& d_pooled, const Tensor& da,
                     const Tensor& dz, const Tensor& dE) override;

    // What is kept of the pairs of a step; none where nothing is.
    Tensors pairs(int64_t t) {
        if (!run_.kept.has("C1φ")) return {};
        return {run_.kept.at("C1φ", t), run_.kept.at("h", t)};
    }

    Tensor C1a_;
    Map C1b_;
    Tensor bias_g_;
    Tensors packed_;
};

void Full::look_back(const Look& look, const Look& d, const Sites& sites) {
    const Tensor &v = look.keys[0], &du = d.keys[1];
    if (run_.needed("C1")) run_.add_products("C1b", "C1.bias", du, v);
    if (!need_tokens_ && !run_.needed("Wk")) return;
    const Tensor dv = run_.linear_back(C1b_, du, d.keys[0]);
    if (run_.needed("Wk")) run_.add_products("Wk", "Wk.bias", dv, look.x);
    if (need_tokens_) tokens_back(run_.w["Wk"], dv, d.x, sites);
}

Execution::Attended Full::attend(int64_t t, const Look& look, const Tensor& z, const Tensor& E) {
    Weights& w = run_.w;
    const auto& rates = run_.o.rates;
    const Tensor e = run_.dropped_input("We", E, result_sites(t));
    const Tensor dropped = run_.dropped_input("Wz", z, {operation_site(t)});
    Products gates{{{{&w["We"], e}, {&w["Wz"], dropped}}, bias_g_, {}, run_.kept.place("g")},
                   {{{&w["Wq"], z}}, w["Wq"].bias, {}, run_.kept.place("l")}};
    run_.linear(gates);
    return run_.cores.execution(look.keys[0], look.keys[1], gates[0].out, gates[1].out, C1a_, w["C2"].weight,
                                w["C2"].bias, w_, look.x, mask_, run_.seed, t, rates.product, rates.execution_attention,
                                run_.o.activations.execution, packed_, pairs(t));
}

Execution::Back Full::attend_back(int64_t t, const Look& look, const Tensor& a, const Tensor& d_pooled,
                                  const Tensor& da, const Tensor& dz, const Tensor& dE) {
    Weights& w = run_.w;
    const auto& rates = run_.o.rates;
    const bool keys = needs_keys();
    const Needs needs{keys, keys, true, true, run_.needed("C1"), run_.needed("C2"), true, true, need_tokens_};
    const auto [dv, du, dg, dl, dC1a, dC2, dc2, dw, dx] = run_.cores.execution_backward(
        d_pooled, given(da), look.keys[0], look.keys[1], run_.kept.at("g", t), run_.kept.at("l", t), C1a_,
        w["C2"].weight, w["C2"].bias, w_, look.x, a, run_.seed, t, rates.product, rates.execution_attention,
        run_.o.activations.execution, needs, packed_, pairs(t));
    run_.add("w", dw);
    if (run_.needed("C1")) run_.add("C1a", dC1a);
    if (run_.needed("C2")) {
        run_.add("C2", dC2);
        run_.add("C2.bias", dc2);
    }
    run_.row("Wq", t, dl);
    run_.row("g", t, dg);
    // What was dropped on its way in is dropped on its way back, apart from the rest.
    const Sites of_z{operation_site(t)}, of_E = result_sites(t);
    const bool drops_z = Run::drops(of_z), drops_E = Run::drops(of_E);
    Parts z{{{&w["Wq"], dl}}, dz}, E{{{&w["We"], dg}}, drops_E ? Tensor() : dE}, dropped;
    (drops_z ? dropped : z).add(w["Wz"], dg);
    const Tensors d = run_.sums_of({z, E, dropped});
    return {drops_z ? run_.drop_and_add(d[2], of_z, d[0]) : d[0], drops_E ? run_.drop_and_add(d[1], of_E, dE) : d[1],
            Look{dx, {dv, du}}};
}

void Full::gradients(Gradients& gradients) const {
    Execution::gradients(gradients);
    std::vector<const char*> names;  // both meet the gradient of g
    Tensors inputs;
    for (const auto& [name, otherwise] : {std::pair("We", "E"), std::pair("Wz", "z")}) {
        if (!run_.needed(name)) continue;
        names.push_back(name);
        inputs.push_back(run_.kept.all(run_.input_of(name, otherwise)));
    }
    if (!names.empty()) {
        const auto found = run_.shared_gradients(run_.rows("g"), inputs);
        for (size_t i = 0; i < names.size(); ++i) gradients[names[i]] = found[i];
    }
    if (run_.needed("Wq")) gradients["Wq"] = run_.map_gradient("Wq", {run_.kept.all("z")});
    if (run_.needed("C1")) {
        gradients["C1"] = {at::cat({run_.sums.at("C1a"), run_.sums.at("C1b")}, 1), run_.sums.at("C1.bias")};
    }
    for (const char* name : {"Wk", "C2"}) {
        if (run_.needed(name)) gradients[name] = run_.summed_gradient(name);
    }
}

// kappa_n = C2 phi_v(C1 x~_n),  s_kn = w . drop(phi_v( p_k . kappa_n )).
class Simple : public Execution {
  public:
    using Execution::Execution;

    void gradients(Gradients& gradients) const override;

  private:
    std::vector<std::string> names_of_keys() const override { return {"κ"}; }
    bool needs_maps_of_keys() const override { return run_.needed("C1") || run_.needed("C2"); }

    Look look(const Tensor& x, const Tensors& places) override {
        const Tensor hidden = run_.cores.activate(run_.o.activations.execution, run_.linear(run_.w["C1"], x), {});
        return {x, {run_.linear(run_.w["C2"], hidden, places[0])}};
    }
    void look_back(const Look& look, const Look& d, const Sites& sites) override;
    Attended attend(int64_t t, const Look& look, const Tensor& z, const Tensor& E) override;
    Back attend_back(int64_t t, const Look& look, const Tensor& a, const Tensor& d_pooled, const Tensor& da,
                     const Tensor& dz, const Tensor& dE) override;

    // p = Wz drop(z) + We e^, or J of the two; each map may be one of two layers, whose input is then not dropped.
    Tensor query(int64_t t, const Tensor& z, const Tensor& E);
    std::pair<Tensor, Tensor> query_back(int64_t t, const Tensor& dp, const Tensor& dz, const Tensor& dE);
    Tensor side(const std::string& name, const Tensor& x, int64_t t);
    Tensor side_back(const std::string& name, const Tensor& dy, int64_t t, const Tensor& dx);
    // The dropout between two layers, if there are two, and the dropout of the input.
    std::pair<Site, Sites> sites(const std::string& name, int64_t t) const;
};

void Simple::look_back(const Look& look, const Look& d, const Sites& sites) {
    const std::string& activation = run_.o.activations.execution;
    const Tensor& dk = d.keys[0];
    const Tensor before = run_.linear(run_.w["C1"], look.x);  // made again, as the pairs of the full form are
    const Tensor hidden = run_.cores.activate(activation, before, {});
    if (run_.needed("C2")) run_.add_products("C2", "C2.bias", dk, hidden);
    if (!need_tokens_ && !run_.needed("C1")) return;
    const Tensor d_before =
        gradient(activation, run_.linear_back(run_.w["C2"], dk), kept_of(activation, before, hidden));
    if (run_.needed("C1")) run_.add_products("C1", "C1.bias", d_before, look.x);
    if (need_tokens_) tokens_back(run_.w["C1"], d_before, d.x, sites);
}

Execution::Attended Simple::attend(int64_t t, const Look& look, const Tensor& z, const Tensor& E) {
    const auto& rates = run_.o.rates;
    const Tensor p = query(t, z, E);
    run_.kept.keep("p", p);
    return run_.cores.execution_simple(look.keys[0], p, w_, look.x, mask_, run_.seed, t, rates.product,
                                       rates.execution_attention, run_.o.activations.execution);
}

Execution::Back Simple::attend_back(int64_t t, const Look& look, const Tensor& a, const Tensor& d_pooled,
                                    const Tensor& da, const Tensor& dz, const Tensor& dE) {
    const auto& rates = run_.o.rates;
    const auto [dk, dp, dw, dx] = run_.cores.execution_simple_backward(
        d_pooled, given(da), look.keys[0], run_.kept.at("p", t), w_, look.x, a, run_.seed, t, rates.product,
        rates.execution_attention, run_.o.activations.execution, {needs_keys(), true, true, need_tokens_});
    run_.add("w", dw);
    const auto [grad_z, grad_E] = query_back(t, dp, dz, dE);
    return {grad_z, grad_E, Look{dx, {dk}}};
}

Tensor Simple::query(int64_t t, const Tensor& z, const Tensor& E) {
    const Tensor of_operation = side("Wz", z, t), of_result = side("We", E, t);
    if (!run_.w.has("J_execution")) return of_operation + of_result;
    const Tensor joined = at::cat({of_operation, of_result}, -1);
    run_.kept.keep("J_execution", joined);
    return run_.linear(run_.w["J_execution"], joined);
}

std::pair<Tensor, Tensor> Simple::query_back(int64_t t, const Tensor& dp, const Tensor& dz, const Tensor& dE) {
    Tensor d_operation = dp, d_result = dp;
    if (run_.w.has("J_execution")) {
        run_.row("J_execution", t, dp);
        const Tensors parts = run_.linear_back(run_.w["J_execution"], dp).chunk(2, -1);
        d_operation = parts[0];
        d_result = parts[1];
    }
    return {side_back("Wz", d_operation, t, dz), side_back("We", d_result, t, dE)};
}

Tensor Simple::side(const std::string& name, const Tensor& x, int64_t t) {
    const auto [inner, outer] = sites(name, t);
    if (!run_.w.has(name + "2")) return run_.dropped_linear(name, x, outer);
    const Tensor dropped = run_.dropped_input(name, x, outer);
    return run_.two_layers(name, name + "2", run_.w[name + "2"], dropped, "tanh", inner);
}

Tensor Simple::side_back(const std::string& name, const Tensor& dy, int64_t t, const Tensor& dx) {
    const auto [inner, outer] = sites(name, t);
    if (run_.w.has(name + "2")) {
        const Tensor d = run_.two_layers_back(name, name + "2", run_.w[name + "2"], t, dy, "tanh", inner);
        return run_.dropped_linear_back(name, d, outer, dx);
    }
    run_.row(name, t, dy);
    return run_.dropped_linear_back(name, dy, outer, dx);
}

std::pair<Site, Sites> Simple::sites(const std::string& name, int64_t t) const {
    const auto& rates = run_.o.rates;
    const bool two = run_.w.has(name + "2");
    if (name == "Wz") return {{rates.operation, Role::kOperationHidden, t}, two ? Sites{} : Sites{operation_site(t)}};
    return {{rates.result, Role::kResultHidden, t}, two ? Sites{variational_site()} : result_sites(t)};
}

void Simple::gradients(Gradients& gradients) const {
    Execution::gradients(gradients);
    const std::pair<const char*, const char*> inputs[] = {
        {"We", "E"}, {"Wz", "z"}, {"We2", "We2"}, {"Wz2", "Wz2"}, {"J_execution", "J_execution"}};
    for (const auto& [name, otherwise] : inputs) {
        if (!run_.needed(name)) continue;
        gradients[name] = run_.map_gradient(name, {run_.kept.all(run_.input_of(name, otherwise))});
    }
    for (const char* name : {"C1", "C2"}) {
        if (run_.needed(name)) gradients[name] = run_.summed_gradient(name);
    }
}

}  // namespace

std::unique_ptr<Execution> execution_of(Run& run, const Tensor& V, OptionalTensor mask, bool need_tokens) {
    if (run.w.has("Wk")) return std::make_unique<Full>(run, V, std::move(mask), need_tokens);
    return std::make_unique<Simple>(run, V, std::move(mask), need_tokens);
}

}  // namespace iprm::recurrence
