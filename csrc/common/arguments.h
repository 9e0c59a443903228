// Checks of the ops' arguments, the same for every device. Each message names the argument, what was expected and what
// came. The shapes of each op are in shapes.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "activation.h"
#include "philox.h"

namespace iprm {

using OptionalTensor = std::optional<at::Tensor>;

// A tensor that may be undefined.
inline OptionalTensor given(const at::Tensor& tensor) {
    return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

// What an extension serves; each defines its own.
extern const at::DeviceType kDeviceType;
extern const std::initializer_list<at::ScalarType> kDtypes;

// The dtype logits, softmax and sums are computed in, which is also that of the attention.
inline at::ScalarType accumulator(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

// A tensor of `dims` dimensions (any, if negative) that the extension serves: the first argument of an op, which
// settles sizes, dtype and device.
void expect_floating(const at::Tensor& tensor, const char* name, int64_t dims);
// A tensor of this shape, with the dtype and on the device of `options`.
void expect(const at::Tensor& tensor, const char* name, at::IntArrayRef shape, const at::TensorOptions& options);
void expect(const OptionalTensor& tensor, const char* name, at::IntArrayRef shape, const at::TensorOptions& options);

// Attention needs a column to attend to, unless there is nobody to attend.
void expect_columns(const char* name, int64_t rows, int64_t columns);

Activation parse_activation(const std::string& name);

// The number of the mask of a dropout site.
int64_t stream_of(int64_t step, Role role);
// The mask `stream` of probability `p`, whose argument is called `name`: threshold and scale, without the seed, which
// must be on `device` where anything is to be dropped.
DropoutMask unseeded_mask(const OptionalTensor& seed, int64_t stream, double p, const char* name, at::Device device);

// Which gradients of a backward op are asked for, one flag for each of the op's `count` tensors. Those that take a
// product of their own are left out where they are not: in their place stands an `unneeded` tensor, which is empty.
using Needs = std::vector<bool>;
void expect_needs(const Needs& needs, size_t count);
at::Tensor unneeded(const at::Tensor& like);

// Contiguous and without a pending negation, or nothing.
at::Tensor contiguous(const at::Tensor& tensor);
OptionalTensor contiguous(const OptionalTensor& tensor);
// In another dtype; itself, without an operator's call, where it is of that already.
at::Tensor converted(const at::Tensor& tensor, at::ScalarType dtype);

}  // namespace iprm
