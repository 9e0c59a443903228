#include "attend.h"

namespace iprm::cpu {

std::tuple<Tensor, Tensor> formation(const Tensor& query, const Tensor& tokens, const Tensor& gate,
                                     const OptionalTensor& mask, const OptionalTensor& seed, int64_t step,
                                     double p_attention) {
    expect_formation(query, tokens, gate, mask);
    const int64_t samples = query.size(0), columns = tokens.size(1);
    const DropoutMask dropout = dropout_mask(seed, step, Role::kFormationAttention, p_attention, "p_attention");
    const Tensor q = operand(query), x = operand(tokens), f = operand(gate);
    const OptionalTensor keep = contiguous(mask);
    Tensor z = allocate(query.sizes(), query), attention = allocate({samples, query.size(1), columns}, query);
    with_accumulator(query.scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        const FormationArgs<T> args{data<T>(q), data<T>(f), attend_args<T>(x, keep, attention, z, dropout)};
        parallel(samples, attend_work(args.attend),
                 [&](int64_t first, int64_t last) { kernels<T>().formation(args, first, last); });
    });
    return {converted(z, query.scalar_type()), attention};
}

std::tuple<Tensor, Tensor, Tensor> formation_backward(const Tensor& grad_z, const OptionalTensor& grad_attention,
                                                      const Tensor& query, const Tensor& tokens, const Tensor& gate,
                                                      const Tensor& attention, const OptionalTensor& seed, int64_t step,
                                                      double p_attention, const Needs& needs) {
    expect_formation_backward(grad_z, grad_attention, query, tokens, gate, attention);
    expect_needs(needs, 3);
    const at::ScalarType dtype = query.scalar_type();
    const int64_t samples = query.size(0), dim = query.size(2);
    const DropoutMask dropout = dropout_mask(seed, step, Role::kFormationAttention, p_attention, "p_attention");
    const Tensor q = operand(query), f = operand(gate);
    AttendGradient attend(grad_z, grad_attention, tokens, attention, needs[1]);
    Tensor grad_query = allocate(query.sizes(), query), grad_gate = allocate({samples, dim}, query);
    with_accumulator(dtype, [&](auto zero) {
        using T = decltype(zero);
        const FormationBackwardArgs<T> args{data<T>(q), data<T>(f), grad_query.mutable_data_ptr<T>(),
                                            grad_gate.mutable_data_ptr<T>(), attend.args<T>(dropout)};
        parallel(samples, 4 * attend_work(args.attend),
                 [&](int64_t first, int64_t last) { kernels<T>().formation_backward(args, first, last); });
    });
    return {converted(grad_query, dtype), converted(attend.grad_tokens, dtype), converted(sum_first(grad_gate), dtype)};
}

}  // namespace iprm::cpu
