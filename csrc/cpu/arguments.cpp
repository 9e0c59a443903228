#include "arguments.h"

#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>

namespace iprm {

const at::DeviceType kDeviceType = at::kCPU;
const std::initializer_list<at::ScalarType> kDtypes = {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf};

}  // namespace iprm

namespace iprm::cpu {

DropoutMask dropout_mask_of_stream(const OptionalTensor& seed, int64_t stream, double p, const char* name) {
    DropoutMask mask = unseeded_mask(seed, stream, p, name, at::kCPU);
    if (mask.active()) mask.seed = static_cast<uint64_t>(*seed->const_data_ptr<int64_t>());
    return mask;
}

DropoutMask dropout_mask(const OptionalTensor& seed, int64_t step, Role role, double p, const char* name) {
    return dropout_mask_of_stream(seed, stream_of(step, role), p, name);
}

at::Tensor operand(const at::Tensor& tensor) {
    return contiguous(converted(tensor, accumulator(tensor.scalar_type())));
}

at::Tensor padded_operand(const at::Tensor& tensor, int64_t width) {
    const int64_t missing = width - tensor.size(-1);
    return missing == 0 ? operand(tensor) : at::constant_pad_nd(operand(tensor), {0, missing});
}

at::Tensor result(const at::Tensor& tensor, int64_t width, at::ScalarType dtype) {
    return converted(width == tensor.size(-1) ? tensor : tensor.narrow(-1, 0, width), dtype).contiguous();
}

at::Tensor allocate(at::IntArrayRef shape, const at::Tensor& like) {
    return at::empty(shape, at::TensorOptions().dtype(accumulator(like.scalar_type())));
}

}  // namespace iprm::cpu
