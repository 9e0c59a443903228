// The yardstick of the products: multiply-adds of registers alone, in the shape of the micro-kernel of product.h.
#pragma once

#include "vector.h"

namespace iprm::cpu {
namespace {

// Multiply-adds of numbers in a round of `peak`.
template <typename T>
constexpr int64_t kPeakRound = kTileRows * kTileVectors * kLanes<T>;

template <typename T>
IPRM_NOINLINE T peak(int64_t rounds) {
    Vec<T> acc[kTileRows * kTileVectors] = {}, x = splat<Vec<T>>(T(0.5)), y = splat<Vec<T>>(T(1));
    for (int64_t i = 0; i < rounds; ++i) {
        asm volatile("" : "+x"(x), "+x"(y));  // or it would see that all sums are the same
#pragma GCC unroll 32
        for (auto& a : acc) a = a * x + y;
    }
    Vec<T> sum = {};
    for (const auto& a : acc) sum += a;
    return horizontal_sum(sum);
}

}  // namespace
}  // namespace iprm::cpu
