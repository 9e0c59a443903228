// All T steps: the walk forward and the walk back. Mirrors iprm_kernels/steps/walk.py.
#pragma once

#include <tuple>

#include "cores.h"

namespace iprm::recurrence {

// O, E (B, K, D), language (B, L, D), visual (B, N, D) and their masks (B, L), (B, N) bool -> the memory after T steps
// and the attentions (T, B, K, .). Fills `kept`, whose names and shapes iprm_kernels/steps/kept.py gives; without them
// no backward will follow.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> forward(const Cores& cores, const Tensor& O, const Tensor& E,
                                                           const Tensor& language, const OptionalTensor& language_mask,
                                                           const Tensor& visual, const OptionalTensor& visual_mask,
                                                           const Tensors& weights, const std::string& maps,
                                                           const OptionalTensor& seed, const Options& options,
                                                           const std::vector<std::string>& kept_names,
                                                           const Tensors& kept);

// The gradients of O, E, the tokens and the weights, empty where not asked for. The gradients of the attentions may be
// absent. needs: one flag for each of O, E, language, visual and the weights.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensors> backward(
    const Cores& cores, const Tensor& grad_O, const Tensor& grad_E, const OptionalTensor& grad_language,
    const OptionalTensor& grad_visual, const OptionalTensor& grad_operations, const Tensor& language,
    const Tensor& visual, const Tensors& weights, const std::string& maps, const Tensor& a_language,
    const Tensor& a_visual, const Tensor& a_operations, const std::vector<std::string>& kept_names, const Tensors& kept,
    const OptionalTensor& seed, const Options& options, const Needs& needs);

}  // namespace iprm::recurrence
