#include "dispatch.h"
#include "ops.h"

namespace iprm::cpu {

Tensor activate(const std::string& name, const Tensor& x, const Tensor& out) {
    const Activation activation = parse_activation(name);
    if (activation == Activation::kIdentity) return x;
    expect_floating(x, "x", -1);
    const Tensor in = operand(x), result = out.defined() ? out : allocate(x.sizes(), x);
    with_accumulator(x.scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        const ActivationArgs<T> args{data<T>(in), result.mutable_data_ptr<T>(), activation};
        constexpr int64_t operations = 32;  // multiplications worth a number
        parallel(x.numel(), operations,
                 [&](int64_t first, int64_t last) { kernels<T>().activation(args, first, last); });
    });
    return converted(result, x.scalar_type());
}

}  // namespace iprm::cpu
