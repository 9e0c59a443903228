#include "formation.h"

#include <ATen/ops/cat.h>

namespace iprm::recurrence {

Formation::Formation(Run& run, const Tensor& X, OptionalTensor mask, bool need_tokens)
    : run_(run), X_(X), mask_(std::move(mask)), need_tokens_(need_tokens), f_(run.w["f"].weight.select(0, 0)) {}

std::pair<Tensor, Tensor> Formation::forward(int64_t t, const Tensor& O, const Tensor& E) {
    const double p = run_.o.rates.formation_attention;
    auto [z, a] = run_.cores.formation(query(t, O, E), X_, f_, mask_, run_.seed, t, p);
    z = run_.norm("formation_norm", z);
    run_.kept.keep("z", z);
    return {z, a};
}

std::pair<Tensor, Tensor> Formation::backward(int64_t t, const Tensor& a, const Tensor& da, const Tensor& dz,
                                              const Tensor& dO, const Tensor& dE) {
    const double p = run_.o.rates.formation_attention;
    const Tensor grad = run_.norm_back("formation_norm", t, dz), q = run_.kept.at("q", t);
    const auto [dq, dX, df] =
        run_.cores.formation_backward(grad, given(da), q, X_, f_, a, run_.seed, t, p, {true, need_tokens_, true});
    run_.add("f", df);
    if (need_tokens_) run_.add("X", dX);
    return query_back(t, dq, dO, dE);
}

// The query. With results in it G2 drop(phi_g(G1 E_k)) is added, or joined through J.

Tensor Formation::query(int64_t t, const Tensor& O, const Tensor& E) {
    const auto& activations = run_.o.activations;
    const bool alone = !run_.w.has("G1");
    const Tensor place = alone ? run_.kept.place("q") : Tensor();
    const Tensor q = run_.two_layers("F1", "F2", run_.w.F2(t), O, activations.formation, of_operation(t), place);
    if (alone) return q;
    const Tensor from_results = run_.two_layers("G1", "G2", run_.w["G2"], E, activations.result_query, of_result(t));
    Tensor joined;
    if (run_.w.has("J_formation")) {
        joined = at::cat({q, from_results}, -1);
        run_.kept.keep("J_formation", joined);
        joined = run_.linear(run_.w["J_formation"], joined);
    } else {
        joined = q + from_results;
    }
    run_.kept.keep("q", joined);
    return joined;
}

std::pair<Tensor, Tensor> Formation::query_back(int64_t t, const Tensor& dq, const Tensor& dO, const Tensor& dE) {
    const auto& activations = run_.o.activations;
    Tensor from_operations = dq, from_results = dq, grad_E = dE;
    if (run_.w.has("J_formation")) {
        run_.row("J_formation", t, dq);
        const Tensors parts = run_.linear_back(run_.w["J_formation"], dq).chunk(2, -1);
        from_operations = parts[0];
        from_results = parts[1];
    }
    if (run_.w.has("G1")) {
        const Tensor d_before =
            run_.two_layers_back("G1", "G2", run_.w["G2"], t, from_results, activations.result_query, of_result(t));
        grad_E = run_.linear_back(run_.w["G1"], d_before, dE);
    }
    const Tensor d_before =
        run_.two_layers_back("F1", "F2", run_.w.F2(t), t, from_operations, activations.formation, of_operation(t));
    return {run_.linear_back(run_.w["F1"], d_before, dO), grad_E};
}

void Formation::gradients(Gradients& gradients, std::vector<Gradient>& of_F2) const {
    gradients["f"] = run_.gate_gradient("f");
    const std::pair<const char*, const char*> inputs[] = {
        {"F1", "O"}, {"G1", "E"}, {"G2", "G2"}, {"J_formation", "J_formation"}};
    for (const auto& [name, x] : inputs) {
        if (run_.needed(name)) gradients[name] = run_.map_gradient(name, {run_.kept.all(x)});
    }
    if (run_.needed("F2")) of_F2 = F2_gradients();
    if (run_.needed("formation_norm")) gradients["formation_norm"] = run_.summed_gradient("formation_norm");
}

std::vector<Gradient> Formation::F2_gradients() const {
    const Tensor x = run_.kept.all("F2");
    if (run_.w.count_F2() == 1) return {run_.map_gradient("F2", {x})};
    std::vector<Gradient> found;
    for (int64_t t = 0; t < run_.o.steps; ++t) {
        found.push_back(run_.row_gradient({run_.rows_of_step("F2", t)}, {{x.select(0, t)}}));
    }
    return found;
}

}  // namespace iprm::recurrence
