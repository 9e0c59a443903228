// The whole no-gradient forward of the mechanism, all T steps of it: no torch, plain pointers (see kernels.h).
#pragma once

#include "kernels.h"

namespace iprm::cuda {

// Most language tokens, and columns of the window K (1 + W): shared memory holds a row of logits of each.
inline constexpr int kMostStepColumns = 256;

// A linear map: weight (outputs, inputs), bias (outputs).
struct Layer {
    const void *weight, *bias;
};

// Without dropout, norms and results in the query; with update and composition. Both biases of a logit are left out,
// as they drop out of the softmax. Where Ko.weight is null, the keys of composition are the states themselves.
struct Steps {
    int64_t B, K, L, N, D, R, T;
    int W;
    bool mask_self, per_step;  // per_step: language_keys and language_bias have T entries, not one
    Activation formation, execution, operation, result;

    const void *language, *language_keys, *language_bias;  // x (B, L, D); y = F2ᵀ (f ⊙ x); b2 · (f ⊙ x), (·, B, L)
    const void *visual, *v, *u;                            // V (B, N, D); (B, N, R) twice
    const uint8_t *language_mask, *visual_mask;            // (B, L), (B, N), or null
    Layer F1, We, Wz, Wq, Wv, Uo, Ur, Qo, Ko, Vo, Vr, So, Sr;
    const void *c1a, *c2, *c2_bias, *w, *c;  // (R, R) twice, (R) twice, (D)

    void *operations, *results;  // O and E (T + 1, B, K, D), the initial ones set
    float *attention_language, *attention_visual, *attention_operations;  // (T, B, K, ·); K (1 + W) columns, 0 beyond
    void* scratch;                                                        // steps_scratch elements
    float* logits;                                                        // (B, K, N)
    unsigned* barrier;                                                    // two zeros
};

int64_t steps_scratch(const Steps&);

// Least bytes of shared memory that a block of the launch takes, for so many columns of the window, K (1 + W).
size_t steps_shared(Dtype, int64_t R, int64_t columns);

// One launch.
cudaError_t steps(const Launch&, const Steps&);

}  // namespace iprm::cuda
