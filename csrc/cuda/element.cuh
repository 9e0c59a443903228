// Elements: conversions between T and float, and 16-byte accesses to runs of a row.
//
// A thread owns a run of kRun<T> consecutive columns. Where the tensor allows it (`wide`) the run is one 16-byte
// access; otherwise its valid elements are read one by one and the rest is zero.
#pragma once

#include "kernels.h"
#include "platform.cuh"

namespace iprm::cuda {

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float to_float(__half x) { return __half2float(x); }

// To the nearest T, ties to even.
template <class T>
__device__ T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
    return x;
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
    return __float2bfloat16_rn(x);
}
template <>
__device__ inline __half from_float<__half>(float x) {
    return __float2half_rn(x);
}

// x as T holds it.
template <class T>
__device__ inline float rounded(float x) {
    return to_float(from_float<T>(x));
}

// Elements of T in 16 bytes.
template <class T>
inline constexpr int kRun = 16 / static_cast<int>(sizeof(T));

// Whether every run of a row-major tensor of `width` columns is 16 aligned bytes.
template <class T>
__host__ __device__ inline bool is_wide(const void* data, int64_t width) {
    return reinterpret_cast<uintptr_t>(data) % 16 == 0 && width % kRun<T> == 0;
}

// Two neighbours of 16 bits, the first in the lower half.
template <class T>
__device__ float2 unpack(uint32_t pair);
template <>
__device__ inline float2 unpack<__nv_bfloat16>(uint32_t pair) {
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}
template <>
__device__ inline float2 unpack<__half>(uint32_t pair) {
    __half_raw low, high;
    low.x = static_cast<unsigned short>(pair & 0xffffu), high.x = static_cast<unsigned short>(pair >> 16);
    return make_float2(__half2float(__half(low)), __half2float(__half(high)));
}

template <class T>
__device__ uint32_t pack(float low, float high);
template <>
__device__ inline uint32_t pack<__nv_bfloat16>(float low, float high) {
    const __nv_bfloat16_raw a = __float2bfloat16_rn(low), b = __float2bfloat16_rn(high);
    return a.x | static_cast<uint32_t>(b.x) << 16;
}
template <>
__device__ inline uint32_t pack<__half>(float low, float high) {
    const __half_raw a = __float2half_rn(low), b = __float2half_rn(high);
    return a.x | static_cast<uint32_t>(b.x) << 16;
}

// 16 aligned bytes to floats.
template <class T>
__device__ inline void unpack_run(const uint4& raw, float (&x)[kRun<T>]) {
    if constexpr (sizeof(T) == 4) {
        x[0] = __uint_as_float(raw.x), x[1] = __uint_as_float(raw.y);
        x[2] = __uint_as_float(raw.z), x[3] = __uint_as_float(raw.w);
    } else {
        const uint32_t word[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float2 pair = unpack<T>(word[i]);
            x[2 * i] = pair.x, x[2 * i + 1] = pair.y;
        }
    }
}

template <class T>
__device__ inline uint4 pack_run(const float (&x)[kRun<T>]) {
    if constexpr (sizeof(T) == 4) {
        return make_uint4(__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]), __float_as_uint(x[3]));
    } else {
        return make_uint4(pack<T>(x[0], x[1]), pack<T>(x[2], x[3]), pack<T>(x[4], x[5]), pack<T>(x[6], x[7]));
    }
}

// The 16 bytes of the run at p, of which `valid` elements lie in the row (all of them where `wide`); the rest is zero.
template <class T>
__device__ inline uint4 load_raw(const T* p, int64_t valid, bool wide) {
    if (wide) return *reinterpret_cast<const uint4*>(p);
    uint32_t word[4] = {};
    if constexpr (sizeof(T) == 4) {
#pragma unroll
        for (int i = 0; i < 4; ++i) word[i] = i < valid ? __float_as_uint(p[i]) : 0;
    } else {
        const auto* bits = reinterpret_cast<const unsigned short*>(p);
#pragma unroll
        for (int i = 0; i < 8; ++i) word[i / 2] |= i < valid ? static_cast<uint32_t>(bits[i]) << 16 * (i % 2) : 0;
    }
    return make_uint4(word[0], word[1], word[2], word[3]);
}

template <class T>
__device__ inline void load_run(const T* p, int64_t valid, bool wide, float (&x)[kRun<T>]) {
    unpack_run<T>(load_raw(p, valid, wide), x);
}

template <class T>
__device__ inline void store_run(T* p, int64_t valid, bool wide, const float (&x)[kRun<T>]) {
    if (wide) {
        *reinterpret_cast<uint4*>(p) = pack_run<T>(x);
        return;
    }
#pragma unroll
    for (int i = 0; i < kRun<T>; ++i) {
        if (i < valid) p[i] = from_float<T>(x[i]);
    }
}

template <class T>
struct TypeTag {
    using type = T;
};

// f(TypeTag<T>{}) with the T of `dtype`.
template <class F>
auto with_dtype(Dtype dtype, F&& f) {
    switch (dtype) {
        case Dtype::kBFloat16:
            return f(TypeTag<__nv_bfloat16>{});
        case Dtype::kFloat16:
            return f(TypeTag<__half>{});
        default:
            return f(TypeTag<float>{});
    }
}

}  // namespace iprm::cuda
