// The one place where a build for the device and a build for the host differ.
//
// The kernels use, beside plain CUDA C++ (threadIdx, __syncthreads, shuffles, explicit float conversions), only what is
// declared here: dynamic shared memory, launches, and one wrapper for each PTX instruction. Compiled with
// IPRM_CUDA_ON_HOST, the same names come from cuda_on_host.h of the tests and the same source runs on the CPU.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(IPRM_CUDA_ON_HOST)
#    include "cuda_on_host.h"
#else
#    include <cuda_bf16.h>
#    include <cuda_fp16.h>
#    include <cuda_runtime.h>

// Dynamic shared memory; static arrays are not used, so that every array has a gap behind it on the host.
#    define IPRM_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

namespace iprm::cuda {

inline constexpr size_t kSharedGap = 0;
__device__ inline void mark_piece(unsigned char*, size_t, size_t) {}

template <class T>
struct Same {
    using type = T;
};

// Bytes of dynamic shared memory: as the device counts them, and with the host's gaps.
struct SharedSize {
    size_t device = 0, host = 0;
};

inline cudaError_t allow_shared(const void* kernel, size_t bytes) {
    if (bytes <= 48 * 1024) return cudaSuccess;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
}

// Launches kernel(args...) on the stream; the error of the launch, if any.
template <class... P>
cudaError_t launch(void (*kernel)(P...), dim3 grid, unsigned threads, SharedSize shared, cudaStream_t stream,
                   typename Same<P>::type... args) {
    const void* function = reinterpret_cast<const void*>(kernel);
    if (cudaError_t error = allow_shared(function, shared.device)) return error;
    void* pointers[] = {const_cast<void*>(static_cast<const void*>(&args))...};
    return cudaLaunchKernel(function, grid, dim3(threads), pointers, shared.device, stream);
}

// The same with all blocks resident at once, as many as fit but no more than `most`, so that they can wait for each
// other (grid_barrier.cuh).
template <class... P>
cudaError_t launch_resident(void (*kernel)(P...), unsigned most, unsigned threads, SharedSize shared,
                            cudaStream_t stream, typename Same<P>::type... args) {
    const void* function = reinterpret_cast<const void*>(kernel);
    if (cudaError_t error = allow_shared(function, shared.device)) return error;
    int device = 0, processors = 0, blocks = 0;
    if (cudaError_t error = cudaGetDevice(&device)) return error;
    if (cudaError_t error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device)) return error;
    if (cudaError_t error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, function, static_cast<int>(threads),
                                                                          shared.device)) {
        return error;
    }
    const unsigned grid = static_cast<unsigned>(processors) * static_cast<unsigned>(blocks);
    void* pointers[] = {const_cast<void*>(static_cast<const void*>(&args))...};
    return cudaLaunchCooperativeKernel(function, dim3(grid < most ? grid : most), dim3(threads), pointers,
                                       shared.device, stream);
}

inline int multiprocessors() {
    int device = 0, count = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
    return count;
}

// cp.async: 16 bytes from global to shared memory, of which `valid` (0 to 16) are read and the rest become zero.
__device__ inline void copy_async(void* shared, const void* global, int valid = 16) {
    const auto target = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(global), "r"(valid) : "memory");
}
__device__ inline void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `Pending` of this thread's groups are still under way. A barrier must follow before other threads
// read what was copied.
template <int Pending>
__device__ inline void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// ldmatrix: four 8x8 matrices of 16-bit elements. Lane i gives the address of row i % 8 of matrix i / 8 (16 bytes,
// aligned to 16); lane i gets of each matrix elements (i / 4, 2 (i % 4)) and the next, the lower in the lower half.
__device__ inline void load_matrices(uint32_t (&r)[4], const void* row) {
    const auto address = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}
// The same, each matrix transposed: lane i gets elements (2 (i % 4), i / 4) and (2 (i % 4) + 1, i / 4).
__device__ inline void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
    const auto address = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// mma.m16n8k16: d (16x8, float) += a (16x16, row-major) b (16x8, column-major), elements T. With g = lane / 4 and
// t = lane % 4: a[0] = a(g, 2t..), a[1] = a(g+8, 2t..), a[2] = a(g, 2t+8..), a[3] = a(g+8, 2t+8..);
// b[0] = b(2t.., g), b[1] = b(2t+8.., g); d[0..1] = d(g, 2t..), d[2..3] = d(g+8, 2t..).
template <class T>
__device__ void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
template <>
__device__ inline void multiply_add<__nv_bfloat16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
__device__ inline void multiply_add<__half>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Waits for all blocks of a launch_resident. `state` is two words in global memory, zero before the first launch and
// again after each barrier but for the generation.
__device__ inline void grid_barrier(unsigned* state) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        volatile unsigned* generation = state + 1;
        const unsigned before = *generation;
        if (atomicAdd(state, 1u) == gridDim.x - 1) {
            *state = 0;
            __threadfence();
            atomicAdd(state + 1, 1u);
        } else {
            while (*generation == before) {
            }
        }
        __threadfence();
    }
    __syncthreads();
}

}  // namespace iprm::cuda
#endif

namespace iprm::cuda {

// Hands out pieces of dynamic shared memory, each aligned to 128 bytes; on the host a forbidden gap follows each. With
// a null base it only counts: the layout that a kernel carves is the one whose size the launch asks for.
class Arena {
  public:
    __host__ __device__ explicit Arena(unsigned char* base) : base_(base) {}

    template <class T>
    __host__ __device__ T* take(size_t count) {
        const size_t bytes = count * sizeof(T), rounded = (bytes + 127) / 128 * 128;
        unsigned char* piece = base_ == nullptr ? nullptr : base_ + size_.host;
#if defined(__CUDA_ARCH__) || defined(IPRM_CUDA_ON_HOST)
        if (piece != nullptr) mark_piece(piece, bytes, rounded - bytes + kSharedGap);
#endif
        size_.device += rounded;
        size_.host += rounded + kSharedGap;
        return reinterpret_cast<T*>(piece);
    }
    __host__ __device__ SharedSize size() const { return size_; }

  private:
    unsigned char* base_;
    SharedSize size_;
};

}  // namespace iprm::cuda
