// What the stages share: the masked softmax, the weighted sum of the columns, and their backward.
#pragma once

#include "../common/softmax.h"
#include "dropout_kernel.h"
#include "math.h"
#include "product.h"

namespace iprm::cpu {
namespace {

template <typename T>
void softmax_row(T* row, int64_t count) {
    T top = row[0];
    for (int64_t i = 1; i < count; ++i) top = row[i] > top ? row[i] : top;
    Vec<T> total = {};
    for_columns<T>(count, [&](int64_t c, auto lanes) IPRM_LAMBDA {
        const Vec<T> e = exp_nonpositive(lanes.load(row + c) - top);
        lanes.store(row + c, e);
        if constexpr (std::is_same_v<decltype(lanes), Part>) {
            total += lanes.load(row + c);  // lanes beyond the row do not count
        } else {
            total += e;
        }
    });
    const T sum = horizontal_sum(total);
    for (int64_t i = 0; i < count; ++i) row[i] /= sum;
}

// grad_logits = a * (grad - sum(a * grad)), in place of grad
template <typename T>
void softmax_backward_row(const T* attention, T* grad, int64_t count) {
    Vec<T> total = {};
    for_columns<T>(
        count, [&](int64_t c, auto lanes) IPRM_LAMBDA { total += lanes.load(attention + c) * lanes.load(grad + c); });
    const T inner = horizontal_sum(total);
    for (int64_t i = 0; i < count; ++i) grad[i] = attention[i] * (grad[i] - inner);
}

// out = x * y over `rows` rows of x, y one row
template <typename T>
void scale_rows(int64_t rows, int64_t dim, const T* x, const T* y, T* out) {
    for (int64_t r = 0; r < rows; ++r) {
        for (int64_t d = 0; d < dim; ++d) out[r * dim + d] = x[r * dim + d] * y[d];
    }
}

template <typename T>
struct AttendScratch {
    explicit AttendScratch(int64_t size) : dropped(size), multipliers(multiplier_capacity(size)) {}
    Buffer<T> dropped, multipliers;
};

template <typename T>
void attend_sample(const AttendArgs<T>& a, int64_t b, AttendScratch<T>& scratch) {
    const int64_t size = a.operations * a.columns;
    T* attention = a.attention + b * size;
    for (int64_t k = 0; k < a.operations; ++k) {
        T* row = attention + k * a.columns;
        if (a.mask != nullptr) {
            const bool* keep = a.mask + b * a.columns;
            for (int64_t c = 0; c < a.columns; ++c) row[c] += keep[c] ? T(0) : T(kMaskBias);
        }
        softmax_row(row, a.columns);
    }
    const T* weights = attention;
    if (a.dropout.active()) {
        drop(a.dropout, b * size, size, attention, scratch.dropped.get());
        weights = scratch.dropped.get();
    }
    small_product(a.operations, a.dim, a.columns, weights, a.columns, int64_t(1), a.tokens + b * a.columns * a.dim,
                  a.dim, a.pooled + b * a.operations * a.dim, a.dim, false);
}

template <typename T>
void attend_sample_backward(const AttendBackwardArgs<T>& a, int64_t b, AttendScratch<T>& scratch) {
    const int64_t size = a.operations * a.columns;
    const T* attention = a.attention + b * size;
    const T* tokens = a.tokens + b * a.columns * a.dim;
    const T* grad_pooled = a.grad_pooled + b * a.operations * a.dim;
    T* grad = a.grad_logits + b * size;
    dot_rows(a.operations, a.columns, a.dim, grad_pooled, tokens, grad, a.columns, false);
    const T* weights = attention;
    if (a.dropout.active()) {
        const T* m = draw_multipliers(a.dropout, b * size, size, scratch.multipliers.get());
        T* dropped = scratch.dropped.get();
        for (int64_t i = 0; i < size; ++i) {
            grad[i] *= m[i];
            dropped[i] = attention[i] * m[i];
        }
        weights = dropped;
    }
    if (a.grad_attention != nullptr) {
        const T* extra = a.grad_attention + b * size;
        for (int64_t i = 0; i < size; ++i) grad[i] += extra[i];
    }
    for (int64_t k = 0; k < a.operations; ++k) {
        softmax_backward_row(attention + k * a.columns, grad + k * a.columns, a.columns);
    }
    if (a.grad_tokens == nullptr) return;
    small_product(a.columns, a.dim, a.operations, weights, int64_t(1), a.columns, grad_pooled, a.dim,
                  a.grad_tokens + b * a.columns * a.dim, a.dim, false);
}

template <typename T>
void attend(const AttendArgs<T>& args, int64_t first, int64_t last) {
    AttendScratch<T> scratch(args.operations * args.columns);
    for (int64_t b = first; b < last; ++b) attend_sample(args, b, scratch);
}

template <typename T>
void attend_backward(const AttendBackwardArgs<T>& args, int64_t first, int64_t last) {
    AttendScratch<T> scratch(args.operations * args.columns);
    for (int64_t b = first; b < last; ++b) attend_sample_backward(args, b, scratch);
}

}  // namespace
}  // namespace iprm::cpu
