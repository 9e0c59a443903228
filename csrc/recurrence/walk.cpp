#include "walk.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include "composition.h"
#include "execution.h"
#include "formation.h"

namespace iprm::recurrence {
namespace {

// The maps of which the weight or the bias is asked for; the flags of the weights are those from the fifth on.
std::set<std::string> needed_maps(const std::vector<std::string>& names, const Needs& needs) {
    expect_needs(needs, 4 + 2 * names.size());
    std::set<std::string> found;
    for (size_t i = 0; i < names.size(); ++i) {
        if (needs[4 + 2 * i] || needs[5 + 2 * i]) found.insert(names[i]);
    }
    return found;
}

// In the order of the weights, empty where nothing is asked for.
Tensors flat_gradients(const std::vector<std::string>& names, const Gradients& gradients,
                       const std::vector<Gradient>& of_F2, const Needs& needs, const Tensor& empty) {
    Tensors flat;
    auto F2 = of_F2.begin();
    for (size_t i = 0; i < names.size(); ++i) {
        const bool need_weight = needs[4 + 2 * i], need_bias = needs[5 + 2 * i];
        Gradient found;
        if (names[i] == "F2" && F2 != of_F2.end()) {
            found = *F2++;
        } else if (need_weight || need_bias) {
            found = gradients.at(names[i]);
        }
        flat.push_back(need_weight ? found.first : empty);
        flat.push_back(need_bias ? found.second : empty);
    }
    return flat;
}

// Composition attention widened with zeros to all K (1 + W) columns.
Tensor padded(const Tensor& a, const Tensor& like, int64_t window) {
    const int64_t K = like.size(1), columns = K * (1 + window);
    if (!a.defined()) return at::zeros({like.size(0), K, columns}, like.options());
    return a.size(-1) == columns ? a : at::constant_pad_nd(a, {0, columns - a.size(-1)});
}

Tensor at_step(const OptionalTensor& d, int64_t t) { return d ? d->select(0, t) : Tensor(); }

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> forward(const Cores& cores, const Tensor& O, const Tensor& E,
                                                           const Tensor& language, const OptionalTensor& language_mask,
                                                           const Tensor& visual, const OptionalTensor& visual_mask,
                                                           const Tensors& weights, const std::string& maps,
                                                           const OptionalTensor& seed, const Options& options,
                                                           const std::vector<std::string>& kept_names,
                                                           const Tensors& kept) {
    const at::AutoDispatchBelowAutograd no_graph;
    Weights w(weights, maps);
    Run run(cores, w, options, seed, Kept(kept_names, kept), false, {});
    Formation formation(run, language, language_mask, false);
    const auto execution = execution_of(run, visual, visual_mask, false);
    Composition composition(run);

    Tensor memory_O = O, memory_E = E;
    Tensors a_language, a_visual, a_operations;
    for (int64_t t = 0; t < options.steps; ++t) {
        run.kept.keep("O", memory_O);
        run.kept.keep("E", memory_E);
        const auto [z, a_words] = formation.forward(t, memory_O, memory_E);
        const auto [r, a_picture] = execution->forward(t, z, memory_E);
        Tensor a_columns;
        std::tie(memory_O, memory_E, a_columns) = composition.forward(t, z, r, memory_O, memory_E);
        a_language.push_back(a_words);
        a_visual.push_back(a_picture);
        a_operations.push_back(padded(a_columns, a_words, options.window));
    }
    run.kept.finish();
    return {memory_O, memory_E, at::stack(a_language), at::stack(a_visual), at::stack(a_operations)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensors> backward(
    const Cores& cores, const Tensor& grad_O, const Tensor& grad_E, const OptionalTensor& grad_language,
    const OptionalTensor& grad_visual, const OptionalTensor& grad_operations, const Tensor& language,
    const Tensor& visual, const Tensors& weights, const std::string& maps, const Tensor& a_language,
    const Tensor& a_visual, const Tensor& a_operations, const std::vector<std::string>& kept_names, const Tensors& kept,
    const OptionalTensor& seed, const Options& options, const Needs& needs) {
    const at::AutoDispatchBelowAutograd no_graph;
    Weights w(weights, maps);
    Run run(cores, w, options, seed, Kept(kept_names, kept), true, needed_maps(w.names(), needs));
    const bool need_language = needs[2], need_visual = needs[3];
    Formation formation(run, language, std::nullopt, need_language);
    const auto execution = execution_of(run, visual, std::nullopt, need_visual);
    Composition composition(run);

    Tensor dO = grad_O, dE = grad_E, dz, dr;
    for (int64_t t = options.steps - 1; t >= 0; --t) {
        const int64_t columns = grad_O.size(1) * (1 + std::min(options.window, t + 1));
        const Tensor a = a_operations.select(0, t).narrow(-1, 0, columns);
        Tensor da = at_step(grad_operations, t);
        if (da.defined()) da = da.narrow(-1, 0, columns);
        std::tie(dz, dr, dO, dE) = composition.backward(t, a, da, dO, dE);
        std::tie(dz, dE) = execution->backward(t, a_visual.select(0, t), at_step(grad_visual, t), dr, dz, dE);
        std::tie(dO, dE) = formation.backward(t, a_language.select(0, t), at_step(grad_language, t), dz, dO, dE);
        run.add_up();
    }
    execution->finish();
    Gradients gradients;
    std::vector<Gradient> of_F2;
    formation.gradients(gradients, of_F2);
    execution->gradients(gradients);
    composition.gradients(gradients);
    run.finish_gradients();
    const Tensor empty = unneeded(grad_O);
    return {dO, dE, need_language ? run.sums.at("X") : empty, need_visual ? run.sums.at("V") : empty,
            flat_gradients(w.names(), gradients, of_F2, needs, empty)};
}

}  // namespace iprm::recurrence
