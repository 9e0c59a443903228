// Launches whose blocks take items in turn, and the shared memory of a launch.
#pragma once

#include "platform.cuh"

namespace iprm::cuda {

inline constexpr int64_t kMostGrid = 0x7fffffff;

inline dim3 grid_of(int64_t items) { return dim3(static_cast<unsigned>(items < kMostGrid ? items : kMostGrid)); }

// Shared memory of a layout that is carved from an arena.
template <class Layout>
SharedSize size_of() {
    Arena arena(nullptr);
    Layout layout(arena);
    return arena.size();
}

// Each item begins with a barrier before it writes shared memory.
template <class F>
__device__ inline void for_items(int64_t items, F&& f) {
    for (int64_t item = blockIdx.x; item < items; item += gridDim.x) f(item);
}

}  // namespace iprm::cuda
