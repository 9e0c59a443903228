// Operation formation: s_kj = f . (q_k * x_j), then attention over the language tokens x.
#pragma once

#include "attention_kernel.h"

namespace iprm::cpu {
namespace {

template <typename T>
void formation(const FormationArgs<T>& args, int64_t first, int64_t last) {
    const AttendArgs<T>& a = args.attend;
    const int64_t size = a.operations * a.dim;
    AttendScratch<T> scratch(a.operations * a.columns);
    Buffer<T> gated(size);
    for (int64_t b = first; b < last; ++b) {
        scale_rows(a.operations, a.dim, args.query + b * size, args.gate, gated.get());
        dot_rows(a.operations, a.columns, a.dim, gated.get(), a.tokens + b * a.columns * a.dim,
                 a.attention + b * a.operations * a.columns, a.columns, false);
        attend_sample(a, b, scratch);
    }
}

// From the gradient of the gated query: dquery = gate * d, dgate = sum over k of query * d.
template <typename T>
void gate_backward(int64_t operations, int64_t dim, const T* query, const T* gate, const T* grad_gated, T* grad_query,
                   T* grad_gate) {
    for (int64_t d = 0; d < dim; ++d) grad_gate[d] = 0;
    for (int64_t k = 0; k < operations; ++k) {
        for (int64_t d = 0; d < dim; ++d) {
            const T g = grad_gated[k * dim + d];
            grad_query[k * dim + d] = g * gate[d];
            grad_gate[d] += g * query[k * dim + d];
        }
    }
}

template <typename T>
void formation_backward(const FormationBackwardArgs<T>& args, int64_t first, int64_t last) {
    const AttendBackwardArgs<T>& a = args.attend;
    const int64_t size = a.operations * a.dim;
    AttendScratch<T> scratch(a.operations * a.columns);
    Buffer<T> gated(size), grad_gated(size);
    for (int64_t b = first; b < last; ++b) {
        const T* query = args.query + b * size;
        const T* tokens = a.tokens + b * a.columns * a.dim;
        const T* grad_logits = a.grad_logits + b * a.operations * a.columns;
        attend_sample_backward(a, b, scratch);
        scale_rows(a.operations, a.dim, query, args.gate, gated.get());
        if (a.grad_tokens != nullptr) {
            small_product(a.columns, a.dim, a.operations, grad_logits, int64_t(1), a.columns, gated.get(), a.dim,
                          a.grad_tokens + b * a.columns * a.dim, a.dim, true);
        }
        small_product(a.operations, a.dim, a.columns, grad_logits, a.columns, int64_t(1), tokens, a.dim,
                      grad_gated.get(), a.dim, false);
        gate_backward(a.operations, a.dim, query, args.gate, grad_gated.get(), args.grad_query + b * size,
                      args.grad_gate + b * a.dim);
    }
}

}  // namespace
}  // namespace iprm::cpu
