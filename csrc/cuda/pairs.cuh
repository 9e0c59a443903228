// Pairs (k, n) of an operation and a visual token, which both kinds of execution go over.
#pragma once

#include "activation.cuh"
#include "element.cuh"

namespace iprm::cuda {

// Pairs are numbered through, p = (b·K + k)·N + n. Pair p reads row b·K + k of the tensors of operations and row
// b·N + n of those of tokens.
struct PairRows {
    int64_t operation, token;
};
__device__ inline PairRows locate(int64_t p, int64_t K, int64_t N) {
    const int64_t operation = p / N;
    return {operation, operation / K * N + p % N};
}

template <Activation A>
struct ActivationTag {
    static constexpr Activation value = A;
};

// f(ActivationTag<A>{}) with the A of `activation`: one switch for many values.
template <class F>
__device__ inline void with_activation(Activation activation, F&& f) {
    switch (activation) {
        case Activation::kTanh:
            return f(ActivationTag<Activation::kTanh>{});
        case Activation::kElu:
            return f(ActivationTag<Activation::kElu>{});
        case Activation::kRelu:
            return f(ActivationTag<Activation::kRelu>{});
        case Activation::kGelu:
            return f(ActivationTag<Activation::kGelu>{});
        case Activation::kSigmoid:
            return f(ActivationTag<Activation::kSigmoid>{});
        default:
            return f(ActivationTag<Activation::kIdentity>{});
    }
}

// x = φ(x)
template <int Rows, int Columns>
__device__ inline void activate_all(float (&x)[Rows][Columns], Activation activation) {
    with_activation(activation, [&](auto tag) {
#pragma unroll
        for (int i = 0; i < Rows; ++i) {
#pragma unroll
            for (int j = 0; j < Columns; ++j) x[i][j] = activate(x[i][j], tag.value);
        }
    });
}

// x = dφ/dx
template <int Rows, int Columns>
__device__ inline void slope_all(float (&x)[Rows][Columns], Activation activation) {
    with_activation(activation, [&](auto tag) {
#pragma unroll
        for (int i = 0; i < Rows; ++i) {
#pragma unroll
            for (int j = 0; j < Columns; ++j) x[i][j] = slope(x[i][j], activate(x[i][j], tag.value), tag.value);
        }
    });
}

// dφ/dx, and φ in place of x
template <int Columns>
__device__ inline void activate_with_slopes(float (&x)[Columns], float (&slopes)[Columns], Activation activation) {
    with_activation(activation, [&](auto tag) {
#pragma unroll
        for (int j = 0; j < Columns; ++j) {
            const float at = x[j];
            x[j] = activate(at, tag.value);
            slopes[j] = slope(at, x[j], tag.value);
        }
    });
}

// Four neighbours of a row, kept as they are in memory: a quad, which lies in the row or outside of it as a whole.
template <class T>
struct Quad {
    uint32_t word[sizeof(T)];
};

template <class T>
__device__ inline Quad<T> pack_quad(const float (&x)[4]) {
    if constexpr (sizeof(T) == 4) {
        return {{__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]), __float_as_uint(x[3])}};
    } else {
        return {{pack<T>(x[0], x[1]), pack<T>(x[2], x[3])}};
    }
}

template <class T>
__device__ inline void unpack_quad(const Quad<T>& quad, float (&x)[4]) {
    if constexpr (sizeof(T) == 4) {
#pragma unroll
        for (int i = 0; i < 4; ++i) x[i] = __uint_as_float(quad.word[i]);
    } else {
        const float2 low = unpack<T>(quad.word[0]), high = unpack<T>(quad.word[1]);
        x[0] = low.x, x[1] = low.y, x[2] = high.x, x[3] = high.y;
    }
}

// One access to an aligned quad.
template <class T>
__device__ inline Quad<T> load_quad(const T* p) {
    if constexpr (sizeof(T) == 4) {
        const uint4 raw = *reinterpret_cast<const uint4*>(p);
        return {{raw.x, raw.y, raw.z, raw.w}};
    } else {
        const uint2 raw = *reinterpret_cast<const uint2*>(p);
        return {{raw.x, raw.y}};
    }
}

template <class T>
__device__ inline void store_quad(T* p, const Quad<T>& quad) {
    if constexpr (sizeof(T) == 4) {
        *reinterpret_cast<uint4*>(p) = make_uint4(quad.word[0], quad.word[1], quad.word[2], quad.word[3]);
    } else {
        *reinterpret_cast<uint2*>(p) = make_uint2(quad.word[0], quad.word[1]);
    }
}

// The quad at `column` of a row of `width` elements; zero outside of it.
template <class T>
__device__ inline Quad<T> load_quad(const T* row, int64_t column, int64_t width) {
    return column < width ? load_quad(row + column) : Quad<T>{};
}

template <class T>
__device__ inline void store_quad(T* row, int64_t column, int64_t width, const float (&x)[4]) {
    if (column < width) store_quad(row + column, pack_quad<T>(x));
}

// Two neighbours, aligned.
template <class T>
__device__ inline void load_pair(const T* p, float& x, float& y) {
    float2 pair;
    if constexpr (sizeof(T) == 4) {
        pair = *reinterpret_cast<const float2*>(p);
    } else {
        pair = unpack<T>(*reinterpret_cast<const uint32_t*>(p));
    }
    x = pair.x, y = pair.y;
}

template <class T>
__device__ inline void store_pair(T* p, float x, float y) {
    if constexpr (sizeof(T) == 4) {
        *reinterpret_cast<float2*>(p) = make_float2(x, y);
    } else {
        *reinterpret_cast<uint32_t*>(p) = pack<T>(x, y);
    }
}

}  // namespace iprm::cuda
