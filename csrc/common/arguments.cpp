#include "arguments.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <sstream>

namespace iprm {
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

// `float32, bfloat16 or float16`
std::string dtype_names() {
    std::string out;
    size_t left = kDtypes.size();
    for (const at::ScalarType dtype : kDtypes) {
        out += dtype_name(dtype);
        --left;
        out += left == 0 ? "" : left == 1 ? " or " : ", ";
    }
    return out;
}

void expect_dense(const at::Tensor& tensor, const char* name) {
    TORCH_CHECK_TYPE(tensor.defined(), name, ": expected a tensor, got None");
    TORCH_CHECK_VALUE(tensor.layout() == at::kStrided, name, ": expected a dense tensor, got ", tensor.layout());
}

}  // namespace

void expect_floating(const at::Tensor& tensor, const char* name, int64_t dims) {
    expect_dense(tensor, name);
    TORCH_CHECK_VALUE(tensor.device().type() == kDeviceType, name, ": expected a tensor on ",
                      at::DeviceTypeName(kDeviceType, true), ", got one on ", tensor.device());
    const at::ScalarType dtype = tensor.scalar_type();
    const bool known = std::find(kDtypes.begin(), kDtypes.end(), dtype) != kDtypes.end();
    TORCH_CHECK_VALUE(known && (dims < 0 || tensor.dim() == dims), name, ": expected ",
                      dims < 0 ? std::string() : std::to_string(dims) + " dimensions of ", dtype_names(), ", got ",
                      describe(tensor.sizes(), dtype));
}

void expect(const at::Tensor& tensor, const char* name, at::IntArrayRef shape, const at::TensorOptions& options) {
    expect_dense(tensor, name);
    const at::ScalarType dtype = options.dtype().toScalarType();
    TORCH_CHECK_VALUE(tensor.sizes() == shape && tensor.scalar_type() == dtype, name, ": expected ",
                      describe(shape, dtype), ", got ", describe(tensor.sizes(), tensor.scalar_type()));
    TORCH_CHECK_VALUE(tensor.device() == options.device(), name, ": expected a tensor on ", options.device(),
                      ", got one on ", tensor.device());
}

void expect(const OptionalTensor& tensor, const char* name, at::IntArrayRef shape, const at::TensorOptions& options) {
    if (tensor) expect(*tensor, name, shape, options);
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

int64_t stream_of(int64_t step, Role role) {
    TORCH_CHECK_VALUE(step >= 0 && step < (1LL << 28), "step: expected 0 to 2^28 - 1, got ", step);
    return kRolesPerStep * step + static_cast<int64_t>(role);
}

DropoutMask unseeded_mask(const OptionalTensor& seed, int64_t stream, double p, const char* name, at::Device device) {
    TORCH_CHECK_VALUE(p >= 0.0 && p < 1.0, name, ": expected a probability in [0, 1), got ", p);
    TORCH_CHECK_VALUE(stream >= 0 && stream <= 0xFFFFFFFFLL, "stream: expected 0 to 2^32 - 1, got ", stream);
    if (p == 0.0) return {};
    TORCH_CHECK_VALUE(seed, "seed: expected (1,) int64, as ", name, " is ", p, ", got None");
    expect(*seed, "seed", {1}, at::TensorOptions(device).dtype(at::kLong));
    return make_dropout_mask(0, static_cast<uint32_t>(stream), p);
}

void expect_needs(const Needs& needs, size_t count) {
    TORCH_CHECK_VALUE(needs.size() == count, "needs: expected ", count, " flags, got ", needs.size());
}

at::Tensor unneeded(const at::Tensor& like) { return at::empty({0}, like.options()); }

at::Tensor contiguous(const at::Tensor& tensor) {
    return (tensor.is_neg() ? tensor.resolve_neg() : tensor).contiguous();  // an operator is called where one is needed
}

at::Tensor converted(const at::Tensor& tensor, at::ScalarType dtype) {
    return tensor.scalar_type() == dtype ? tensor : tensor.to(dtype);
}

OptionalTensor contiguous(const OptionalTensor& tensor) {
    if (!tensor) return std::nullopt;
    return contiguous(*tensor);
}

}  // namespace iprm
