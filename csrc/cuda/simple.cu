// Launches of execution = "simple".
#include "simple.cuh"

namespace iprm::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(kTokenThreads, 2) simple_logits_kernel(SimplePairs pairs, float* s) {
    simple_logits_item<T>(pairs, s, blockIdx.x);
}

template <class T>
__global__ void __launch_bounds__(kTokenThreads, 2)
    simple_backward_kernel(SimplePairs pairs, const float* ds, T* d_keys, float* sum_query, float* sum_w) {
    IPRM_SHARED(memory);
    Arena arena(memory);
    const int64_t start = static_cast<int64_t>(blockIdx.y) * SimpleSums::kColumns;
    simple_backward_item(pairs, ds, d_keys, sum_query, sum_w, blockIdx.x, start, arena);
}

}  // namespace

cudaError_t simple_logits(const Launch& on, const SimplePairs& pairs, float* s) {
    const int64_t count = pairs.B * pairs.K * pairs.N;
    if (count == 0) return cudaSuccess;
    return with_dtype(on.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const dim3 grid(static_cast<unsigned>((count + kSimplePairs - 1) / kSimplePairs));
        return launch(simple_logits_kernel<T>, grid, kTokenThreads, SharedSize{}, on.stream, pairs, s);
    });
}

cudaError_t simple_backward(const Launch& on, const SimplePairs& pairs, const float* ds, void* d_keys, float* sum_query,
                            float* sum_w) {
    const int64_t items = pairs.B * token_tiles(pairs.N);
    if (items == 0 || pairs.R == 0) return cudaSuccess;
    return with_dtype(on.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        Arena arena(nullptr);
        const SimpleSums sums(arena);
        return launch(simple_backward_kernel<T>, token_grid(items, pairs.R, SimpleSums::kColumns), kTokenThreads,
                      arena.size(), on.stream, pairs, ds, static_cast<T*>(d_keys), sum_query, sum_w);
    });
}

}  // namespace iprm::cuda
