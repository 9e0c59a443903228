#include "composition.cuh"
#include "grid.cuh"

namespace iprm::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(kGroupThreads, 1) composition_kernel(CompositionArgs args) {
    IPRM_SHARED(bytes);
    Arena arena(bytes);
    const GroupShared shared(arena);
    for_items(args.items(), [&](int64_t item) { composition_item<T>(args, item, shared); });
}

template <class T>
__global__ void __launch_bounds__(kGroupThreads, 1) operations_backward_kernel(OperationsBackwardArgs args) {
    IPRM_SHARED(bytes);
    Arena arena(bytes);
    const PoolAndLeftShared shared(arena);
    for_items(args.items(), [&](int64_t item) { operations_backward_item<T>(args, item, shared); });
}

template <class T>
__global__ void __launch_bounds__(kGroupThreads, 2) columns_backward_kernel(ColumnsBackwardArgs args) {
    IPRM_SHARED(bytes);
    Arena arena(bytes);
    const RunSums shared(arena);
    for_items(args.items(), [&](int64_t item) { columns_backward_item<T>(args, item, shared); });
}

}  // namespace

cudaError_t composition(const Launch& at, const Window& window, void* pooled_operations, void* pooled_results,
                        float* attention) {
    if (window.B == 0 || window.K == 0) return cudaSuccess;
    return with_dtype(at.dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        const CompositionArgs args =
            composition_args<T>(window, pooled_operations, pooled_results, attention, multiprocessors());
        return launch(composition_kernel<T>, grid_of(args.items()), kGroupThreads, size_of<GroupShared>(), at.stream,
                      args);
    });
}

cudaError_t composition_backward(const Launch& at, const Window& window, const void* grad_operations,
                                 const void* grad_results, const float* grad_attention, const float* attention,
                                 float* ds, void* d_query, const WindowGradients& d, float* d_gate_parts) {
    if (window.B == 0 || window.K == 0) return cudaSuccess;
    return with_dtype(at.dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        const int64_t D = window.D, processors = multiprocessors();
        const OperationsBackwardArgs operations{window,
                                                grad_operations,
                                                grad_results,
                                                grad_attention,
                                                attention,
                                                ds,
                                                d_query,
                                                split_sample(window.B, window.K, 1, processors),
                                                warps_across<T>(D)};
        const cudaError_t error = launch(operations_backward_kernel<T>, grid_of(operations.items()), kGroupThreads,
                                         size_of<PoolAndLeftShared>(), at.stream, operations);
        if (error != cudaSuccess) return error;
        const int runs = runs_across<T>(window.B, D, processors);
        const ColumnsBackwardArgs columns{window,       d,    grad_operations,      grad_results, attention, ds,
                                          d_gate_parts, runs, run_tiles<T>(D, runs)};
        return launch(columns_backward_kernel<T>, grid_of(columns.items()), kGroupThreads, size_of<RunSums>(),
                      at.stream, columns);
    });
}

}  // namespace iprm::cuda
