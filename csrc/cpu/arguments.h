// Conversions of the arguments of the ops.
#pragma once

#include "../common/arguments.h"

namespace iprm::cpu {

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

}  // namespace iprm::cpu
