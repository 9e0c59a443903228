// The kernel table of this machine, and what every PyTorch-facing file needs to call it.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <type_traits>
#include <utility>

#include "../common/arguments.h"
#include "kernels.h"

namespace iprm::cpu {

// The best table at::get_cpu_capability() allows; ATEN_CPU_CAPABILITY forbids some.
const KernelTable& kernel_table();

// The same, but that a matrix unit makes the products of pairs, where there is one. IPRM_CPU_AMX=0 forbids it.
const KernelTable& matrix_table();

// That whose products of pairs and of many rows are of bfloat16 numbers, or null where that is not faster.
// IPRM_CPU_BFLOAT16=1 asks for it wherever the processor can, 0 forbids it.
const KernelTable* bfloat16_table();

template <typename T>
const Kernels<T>& kernels();
template <>
inline const Kernels<float>& kernels<float>() {
    return kernel_table().f32;
}
template <>
inline const Kernels<double>& kernels<double>() {
    return kernel_table().f64;
}

// Those for products of many rows, of numbers of a dtype.
template <typename T>
const Kernels<T>& kernels_for_rows(at::ScalarType products) {
    if constexpr (std::is_same_v<T, float>) {
        const KernelTable* table = products == at::kBFloat16 ? bfloat16_table() : nullptr;
        if (table != nullptr) return table->f32;
    }
    return kernels<T>();
}

// Those for products of pairs, with so many tokens. Six products of a matrix unit for one of float32 pay forward; back,
// with transposes in between, the vector units are as fast.
template <typename T>
const Kernels<T>& kernels_for_pairs(at::ScalarType products, int64_t tokens, bool backward) {
    constexpr int64_t many = 96;  // fewer leave too much of a matrix unit's tiles empty
    if constexpr (std::is_same_v<T, float>) {
        const bool has_own = products == at::kBFloat16 && bfloat16_table() != nullptr;
        if (!has_own && !backward && tokens >= many) return matrix_table().f32;
    }
    return kernels_for_rows<T>(products);
}

// Calls body with a zero of the accumulator's C++ type.
template <typename Body>
auto with_accumulator(at::ScalarType dtype, Body&& body) {
    return accumulator(dtype) == at::kDouble ? body(double{}) : body(float{});
}

inline int64_t divide_up(int64_t x, int64_t y) { return (x + y - 1) / y; }

constexpr int64_t kPacking = 32;  // multiplications worth packing a number

// Calls body(first, last) on ranges of [0, count) in parallel, each worth some `work` operations an item.
template <typename Body>
void parallel(int64_t count, int64_t work, Body&& body) {
    constexpr int64_t worthwhile = 1 << 16;
    at::parallel_for(0, count, std::max<int64_t>(1, worthwhile / std::max<int64_t>(1, work)), std::forward<Body>(body));
}

}  // namespace iprm::cpu
