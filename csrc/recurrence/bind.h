// The recurrence over a table of cores as two functions of a Python module.
#pragma once

#include <ATen/ops/empty.h>
#include <torch/csrc/utils/pybind.h>

#include "walk.h"

namespace iprm::recurrence {

inline void bind(pybind11::module_& m, const Cores& cores) {
    using release = pybind11::call_guard<pybind11::gil_scoped_release>;
    using Names = std::vector<std::string>;
    using Numbers = std::vector<double>;
    using Shapes = std::vector<std::vector<int64_t>>;

    m.def(
        "recurrence",
        [&cores](const Tensor& O, const Tensor& E, const Tensor& language, const OptionalTensor& language_mask,
                 const Tensor& visual, const OptionalTensor& visual_mask, const Tensors& weights,
                 const std::string& maps, const OptionalTensor& seed, int64_t steps, int64_t window, bool mask_self,
                 const std::string& activations, const Numbers& rates, const Numbers& epsilons, const Names& names,
                 const Shapes& shapes) {
            const Options options(steps, window, mask_self, activations, rates, epsilons);
            Tensors kept;
            for (const auto& shape : shapes) kept.push_back(at::empty(shape, O.options()));
            return std::tuple_cat(forward(cores, O, E, language, language_mask, visual, visual_mask, weights, maps,
                                          seed, options, names, kept),
                                  std::make_tuple(kept));
        },
        release());
    m.def(
        "recurrence_backward",
        [&cores](const Tensor& grad_O, const Tensor& grad_E, const OptionalTensor& grad_language,
                 const OptionalTensor& grad_visual, const OptionalTensor& grad_operations, const Tensor& language,
                 const Tensor& visual, const Tensors& weights, const std::string& maps, const Tensor& a_language,
                 const Tensor& a_visual, const Tensor& a_operations, const Names& names, const Tensors& kept,
                 const OptionalTensor& seed, int64_t steps, int64_t window, bool mask_self,
                 const std::string& activations, const Numbers& rates, const Numbers& epsilons, const Needs& needs) {
            const Options options(steps, window, mask_self, activations, rates, epsilons);
            return backward(cores, grad_O, grad_E, grad_language, grad_visual, grad_operations, language, visual,
                            weights, maps, a_language, a_visual, a_operations, names, kept, seed, options, needs);
        },
        release());
}

}  // namespace iprm::recurrence
