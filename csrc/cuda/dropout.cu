// drop(x) as an op of its own.
#include "draw.cuh"
#include "element.cuh"
#include "grid.cuh"

namespace iprm::cuda {
namespace {

inline constexpr int kDropoutThreads = 256;

// One run a thread; the last may be short.
template <class T>
__global__ void __launch_bounds__(kDropoutThreads) dropout_kernel(const T* x, T* out, int64_t n, Drop drop, bool wide) {
    const Draw draw = draw_of(drop);
    const int64_t blocks = (n + kDropoutThreads * kRun<T> - 1) / (kDropoutThreads * kRun<T>);
    for_items(blocks, [&](int64_t block) {
        const int64_t e = (block * kDropoutThreads + threadIdx.x) * kRun<T>;
        if (e >= n) return;
        if (wide && n - e >= kRun<T>) {
            float y[kRun<T>];
            load_run(x + e, y);
            drop_run(draw, 0, e, y);
            store_run(out + e, y);
        } else {
            for (int64_t i = e; i < n && i < e + kRun<T>; ++i)
                out[i] = from_float<T>(to_float(x[i]) * multiplier(draw, i));
        }
    });
}

}  // namespace

cudaError_t dropout(const Launch& at, const void* x, void* out, int64_t n, const Drop& drop) {
    if (n == 0) return cudaSuccess;
    return with_dtype(at.dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        const int64_t block = kDropoutThreads * kRun<T>;
        const bool wide = (reinterpret_cast<uintptr_t>(x) | reinterpret_cast<uintptr_t>(out)) % 16 == 0;
        return launch(dropout_kernel<T>, grid_of((n + block - 1) / block), kDropoutThreads, SharedSize{}, at.stream,
                      static_cast<const T*>(x), static_cast<T*>(out), n, drop, wide);
    });
}

}  // namespace iprm::cuda
