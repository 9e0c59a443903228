// Checks and conversions of the arguments of the ops. Every message names the argument, what was expected and
// what came.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>

#include "../common/activation.h"
#include "../common/philox.h"

namespace iprm::cpu {

using OptionalTensor = std::optional<at::Tensor>;

// A floating-point tensor of `dims` dimensions on the CPU: the first argument of an op, which settles the
// sizes.
void expect_floating(const at::Tensor& tensor, const char* name, int64_t dims);
void expect(const at::Tensor& tensor, const char* name, at::IntArrayRef shape, at::ScalarType dtype);
void expect(const OptionalTensor& tensor, const char* name, at::IntArrayRef shape, at::ScalarType dtype);

// Attention needs a column to attend to, unless there is nobody to attend.
void expect_columns(const char* name, int64_t rows, int64_t columns);

Activation parse_activation(const std::string& name);

// The mask of one dropout site. `name` is that of the probability `p`.
DropoutMask dropout_mask(const OptionalTensor& seed, int64_t step, Role role, double p, const char* name);
DropoutMask dropout_mask_of_stream(const OptionalTensor& seed, int64_t stream, double p, const char* name);

// A contiguous tensor in the accumulator's dtype.
at::Tensor operand(const at::Tensor& tensor);
// The same with the last dimension padded with zeros to `width`.
at::Tensor padded_operand(const at::Tensor& tensor, int64_t width);
// Drops the padding of the last dimension and rounds to the op's dtype.
at::Tensor result(const at::Tensor& tensor, int64_t width, at::ScalarType dtype);

// An uninitialised tensor in the accumulator's dtype.
at::Tensor allocate(at::IntArrayRef shape, const at::Tensor& like);

template <typename T>
const T* data(const at::Tensor& tensor) {
    return tensor.const_data_ptr<T>();
}
template <typename T>
const T* data(const OptionalTensor& tensor) {
    return tensor ? tensor->const_data_ptr<T>() : nullptr;
}

// Contiguous, or nothing.
OptionalTensor contiguous(const OptionalTensor& tensor);

}  // namespace iprm::cpu
