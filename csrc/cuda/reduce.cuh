// Sums and maxima over a warp, always in the same order. All lanes take part and all get the result; a block is a
// multiple of 32 threads.
#pragma once

#include "platform.cuh"

namespace iprm::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline int lane_index() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ inline int warp_index() { return static_cast<int>(threadIdx.x) / kWarp; }
__device__ inline int warp_count() { return static_cast<int>(blockDim.x) / kWarp; }

struct Sum {
    __device__ static float of(float a, float b) { return a + b; }
};
struct Max {
    static constexpr float kStart = -__builtin_huge_valf();
    __device__ static float of(float a, float b) { return fmaxf(a, b); }
};

// Over groups of `Lanes` neighbours.
template <class Op, int Lanes = kWarp>
__device__ inline float warp_reduce(float x) {
#pragma unroll
    for (int distance = Lanes / 2; distance > 0; distance /= 2) {
        x = Op::of(x, __shfl_xor_sync(kAllLanes, x, distance));
    }
    return x;
}
__device__ inline float warp_sum(float x) { return warp_reduce<Sum>(x); }
__device__ inline float warp_max(float x) { return warp_reduce<Max>(x); }

}  // namespace iprm::cuda
