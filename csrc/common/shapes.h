// The shapes that each op takes. Symbols as in the mechanism: B samples, K operations, L language tokens, N visual
// tokens, D model width, R reduced width, C columns of the window. A backward also checks what its forward does.
#pragma once

#include <vector>

#include "arguments.h"

namespace iprm {

void expect_formation(const at::Tensor& query, const at::Tensor& tokens, const at::Tensor& gate,
                      const OptionalTensor& mask);
void expect_formation_backward(const at::Tensor& grad_z, const OptionalTensor& grad_attention, const at::Tensor& query,
                               const at::Tensor& tokens, const at::Tensor& gate, const at::Tensor& attention);

void expect_execution(const at::Tensor& v, const at::Tensor& u, const at::Tensor& g, const at::Tensor& l,
                      const at::Tensor& c1a, const at::Tensor& c2, const at::Tensor& c2_bias, const at::Tensor& w,
                      const at::Tensor& tokens, const OptionalTensor& mask);
void expect_execution_simple(const at::Tensor& keys, const at::Tensor& query, const at::Tensor& w,
                             const at::Tensor& tokens, const OptionalTensor& mask);
// What the backward of either form is given besides the forward's inputs.
void expect_execution_gradients(const at::Tensor& grad_pooled, const OptionalTensor& grad_attention,
                                const at::Tensor& tokens, const at::Tensor& attention, int64_t operations);

void expect_composition(const at::Tensor& query, const std::vector<at::Tensor>& keys,
                        const std::vector<at::Tensor>& operations, const std::vector<at::Tensor>& results,
                        const at::Tensor& gate);
// What the backward is given besides the forward's inputs.
void expect_composition_gradients(const at::Tensor& grad_operations, const at::Tensor& grad_results,
                                  const OptionalTensor& grad_attention, const at::Tensor& query,
                                  const at::Tensor& attention, size_t blocks);

}  // namespace iprm
