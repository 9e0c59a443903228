// Elements: conversions between T and float, and 16-byte accesses to runs of a row.
//
// A thread owns a run of kRun<T> consecutive columns, which is one access: rows are whole runs (kernels.h).
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

template <class T>
__device__ inline uint4 load_raw(const T* p) {
    return *reinterpret_cast<const uint4*>(p);
}

template <class T>
__device__ inline void load_run(const T* p, float (&x)[kRun<T>]) {
    unpack_run<T>(load_raw(p), x);
}

template <class T>
__device__ inline void store_run(T* p, const float (&x)[kRun<T>]) {
    *reinterpret_cast<uint4*>(p) = pack_run<T>(x);
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
