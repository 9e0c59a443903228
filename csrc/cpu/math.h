// Inline exponential, error function and activations. A call to a vector math library in a product's epilogue
// would spill its accumulators.
#pragma once

#include <cmath>

#include "../common/activation.h"
#include "kernels.h"
#include "vector.h"

namespace iprm::cpu {
namespace {

template <typename T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
    static constexpr int kMantissa = 23;
    // Adding 1.5 * 2^23 rounds to an integer; the bias on top makes the low bits an exponent.
    static constexpr float kRound = 12582912.0f + 127.0f;
    static constexpr float kLn2High = 0.693147180559945f,
                           kLn2Low = 0.0f;        // one step will do, with n this small
    static constexpr float kLowest = -87.33654f;  // log of the smallest normal number
    // (exp(r) - 1 - r) / r^2 for |r| <= ln 2 / 2, to 3e-9 of exp(r)
    static constexpr float kTail[] = {0.49999994f, 0.16666521f, 0.04166839f, 0.008368717f, 0.0013814598f};
};

template <>
struct ExpConstants<double> {
    static constexpr int kMantissa = 52;
    static constexpr double kRound = 6755399441055744.0 + 1023.0;
    static constexpr double kLn2High = 6.93145751953125e-1, kLn2Low = 1.42860682030941723212e-6;
    static constexpr double kLowest = -708.3964185322641;
    // Taylor's 1 / 2!, 1 / 3!, ...
    static constexpr double kTail[] = {5.0000000000000000e-1, 1.6666666666666667e-1, 4.1666666666666667e-2,
                                       8.3333333333333333e-3, 1.3888888888888889e-3, 1.9841269841269841e-4,
                                       2.4801587301587302e-5, 2.7557319223985891e-6, 2.7557319223985891e-7,
                                       2.5052108385441719e-8, 2.0876756987868099e-9, 1.6059043836821615e-10};
};

// x = n ln 2 + r: fraction = exp(r) - 1, scale = 2^n
template <typename V>
struct ExpParts {
    V fraction, scale;
};

// For x from the log of the smallest normal number up to 0, and NaN.
template <typename V>
IPRM_INLINE ExpParts<V> exp_parts(V x) {
    using T = Scalar<V>;
    using C = ExpConstants<T>;
    constexpr int degree = sizeof(C::kTail) / sizeof(T) - 1;
    const V shifted = x * T(1.4426950408889634) + C::kRound;
    const V n = shifted - C::kRound;
    V r = x - n * C::kLn2High;
    if constexpr (C::kLn2Low != 0) r -= n * C::kLn2Low;
    V tail = splat<V>(C::kTail[degree]);
#pragma GCC unroll 16
    for (int i = degree - 1; i >= 0; --i) tail = tail * r + C::kTail[i];
    return {r * r * tail + r, (V)((Bits<V>)shifted << C::kMantissa)};
}

// exp(x) for x <= 0; exactly 0 where it would be subnormal.
template <typename V>
IPRM_INLINE V exp_nonpositive(V x) {
    constexpr auto lowest = ExpConstants<Scalar<V>>::kLowest;
    const auto e = exp_parts(at_least(x, lowest));
    return x < lowest ? V{} : e.scale * e.fraction + e.scale;
}

// exp(x) - 1 for x <= 0, accurate relative to itself.
template <typename V>
IPRM_INLINE V expm1_nonpositive(V x) {
    const auto e = exp_parts(at_least(x, ExpConstants<Scalar<V>>::kLowest));
    return e.scale * e.fraction + (e.scale - Scalar<V>(1));
}

template <typename V>
IPRM_INLINE V absolute(V x) {
    const Bits<V> sign = (Bits<V>)splat<V>(Scalar<V>(-0.0));
    return (V)((Bits<V>)x & ~sign);
}

template <typename V>
IPRM_INLINE V with_sign_of(V magnitude, V x) {
    const Bits<V> sign = (Bits<V>)splat<V>(Scalar<V>(-0.0));
    return (V)((Bits<V>)magnitude | ((Bits<V>)x & sign));
}

// exp(-2|x|) gives tanh away from zero; near zero that cancels and a polynomial (a rational function in
// double precision) takes its place. Coefficients as in Cephes.
IPRM_INLINE Vec<float> tanh_near_zero(Vec<float> x) {
    const Vec<float> z = x * x;
    Vec<float> p = z * -5.70498872745e-3f + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    return p * z * x + x;
}

IPRM_INLINE Vec<double> tanh_near_zero(Vec<double> x) {
    const Vec<double> z = x * x;
    const Vec<double> p = (z * -9.64399179425052238628e-1 - 9.92877231001918586564e1) * z - 1.61468768441708447952e3;
    const Vec<double> q =
        ((z + 1.12811678491632931402e2) * z + 2.23548839060100448583e3) * z + 4.84406305325125486048e3;
    return x * z * (p / q) + x;
}

template <typename V>
IPRM_INLINE V tanh(V x) {
    const V magnitude = absolute(x);
    const V e = exp_nonpositive(magnitude * Scalar<V>(-2));
    const V far = with_sign_of((Scalar<V>(1) - e) / (Scalar<V>(1) + e), x);
    return magnitude < Scalar<V>(0.625) ? tanh_near_zero(x) : far;
}

// erf, to one unit in the last place: a polynomial near zero, else 1 - exp(polynomial).
IPRM_INLINE Vec<float> erf(Vec<float> x) {
    const Vec<float> t = at_most(absolute(x), 4.0f);  // erf(4) rounds to 1
    const Vec<float> s = t * t;
    Vec<float> far = t * -1.72853470e-5f + 3.83197126e-4f;
    far = far * s + (t * -3.88396438e-3f + 2.42546219e-2f);
    far = far * t - 1.06777877e-1f;
    far = far * t - 6.34846687e-1f;
    far = far * t - 1.28717512e-1f;
    far = far * t - t;
    far = with_sign_of(-expm1_nonpositive(far), x);
    Vec<float> near = s * -5.96761703e-4f + 4.99119423e-3f;
    near = near * s - 2.67681349e-2f;
    near = near * s + 1.12819925e-1f;
    near = near * s - 3.76125336e-1f;
    near = near * s + 1.28379166e-1f;
    near = near * x + x;
    return t > 0.927734375f ? far : near;
}

IPRM_INLINE Vec<double> erf(Vec<double> x) {
    Vec<double> y;
    for (int i = 0; i < kLanes<double>; ++i) y[i] = std::erf(x[i]);
    return y;
}

// Each activation: its value, and its value with its slope.
template <typename V>
struct ValueSlope {
    V value, slope;
};

struct Identity {
    template <typename V>
    static IPRM_INLINE V value(V x) {
        return x;
    }
    template <typename V>
    static IPRM_INLINE ValueSlope<V> value_and_slope(V x) {
        return {x, splat<V>(1)};
    }
};

struct Tanh {
    template <typename V>
    static IPRM_INLINE V value(V x) {
        return tanh(x);
    }
    template <typename V>
    static IPRM_INLINE ValueSlope<V> value_and_slope(V x) {
        const V y = tanh(x);
        return {y, Scalar<V>(1) - y * y};
    }
};

struct Elu {
    template <typename V>
    static IPRM_INLINE V value(V x) {
        return x > 0 ? x : expm1_nonpositive(at_most(x, 0));
    }
    template <typename V>
    static IPRM_INLINE ValueSlope<V> value_and_slope(V x) {
        const V e = expm1_nonpositive(at_most(x, 0));
        return {x > 0 ? x : e, e + Scalar<V>(1)};
    }
};

struct Relu {
    template <typename V>
    static IPRM_INLINE V value(V x) {
        return at_least(x, 0);
    }
    template <typename V>
    static IPRM_INLINE ValueSlope<V> value_and_slope(V x) {
        return {at_least(x, 0), x > 0 ? splat<V>(1) : V{}};
    }
};

struct Gelu {
    template <typename V>
    static IPRM_INLINE V cumulative(V x) {
        return erf(x * Scalar<V>(0.70710678118654752)) * Scalar<V>(0.5) + Scalar<V>(0.5);
    }
    template <typename V>
    static IPRM_INLINE V value(V x) {
        return x * cumulative(x);
    }
    template <typename V>
    static IPRM_INLINE ValueSlope<V> value_and_slope(V x) {
        const V c = cumulative(x);
        const V density = exp_nonpositive(x * x * Scalar<V>(-0.5)) * Scalar<V>(0.39894228040143268);
        return {x * c, x * density + c};
    }
};

struct Sigmoid {
    template <typename V>
    static IPRM_INLINE ValueSlope<V> value_and_slope(V x) {
        const V e = exp_nonpositive(-absolute(x));
        const V upper = Scalar<V>(1) / (Scalar<V>(1) + e);
        const V lower = e * upper;
        return {x < 0 ? lower : upper, upper * lower};
    }
    template <typename V>
    static IPRM_INLINE V value(V x) {
        return value_and_slope(x).value;
    }
};

// Calls body with an object of the activation's type.
template <typename Body>
void with_activation(Activation activation, Body&& body) {
    switch (activation) {
        case Activation::kIdentity:
            return body(Identity{});
        case Activation::kTanh:
            return body(Tanh{});
        case Activation::kElu:
            return body(Elu{});
        case Activation::kRelu:
            return body(Relu{});
        case Activation::kGelu:
            return body(Gelu{});
        case Activation::kSigmoid:
            return body(Sigmoid{});
    }
}

template <typename T>
void activation(const ActivationArgs<T>& args, int64_t first, int64_t last) {
    with_activation(args.activation, [&](auto act) {
        for_columns<T>(last - first, [&](int64_t i, auto lanes) IPRM_LAMBDA {
            lanes.store(args.out + first + i, decltype(act)::value(lanes.load(args.x + first + i)));
        });
    });
}

}  // namespace
}  // namespace iprm::cpu
