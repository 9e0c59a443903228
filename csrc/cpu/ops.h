// The ops of the CPU backend. Symbols as in the mechanism: B samples, K operations, L language tokens, N
// visual tokens, D model width, R reduced width, C columns of the window. Inputs are float32, float64,
// bfloat16 or float16, all of one dtype; attention is float32 (float64 for float64).
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <tuple>
#include <vector>

#include "../common/shapes.h"
#include "../recurrence/cores.h"
#include "arguments.h"

namespace iprm::cpu {

using at::Tensor;

// Fixed-order sum over the first dimension, of contiguous parts; a single one is not copied.
Tensor sum_first(const Tensor& parts);

Tensor dropout(const Tensor& x, double p, const OptionalTensor& seed, int64_t stream);
// As the recurrence has them, see recurrence/cores.h.
Tensor activate(const std::string& name, const Tensor& x, const Tensor& out);
Tensor dropout(const Tensor& x, const recurrence::Sites& sites, const OptionalTensor& seed, const Tensor& addend,
               const Tensor& out);

// What the products of many rows, and those of pairs, multiply: numbers of the inputs' dtype, or bfloat16 ones, where
// the inputs are float32 tensors that hold what was bfloat16, or came of it (see bfloat16_table).
enum class Factors { kOfInputs, kBfloat16 };

// x (..., I), weight (O, I), c = bias (O,) or addend (..., O): x weight^T + c (..., O), in float32 or float64. It is
// written to `out`, where given: contiguous, perhaps c itself, but not x. `packed` is where the caller holds, from call
// to call, the form of this weight that this product reads where rows are many; a product that wants it makes it.
template <Factors kFactors = Factors::kOfInputs>
Tensor linear(const Tensor& x, const Tensor& weight, const OptionalTensor& c, Tensor* packed = nullptr,
              const OptionalTensor& out = std::nullopt);
// y (..., O), weight (O, I), c (I,) or (..., I): y weight + c (..., I). Its packed form is another.
template <Factors kFactors = Factors::kOfInputs>
Tensor linear_back(const Tensor& y, const Tensor& weight, const OptionalTensor& c, Tensor* packed = nullptr,
                   const OptionalTensor& out = std::nullopt);

// Those of a recurrence, whose maps hold the packed forms, see recurrence/cores.h.
template <Factors kFactors = Factors::kOfInputs>
void linear(recurrence::Products& products);
template <Factors kFactors = Factors::kOfInputs>
void linear_back(recurrence::Products& products);
template <Factors kFactors = Factors::kOfInputs>
void row_products(const recurrence::RowProducts& products);

// dy (rows, O), x (rows, I): dy^T x (O, I), the gradient of a weight, which `sum`, contiguous, is increased by.
template <Factors kFactors = Factors::kOfInputs>
Tensor row_product(const Tensor& dy, const Tensor& x, const OptionalTensor& sum);
// dy (rows, O): the sum of the rows (O,), the gradient of a bias.
Tensor row_sum(const Tensor& dy);

std::tuple<Tensor, Tensor> formation(const Tensor& query, const Tensor& tokens, const Tensor& gate,
                                     const OptionalTensor& mask, const OptionalTensor& seed, int64_t step,
                                     double p_attention);

std::tuple<Tensor, Tensor, Tensor> formation_backward(const Tensor& grad_z, const OptionalTensor& grad_attention,
                                                      const Tensor& query, const Tensor& tokens, const Tensor& gate,
                                                      const Tensor& attention, const OptionalTensor& seed, int64_t step,
                                                      double p_attention, const Needs& needs);

// The forms of C1a and C2 that the execution's products read, for many calls of it with so many tokens as their last
// argument: two for the forward alone, four for both. Where that is empty, a call packs them itself.
// `pairs`: the two tensors (B, K, N, R rounded up to kPairUnit) of kernels.h, Pairs, which the forward writes and the
// backward reads; or none.
template <Factors kFactors = Factors::kOfInputs>
std::vector<Tensor> pack(const Tensor& c1a, const Tensor& c2, int64_t tokens, bool backward);

template <Factors kFactors = Factors::kOfInputs>
std::tuple<Tensor, Tensor> execution(const Tensor& v, const Tensor& u, const Tensor& g, const Tensor& l,
                                     const Tensor& c1a, const Tensor& c2, const Tensor& c2_bias, const Tensor& w,
                                     const Tensor& tokens, const OptionalTensor& mask, const OptionalTensor& seed,
                                     int64_t step, double p_product, double p_attention, const std::string& activation,
                                     const std::vector<Tensor>& packed, const std::vector<Tensor>& pairs);

template <Factors kFactors = Factors::kOfInputs>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> execution_backward(
    const Tensor& grad_pooled, const OptionalTensor& grad_attention, const Tensor& v, const Tensor& u, const Tensor& g,
    const Tensor& l, const Tensor& c1a, const Tensor& c2, const Tensor& c2_bias, const Tensor& w, const Tensor& tokens,
    const Tensor& attention, const OptionalTensor& seed, int64_t step, double p_product, double p_attention,
    const std::string& activation, const Needs& needs, const std::vector<Tensor>& packed,
    const std::vector<Tensor>& pairs);

std::tuple<Tensor, Tensor> execution_simple(const Tensor& keys, const Tensor& query, const Tensor& w,
                                            const Tensor& tokens, const OptionalTensor& mask,
                                            const OptionalTensor& seed, int64_t step, double p_product,
                                            double p_attention, const std::string& activation);

std::tuple<Tensor, Tensor, Tensor, Tensor> execution_simple_backward(
    const Tensor& grad_pooled, const OptionalTensor& grad_attention, const Tensor& keys, const Tensor& query,
    const Tensor& w, const Tensor& tokens, const Tensor& attention, const OptionalTensor& seed, int64_t step,
    double p_product, double p_attention, const std::string& activation, const Needs& needs);

std::tuple<Tensor, Tensor, Tensor> composition(const Tensor& query, const std::vector<Tensor>& keys,
                                               const std::vector<Tensor>& operations,
                                               const std::vector<Tensor>& results, const Tensor& gate, bool mask_self,
                                               const OptionalTensor& seed, int64_t step, double p_product,
                                               double p_value, double p_attention);

std::tuple<Tensor, std::vector<Tensor>, std::vector<Tensor>, std::vector<Tensor>, Tensor> composition_backward(
    const Tensor& grad_operations, const Tensor& grad_results, const OptionalTensor& grad_attention,
    const Tensor& query, const std::vector<Tensor>& keys, const std::vector<Tensor>& operations,
    const std::vector<Tensor>& results, const Tensor& gate, const Tensor& attention, bool mask_self,
    const OptionalTensor& seed, int64_t step, double p_product, double p_value, double p_attention);

// The ops as the recurrence takes them, and those of what was bfloat16.
extern const recurrence::Cores kCores, kBfloat16Cores;

}  // namespace iprm::cpu
