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

namespace {

// drop(x) + addend, of one mask after the other.
Tensor dropped(const Tensor& x, const std::vector<DropoutMask>& masks, const Tensor& addend, const Tensor& out) {
    const Tensor in = operand(x), result = out.defined() ? out : allocate(x.sizes(), x);
    const OptionalTensor added = contiguous(given(addend));
    with_accumulator(x.scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        constexpr int64_t unit = 256, drawing = 24;  // multiplications worth a number
        const int64_t count = x.numel(), drawn = static_cast<int64_t>(masks.size());
        const DropoutArgs<T> args{data<T>(in), data<T>(added), result.mutable_data_ptr<T>(), masks.data(), drawn};
        parallel(divide_up(count, unit), drawing * unit * drawn, [&](int64_t first, int64_t last) {
            kernels<T>().dropout(args, first * unit, std::min(last * unit, count));
        });
    });
    return converted(result, x.scalar_type());
}

}  // namespace

Tensor dropout(const Tensor& x, double p, const OptionalTensor& seed, int64_t stream) {
    expect_floating(x, "x", -1);
    return dropped(x, {dropout_mask_of_stream(seed, stream, p, "p")}, {}, {});
}

Tensor dropout(const Tensor& x, const recurrence::Sites& sites, const OptionalTensor& seed, const Tensor& addend,
               const Tensor& out) {
    std::vector<DropoutMask> masks;
    for (const auto& site : sites) masks.push_back(dropout_mask(seed, site.step, site.role, site.p, "p"));
    return dropped(x, masks, addend, out);
}

}  // namespace iprm::cpu
