// What the compiler of the device is told, or kept from knowing. Nothing of it changes a result.
#pragma once

#include "platform.cuh"

namespace iprm::cuda {

// threadIdx.x, of which the compiler does not know that it is the same in every round of a loop: the addresses derived
// from it are computed where they are used, instead of being kept in registers throughout.
__device__ inline int recomputed_thread() {
    int thread = static_cast<int>(threadIdx.x);
#if !defined(IPRM_CUDA_ON_HOST)
    asm volatile("" : "+r"(thread));
#endif
    return thread;
}

// p points to shared memory: loads and stores need not find out.
template <class T>
__device__ inline void assume_shared([[maybe_unused]] const T* p) {
#if !defined(IPRM_CUDA_ON_HOST)
    __builtin_assume(__isShared(p));
#endif
}

}  // namespace iprm::cuda
