#include "dispatch.h"
#include "ops.h"

namespace iprm::cpu {

Tensor sum_first(const Tensor& parts) {
    if (parts.size(0) == 1) return parts.select(0, 0);
    Tensor out = allocate(parts.sizes().slice(1), parts);
    with_accumulator(parts.scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        const SumArgs<T> args{data<T>(parts), parts.size(0), parts.stride(0), out.mutable_data_ptr<T>()};
        parallel(out.numel(), args.count, [&](int64_t first, int64_t last) { kernels<T>().sum(args, first, last); });
    });
    return out;
}

Tensor dropout_to(const Tensor& x, double p, const OptionalTensor& seed, int64_t stream, const Tensor& out) {
    expect_floating(x, "x", -1);
    const DropoutMask mask = dropout_mask_of_stream(seed, stream, p, "p");
    const Tensor in = operand(x), result = out.defined() ? out : allocate(x.sizes(), x);
    with_accumulator(x.scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        constexpr int64_t unit = 256;
        const int64_t count = x.numel();
        const DropoutArgs<T> args{data<T>(in), result.mutable_data_ptr<T>(), mask};
        parallel((count + unit - 1) / unit, 4 * unit, [&](int64_t first, int64_t last) {
            kernels<T>().dropout(args, first * unit, std::min(last * unit, count));
        });
    });
    return converted(result, x.scalar_type());
}

Tensor dropout(const Tensor& x, double p, const OptionalTensor& seed, int64_t stream) {
    return dropout_to(x, p, seed, stream, {});
}

}  // namespace iprm::cpu
