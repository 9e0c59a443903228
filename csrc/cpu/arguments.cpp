#include "arguments.h"

#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>

#include <sstream>

#include "dispatch.h"

namespace iprm::cpu {
namespace {

const char* dtype_name(at::ScalarType dtype) {
    switch (dtype) {
        case at::kFloat:
            return "float32";
        case at::kDouble:
            return "float64";
        case at::kBFloat16:
            return "bfloat16";
        case at::kHalf:
            return "float16";
        case at::kBool:
            return "bool";
        case at::kLong:
            return "int64";
        case at::kInt:
            return "int32";
        default:
            return c10::toString(dtype);
    }
}

std::string describe(at::IntArrayRef shape, at::ScalarType dtype) {
    std::ostringstream out;
    out << '(';
    for (size_t i = 0; i < shape.size(); ++i) out << (i > 0 ? ", " : "") << shape[i];
    out << (shape.size() == 1 ? ",) " : ") ") << dtype_name(dtype);
    return out.str();
}

void expect_dense(const at::Tensor& tensor, const char* name) {
    TORCH_CHECK_TYPE(tensor.defined(), name, ": expected a tensor, got None");
    TORCH_CHECK_VALUE(tensor.device().is_cpu(), name, ": expected a tensor on the CPU, got one on ", tensor.device());
    TORCH_CHECK_VALUE(tensor.layout() == at::kStrided, name, ": expected a dense tensor, got ", tensor.layout());
}

}  // namespace

void expect_floating(const at::Tensor& tensor, const char* name, int64_t dims) {
    expect_dense(tensor, name);
    const at::ScalarType dtype = tensor.scalar_type();
    const bool known = dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16 || dtype == at::kHalf;
    TORCH_CHECK_VALUE(known && (dims < 0 || tensor.dim() == dims), name, ": expected ",
                      dims < 0 ? std::string() : std::to_string(dims) + " dimensions of ",
                      "float32, float64, bfloat16 or float16, got ", describe(tensor.sizes(), dtype));
}

void expect(const at::Tensor& tensor, const char* name, at::IntArrayRef shape, at::ScalarType dtype) {
    expect_dense(tensor, name);
    TORCH_CHECK_VALUE(tensor.sizes() == shape && tensor.scalar_type() == dtype, name, ": expected ",
                      describe(shape, dtype), ", got ", describe(tensor.sizes(), tensor.scalar_type()));
}

void expect(const OptionalTensor& tensor, const char* name, at::IntArrayRef shape, at::ScalarType dtype) {
    if (tensor) expect(*tensor, name, shape, dtype);
}

void expect_columns(const char* name, int64_t rows, int64_t columns) {
    TORCH_CHECK_VALUE(columns > 0 || rows == 0, name, ": expected at least one token to attend to, got none");
}

Activation parse_activation(const std::string& name) {
    std::string known;
    for (int i = 0; i < kActivationCount; ++i) {
        if (name == kActivationNames[i]) return static_cast<Activation>(i);
        known += std::string(i > 0 ? ", " : "") + kActivationNames[i];
    }
    TORCH_CHECK_VALUE(false, "activation: expected one of ", known, ", got '", name, "'");
}

DropoutMask dropout_mask_of_stream(const OptionalTensor& seed, int64_t stream, double p, const char* name) {
    TORCH_CHECK_VALUE(p >= 0.0 && p < 1.0, name, ": expected a probability in [0, 1), got ", p);
    TORCH_CHECK_VALUE(stream >= 0 && stream <= 0xFFFFFFFFLL, "stream: expected 0 to 2^32 - 1, got ", stream);
    if (p == 0.0) return {};
    TORCH_CHECK_VALUE(seed, "seed: expected (1,) int64, as ", name, " is ", p, ", got None");
    expect(*seed, "seed", {1}, at::kLong);
    return make_dropout_mask(static_cast<uint64_t>(*seed->const_data_ptr<int64_t>()), static_cast<uint32_t>(stream), p);
}

DropoutMask dropout_mask(const OptionalTensor& seed, int64_t step, Role role, double p, const char* name) {
    TORCH_CHECK_VALUE(step >= 0 && step < (1LL << 28), "step: expected 0 to 2^28 - 1, got ", step);
    return dropout_mask_of_stream(seed, kRolesPerStep * step + static_cast<int64_t>(role), p, name);
}

at::Tensor operand(const at::Tensor& tensor) {
    return tensor.to(accumulator(tensor.scalar_type())).resolve_neg().contiguous();
}

at::Tensor padded_operand(const at::Tensor& tensor, int64_t width) {
    const int64_t missing = width - tensor.size(-1);
    return missing == 0 ? operand(tensor) : at::constant_pad_nd(operand(tensor), {0, missing});
}

at::Tensor result(const at::Tensor& tensor, int64_t width, at::ScalarType dtype) {
    return tensor.narrow(-1, 0, width).to(dtype).contiguous();
}

at::Tensor allocate(at::IntArrayRef shape, const at::Tensor& like) {
    return at::empty(shape, at::TensorOptions().dtype(accumulator(like.scalar_type())));
}

OptionalTensor contiguous(const OptionalTensor& tensor) {
    if (!tensor) return std::nullopt;
    return tensor->resolve_neg().contiguous();
}

}  // namespace iprm::cpu
