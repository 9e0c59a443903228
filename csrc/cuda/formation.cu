#include "formation.cuh"
#include "grid.cuh"

namespace iprm::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(kGroupThreads, 2) formation_kernel(FormationArgs args) {
    IPRM_SHARED(bytes);
    Arena arena(bytes);
    const GroupShared shared(arena);
    for_items(args.items(), [&](int64_t item) { formation_item<T>(args, item, shared); });
}

template <class T>
__global__ void __launch_bounds__(kGroupThreads, 2) formation_logits_kernel(FormationArgs args, float* logits) {
    IPRM_SHARED(bytes);
    Arena arena(bytes);
    const LeftShared shared(arena);
    for_items(args.items(), [&](int64_t item) { formation_logits_item<T>(args, item, shared.left, logits); });
}

template <class T>
__global__ void __launch_bounds__(kGroupThreads, 1) formation_backward_kernel(FormationBackwardArgs args) {
    IPRM_SHARED(bytes);
    Arena arena(bytes);
    const PoolAndLeftShared shared(arena);
    for_items(args.items(), [&](int64_t item) { formation_backward_item<T>(args, item, shared); });
}

template <class T>
__global__ void __launch_bounds__(kGroupThreads, 1) formation_d_tokens_kernel(DTokensArgs args) {
    IPRM_SHARED(bytes);
    Arena arena(bytes);
    const DTokensShared shared(arena);
    for_items(args.items(), [&](int64_t item) { d_tokens_item<T, true>(args, item, shared); });
}

template <class T>
cudaError_t long_formation(const Launch& at, FormationArgs args, float* logits) {
    const int64_t groups = (args.attend.K + kGroup - 1) / kGroup;
    args.split = {groups, static_cast<int>((args.attend.K + groups - 1) / groups),
                  (args.attend.N + kLogitTokens - 1) / kLogitTokens};
    const cudaError_t error = launch(formation_logits_kernel<T>, grid_of(args.items()), kGroupThreads,
                                     size_of<LeftShared>(), at.stream, args, logits);
    return error != cudaSuccess ? error : pool(at, args.attend, logits, args.mask, args.z, args.attention);
}

}  // namespace

cudaError_t formation(const Launch& at, const Attend& attend, const void* query, const void* gate, const uint8_t* mask,
                      void* z, float* attention, float* logits) {
    if (attend.B == 0 || attend.K == 0) return cudaSuccess;
    return with_dtype(at.dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        const FormationArgs args = formation_args<T>(attend, query, gate, mask, z, attention, multiprocessors());
        if (!is_short(attend.N)) return long_formation<T>(at, args, logits);
        return launch(formation_kernel<T>, grid_of(args.items()), kGroupThreads, size_of<GroupShared>(), at.stream,
                      args);
    });
}

cudaError_t formation_backward(const Launch& at, const Attend& attend, const void* grad, const float* grad_attention,
                               const void* query, const void* gate, const float* attention, float* ds, void* d_query,
                               void* d_tokens, float* d_gate_parts) {
    if (attend.B == 0) return cudaSuccess;
    return with_dtype(at.dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        if (attend.K > 0) {
            const FormationBackwardArgs args = formation_backward_args<T>(
                d_logits_args(attend, grad, grad_attention, attention, ds, multiprocessors()), gate, d_query);
            const cudaError_t error = launch(formation_backward_kernel<T>, grid_of(args.items()), kGroupThreads,
                                             size_of<PoolAndLeftShared>(), at.stream, args);
            if (error != cudaSuccess) return error;
        }
        DTokensArgs args{attend, grad, attention, d_tokens, ds, query, gate, d_gate_parts};
        split_tokens<T>(args, true, multiprocessors());
        return launch(formation_d_tokens_kernel<T>, grid_of(args.items()), kGroupThreads, size_of<DTokensShared>(),
                      at.stream, args);
    });
}

}  // namespace iprm::cuda
