// The launches of the CUDA backend: no torch, plain pointers. Symbols as in the mechanism: B samples, K operations, L
// language tokens, N visual tokens, D model width, R reduced width, C columns of the window.
//
// Every tensor is contiguous, row-major, on the current device; `void*` points to elements of Launch::dtype, `float*`
// to float32. Rows of D and of R elements are whole runs of 16 bytes, and begin at a multiple of 16: D and R count what
// the caller has padded them with, zeros where it is read. Sizes may be zero: then nothing is launched. Each function
// returns the error of its launches.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../common/activation.h"
#if defined(__CUDACC__) || defined(IPRM_CUDA_ON_HOST)
#    include "platform.cuh"
#else
#    include <cuda_runtime_api.h>  // for binding.cpp, which the host's compiler compiles
#endif

namespace iprm::cuda {

enum class Dtype { kFloat32, kBFloat16, kFloat16 };

struct Launch {
    Dtype dtype;
    cudaStream_t stream;
};

// One dropout site. The seed stays on the device. Nothing is dropped where the threshold is 0.
struct Drop {
    const int64_t* seed = nullptr;
    uint32_t stream = 0, threshold = 0;
    float scale = 1.0f;
    int64_t width = 0;  // columns of the mask where rows are dropped, without padding
};

// out = drop(x), of n elements that begin anywhere.
cudaError_t dropout(const Launch&, const void* x, void* out, int64_t n, const Drop& drop);

// --- What formation and execution share (attend.cuh): K queries attend over N tokens of width D.

struct Attend {
    int64_t B, K, N, D;
    const void* tokens;  // x (B, N, D)
    Drop drop;           // of the attention, (B, K, N)
};

// pooled_k = Σ_n m_kn a_kn x_n with a = softmax_n(masked s); mask (B, N) bytes or null. `logits` may not be
// `attention`.
cudaError_t pool(const Launch&, const Attend&, const float* logits, const uint8_t* mask, void* pooled,
                 float* attention);

// ds = a ⊙ (da - Σ_n a da) with da_kn = m_kn (grad_k · x_n) + grad_attention_kn; grad_attention may be null.
cudaError_t d_logits(const Launch&, const Attend&, const void* grad, const float* grad_attention,
                     const float* attention, float* ds);

// dx_n = Σ_k m_kn a_kn grad_k
cudaError_t d_tokens(const Launch&, const Attend&, const void* grad, const float* attention, void* dx);

// --- 1. Formation (N is L here). s_kn = (q_k ⊙ f) · x_n

// `logits` is scratch (B, K, N); may be unused.
cudaError_t formation(const Launch&, const Attend&, const void* query, const void* gate, const uint8_t* mask, void* z,
                      float* attention, float* logits);

// Scratch: ds (B, K, N). Out: d_query (B, K, D); d_tokens (B, N, D), with the part of the logits; d_gate parts (B, D),
// to be summed over B.
cudaError_t formation_backward(const Launch&, const Attend&, const void* grad, const float* grad_attention,
                               const void* query, const void* gate, const float* attention, float* ds, void* d_query,
                               void* d_tokens, float* d_gate_parts);

// --- 2. Execution, full

struct Pairs {
    int64_t B, K, N, R;
    Activation activation;
    Drop product;                        // (B, K, N, R)
    const void *v, *u, *g, *l;           // (B, N, R) twice, (B, K, R) twice
    const void *c1a, *c2, *c2_bias, *w;  // (R, R) twice, (R) twice
};

// Bytes of shared memory that a block may have on the current device.
size_t shared_limit();

// Largest R that the kernels of this backend take where a block may have so many bytes of shared memory.
int64_t most_width(Dtype, size_t shared);

// s_kn = w · drop(φ(h_kn ⊙ l_k)), (B, K, N)
cudaError_t logits(const Launch&, const Pairs&, float* s);

// Rows of `sum_w` and `sum_c2` that gradients_of_pairs writes for so many pairs, and of `sum_g`, `sum_l` of `reduce`.
int64_t pair_tiles(const Launch&, int64_t R, int64_t pairs);
int64_t token_tiles(int64_t N);

// From ds (of the B samples of `pairs`, which begin at pair number `first` of the batch) to, for each pair, what the
// gradients are sums of, each (B·K·N, R): scaled = g ⊙ v, hidden = φ(pre), d_pre, dh, dx = d(g ⊙ v), and d_l = dπ ⊙ h.
//
struct PairGradients {
    void *scaled, *hidden, *d_pre, *d_h, *d_x, *d_l;
    float *sum_w, *sum_c2;  // (pair_tiles, R): parts of dw and dc2
};
cudaError_t gradients_of_pairs(const Launch&, const Pairs&, const float* ds, int64_t first, const PairGradients&);

// dv = Σ_k g ⊙ dx, du = Σ_k d_pre, (B, N, R); and parts (B, token_tiles, K, R) of dg = Σ_n v ⊙ dx and dl = Σ_n d_l.
cudaError_t reduce(const Launch&, const Pairs&, const PairGradients&, void* dv, void* du, float* sum_g, float* sum_l);

// --- 2. Execution, simple: s_kn = w · drop(φ(p_k ⊙ κ_n))

struct SimplePairs {
    int64_t B, K, N, R;
    Activation activation;
    Drop product;                  // (B, K, N, R)
    const void *keys, *query, *w;  // (B, N, R), (B, K, R), (R)
};
cudaError_t simple_logits(const Launch&, const SimplePairs&, float* s);
// d_keys (B, N, R); parts (B, token_tiles, K, R) of d_query and (B, token_tiles, R) of dw.
cudaError_t simple_backward(const Launch&, const SimplePairs&, const float* ds, void* d_keys, float* sum_query,
                            float* sum_w);

// --- 3. Composition. The window's states are read where they are, never concatenated.

inline constexpr int kMostBlocks = 64;

struct Window {
    int64_t B, K, D;
    int blocks;  // current states, then those of the previous steps; C = K·blocks
    bool mask_self;
    const void *query, *gate;                                                        // (B, K, D), (D)
    const void *keys[kMostBlocks], *operations[kMostBlocks], *results[kMostBlocks];  // each (B, K, D)
    Drop product, operation, result, attention;
};
struct WindowGradients {
    void *keys[kMostBlocks], *operations[kMostBlocks], *results[kMostBlocks];
};

cudaError_t composition(const Launch&, const Window&, void* pooled_operations, void* pooled_results, float* attention);

// Scratch: ds (B, K, C). d_gate_parts (B, D) is to be summed over B.
cudaError_t composition_backward(const Launch&, const Window&, const void* grad_operations, const void* grad_results,
                                 const float* grad_attention, const float* attention, float* ds, void* d_query,
                                 const WindowGradients&, float* d_gate_parts);

}  // namespace iprm::cuda
