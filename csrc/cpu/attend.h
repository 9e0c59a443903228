// The attention both formation and execution end with: softmax, weighted sum of the tokens, and its backward.
#pragma once

#include "dispatch.h"
#include "ops.h"

namespace iprm::cpu {

template <typename T>
AttendArgs<T> attend_args(const Tensor& tokens, const OptionalTensor& mask, Tensor& attention, Tensor& pooled,
                          const DropoutMask& dropout) {
    return {attention.size(1),
            attention.size(2),
            tokens.size(2),
            data<T>(tokens),
            data<bool>(mask),
            attention.mutable_data_ptr<T>(),
            pooled.mutable_data_ptr<T>(),
            dropout};
}

// The tensors of the backward of the attention, in the accumulator's dtype.
struct AttendGradient {
    AttendGradient(const Tensor& grad_pooled, const OptionalTensor& grad_attention, const Tensor& tokens,
                   const Tensor& attention, bool need_tokens)
        : grad_pooled(operand(grad_pooled)),
          grad_attention(contiguous(grad_attention)),
          tokens(operand(tokens)),
          attention(operand(attention)),
          grad_logits(allocate(attention.sizes(), attention)),
          grad_tokens(need_tokens ? allocate(tokens.sizes(), tokens) : unneeded(tokens)),
          need_tokens(need_tokens) {}

    template <typename T>
    AttendBackwardArgs<T> args(const DropoutMask& dropout) {
        return {attention.size(1),
                attention.size(2),
                tokens.size(2),
                data<T>(grad_pooled),
                data<T>(grad_attention),
                data<T>(tokens),
                data<T>(attention),
                grad_logits.mutable_data_ptr<T>(),
                need_tokens ? grad_tokens.mutable_data_ptr<T>() : nullptr,
                dropout};
    }

    Tensor grad_pooled;
    OptionalTensor grad_attention;
    Tensor tokens, attention, grad_logits, grad_tokens;
    bool need_tokens;
};

// Operations worth of work per sample.
template <typename Args>
int64_t attend_work(const Args& args) {
    return args.operations * args.columns * args.dim;
}

}  // namespace iprm::cpu
