// Operation composition: s_kj = c . drop(q_k * k_j) over the columns j of the window, then attention over the
// operation and the result states. The window's states are read where they are, list entry by list entry.
#pragma once

#include "attention_kernel.h"
#include "formation_kernel.h"

namespace iprm::cpu {
namespace {

template <typename T>
struct CompositionScratch {
    explicit CompositionScratch(const CompositionArgs<T>& a)
        : gated(a.operations * a.dim),
          grad_gated(a.operations * a.dim),
          values(a.operations * a.dim),
          weights(a.operations * a.operations * a.entries),
          grad(a.operations * a.operations * a.entries),
          multipliers(multiplier_capacity(a.operations *
                                          (a.dim > a.operations * a.entries ? a.dim : a.operations * a.entries))) {}
    Buffer<T> gated, grad_gated, values, weights, grad, multipliers;
};

// One sample of the window.
template <typename T>
struct CompositionSample {
    const CompositionArgs<T>& a;
    CompositionScratch<T>& scratch;
    int64_t b;
    int64_t size = a.operations * a.dim;         // numbers in a list entry
    int64_t columns = a.operations * a.entries;  // C
    int64_t state = b * size;                    // offset of this sample in a list entry
    int64_t map = b * a.operations * columns;    // offset of this sample's attention

    // The product mask of operation k over the K columns of a list entry.
    const T* product_multipliers(int64_t k, int64_t entry) const {
        const int64_t column = (b * a.operations + k) * columns + entry * a.operations;
        return draw_multipliers(a.product, column * a.dim, size, scratch.multipliers.get());
    }

    // The value mask of a list entry, or null without one.
    const T* value_multipliers(const DropoutMask& mask, int64_t entry) const {
        if (!mask.active()) return nullptr;
        return draw_multipliers(mask, (b * columns + entry * a.operations) * a.dim, size, scratch.multipliers.get());
    }

    // The states of a list entry after value dropout.
    const T* dropped_states(const T* multipliers, const T* states) const {
        if (multipliers == nullptr) return states + state;
        T* values = scratch.values.get();
        for (int64_t i = 0; i < size; ++i) values[i] = states[state + i] * multipliers[i];
        return values;
    }

    void logits(T* out) const {
        for (int64_t e = 0; e < a.entries; ++e) {
            const T* keys = a.keys[e] + state;
            if (!a.product.active()) {
                dot_rows(a.operations, a.operations, a.dim, scratch.gated.get(), keys, out + e * a.operations, columns,
                         false);
                continue;
            }
            for (int64_t k = 0; k < a.operations; ++k) {
                const T* q = scratch.gated.get() + k * a.dim;
                const T* m = product_multipliers(k, e);
                for (int64_t j = 0; j < a.operations; ++j) {
                    Vec<T> s = {};
                    for_columns<T>(a.dim, [&](int64_t d, auto lanes) IPRM_LAMBDA {
                        s += lanes.load(q + d) * lanes.load(keys + j * a.dim + d) * lanes.load(m + j * a.dim + d);
                    });
                    out[k * columns + e * a.operations + j] = horizontal_sum(s);
                }
            }
        }
    }

    void forward() const {
        T* attention = a.attention + map;
        scale_rows(a.operations, a.dim, a.query + state, a.gate, scratch.gated.get());
        logits(attention);
        for (int64_t k = 0; k < a.operations; ++k) {
            if (a.mask_self) attention[k * columns + k] += T(kMaskBias);
            softmax_row(attention + k * columns, columns);
        }
        const T* weights = attention;
        if (a.attention_dropout.active()) {
            drop(a.attention_dropout, map, a.operations * columns, attention, scratch.weights.get());
            weights = scratch.weights.get();
        }
        pool(weights, a.operation_dropout, a.operation_states, a.pooled_operations + state);
        pool(weights, a.result_dropout, a.result_states, a.pooled_results + state);
    }

    void pool(const T* weights, const DropoutMask& mask, const T* const* states, T* out) const {
        for (int64_t e = 0; e < a.entries; ++e) {
            small_product(a.operations, a.dim, a.operations, weights + e * a.operations, columns, int64_t(1),
                          dropped_states(value_multipliers(mask, e), states[e]), a.dim, out, a.dim, e > 0);
        }
    }

    // Adds this pooling's share to the gradient of the dropped attention, and writes its states' gradients.
    void pool_backward(const T* weights, const DropoutMask& mask, const T* const* states, const T* grad_pooled,
                       T* const* grad_states, bool accumulate) const {
        for (int64_t e = 0; e < a.entries; ++e) {
            const T* m = value_multipliers(mask, e);
            dot_rows(a.operations, a.operations, a.dim, grad_pooled, dropped_states(m, states[e]),
                     scratch.grad.get() + e * a.operations, columns, accumulate);
            T* grad = grad_states[e] + state;
            small_product(a.operations, a.dim, a.operations, weights + e * a.operations, int64_t(1), columns,
                          grad_pooled, a.dim, grad, a.dim, false);
            for (int64_t i = 0; m != nullptr && i < size; ++i) grad[i] *= m[i];
        }
    }

    void keys_backward(T* const* grad_keys) const {
        const T* grad = scratch.grad.get();
        T* grad_gated = scratch.grad_gated.get();
        for (int64_t e = 0; e < a.entries; ++e) {
            const T* keys = a.keys[e] + state;
            T* grad_key = grad_keys[e] + state;
            if (!a.product.active()) {
                small_product(a.operations, a.dim, a.operations, grad + e * a.operations, columns, int64_t(1), keys,
                              a.dim, grad_gated, a.dim, e > 0);
                small_product(a.operations, a.dim, a.operations, grad + e * a.operations, int64_t(1), columns,
                              scratch.gated.get(), a.dim, grad_key, a.dim, false);
                continue;
            }
            for (int64_t k = 0; k < a.operations; ++k) {
                const T* m = product_multipliers(k, e);
                for (int64_t j = 0; j < a.operations; ++j) {
                    product_backward(grad[k * columns + e * a.operations + j], m + j * a.dim,
                                     scratch.gated.get() + k * a.dim, keys + j * a.dim, grad_gated + k * a.dim,
                                     grad_key + j * a.dim, e + j == 0, k == 0);
                }
            }
        }
    }

    void product_backward(T grad, const T* m, const T* q, const T* key, T* grad_q, T* grad_key, bool first_q,
                          bool first_key) const {
        for_columns<T>(a.dim, [&](int64_t d, auto lanes) IPRM_LAMBDA {
            const Vec<T> gm = grad * lanes.load(m + d);
            const Vec<T> dq = gm * lanes.load(key + d), dk = gm * lanes.load(q + d);
            lanes.store(grad_q + d, first_q ? dq : lanes.load(grad_q + d) + dq);
            lanes.store(grad_key + d, first_key ? dk : lanes.load(grad_key + d) + dk);
        });
    }

    void backward(const CompositionBackwardArgs<T>& args) const {
        const int64_t count = a.operations * columns;
        const T* attention = a.attention + map;
        T* grad = scratch.grad.get();
        const T* m = nullptr;
        const T* weights = attention;
        if (a.attention_dropout.active()) {
            drop(a.attention_dropout, map, count, attention, scratch.weights.get());
            weights = scratch.weights.get();
        }
        pool_backward(weights, a.operation_dropout, a.operation_states, args.grad_operations + state,
                      args.grad_operation_states, false);
        pool_backward(weights, a.result_dropout, a.result_states, args.grad_results + state, args.grad_result_states,
                      true);
        if (a.attention_dropout.active()) {
            m = draw_multipliers(a.attention_dropout, map, count, scratch.multipliers.get());
            for (int64_t i = 0; i < count; ++i) grad[i] *= m[i];
        }
        if (args.grad_attention != nullptr) {
            for (int64_t i = 0; i < count; ++i) grad[i] += args.grad_attention[map + i];
        }
        for (int64_t k = 0; k < a.operations; ++k) {
            softmax_backward_row(attention + k * columns, grad + k * columns, columns);
        }
        scale_rows(a.operations, a.dim, a.query + state, a.gate, scratch.gated.get());
        keys_backward(args.grad_keys);
        gate_backward(a.operations, a.dim, a.query + state, a.gate, scratch.grad_gated.get(), args.grad_query + state,
                      args.grad_gate + b * a.dim);
    }
};

template <typename T>
void composition(const CompositionArgs<T>& args, int64_t first, int64_t last) {
    CompositionScratch<T> scratch(args);
    for (int64_t b = first; b < last; ++b) CompositionSample<T>{args, scratch, b}.forward();
}

template <typename T>
void composition_backward(const CompositionBackwardArgs<T>& args, int64_t first, int64_t last) {
    CompositionScratch<T> scratch(args.forward);
    for (int64_t b = first; b < last; ++b) CompositionSample<T>{args.forward, scratch, b}.backward(args);
}

}  // namespace
}  // namespace iprm::cpu
