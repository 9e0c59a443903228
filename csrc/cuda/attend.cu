#include "attend.cuh"
#include "grid.cuh"

namespace iprm::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(kGroupThreads, 2) pool_kernel(PoolArgs args) {
    IPRM_SHARED(bytes);
    Arena arena(bytes);
    const PoolShared shared(arena);
    for_items(args.items(), [&](int64_t item) { pool_item<T>(args, item, shared); });
}

template <class T>
__global__ void __launch_bounds__(kGroupThreads, 2) d_logits_kernel(DLogitsArgs args) {
    IPRM_SHARED(bytes);
    Arena arena(bytes);
    const LeftShared shared(arena);
    for_items(args.items(), [&](int64_t item) { d_logits_item<T>(args, item, shared.left); });
}

template <class T>
__global__ void __launch_bounds__(kGroupThreads, 2) d_tokens_kernel(DTokensArgs args) {
    IPRM_SHARED(bytes);
    Arena arena(bytes);
    const DTokensShared shared(arena);
    for_items(args.items(), [&](int64_t item) { d_tokens_item<T, false>(args, item, shared); });
}

}  // namespace

cudaError_t pool(const Launch& at, const Attend& attend, const float* logits, const uint8_t* mask, void* pooled,
                 float* attention) {
    if (attend.B == 0 || attend.K == 0) return cudaSuccess;
    return with_dtype(at.dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        const PoolArgs args = pool_args<T>(attend, logits, mask, pooled, attention, multiprocessors());
        return launch(pool_kernel<T>, grid_of(args.items()), kGroupThreads, size_of<PoolShared>(), at.stream, args);
    });
}

cudaError_t d_logits(const Launch& at, const Attend& attend, const void* grad, const float* grad_attention,
                     const float* attention, float* ds) {
    if (attend.B == 0 || attend.K == 0) return cudaSuccess;
    return with_dtype(at.dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        const DLogitsArgs args = d_logits_args(attend, grad, grad_attention, attention, ds, multiprocessors());
        return launch(d_logits_kernel<T>, grid_of(args.items()), kGroupThreads, size_of<LeftShared>(), at.stream, args);
    });
}

cudaError_t d_tokens(const Launch& at, const Attend& attend, const void* grad, const float* attention, void* dx) {
    if (attend.B == 0 || attend.N == 0) return cudaSuccess;
    return with_dtype(at.dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        DTokensArgs args{attend, grad, attention, dx};
        split_tokens<T>(args, false, multiprocessors());
        return launch(d_tokens_kernel<T>, grid_of(args.items()), kGroupThreads, size_of<DTokensShared>(), at.stream,
                      args);
    });
}

}  // namespace iprm::cuda
