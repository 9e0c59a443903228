// φ and dφ/dx in float32. The activation is a run-time choice that every thread makes alike.
#pragma once

#include "../common/activation.h"
#include "platform.cuh"

namespace iprm::cuda {

inline constexpr float kSqrtHalf = 0.70710678118654752f;       // √½
inline constexpr float kNormalDensity = 0.39894228040143268f;  // 1 / √(2π)

// φ(x)
__device__ inline float activate(float x, Activation activation) {
    switch (activation) {
        case Activation::kTanh:
            return tanhf(x);
        case Activation::kElu:
            return x > 0.0f ? x : expm1f(x);
        case Activation::kRelu:
            return x < 0.0f ? 0.0f : x;
        case Activation::kGelu:
            return 0.5f * x * (1.0f + erff(x * kSqrtHalf));
        case Activation::kSigmoid:
            return 1.0f / (1.0f + expf(-x));
        default:
            return x;
    }
}

// dφ/dx at x, where y = φ(x)
__device__ inline float slope(float x, float y, Activation activation) {
    switch (activation) {
        case Activation::kTanh:
            return 1.0f - y * y;
        case Activation::kElu:
            return x > 0.0f ? 1.0f : 1.0f + y;
        case Activation::kRelu:
            return x > 0.0f ? 1.0f : 0.0f;
        case Activation::kGelu:
            return 0.5f * (1.0f + erff(x * kSqrtHalf)) + x * expf(-0.5f * x * x) * kNormalDensity;
        case Activation::kSigmoid:
            return y * (1.0f - y);
        default:
            return 1.0f;
    }
}

}  // namespace iprm::cuda
