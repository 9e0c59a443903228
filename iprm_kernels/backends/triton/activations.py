"""φ and dφ/dx on float32 tiles, by the names of `iprm_kernels.activations`."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _tanh(x):
    e = tl.exp(-2.0 * tl.abs(x))  # never overflows
    t = (1.0 - e) / (1.0 + e)
    return tl.where(x < 0, -t, t)


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def activate(x, NAME: tl.constexpr):
    """φ(x)."""
    if NAME == "tanh":
        return _tanh(x)
    elif NAME == "elu":
        return tl.where(x > 0, x, tl.exp(tl.minimum(x, 0.0)) - 1.0)
    elif NAME == "relu":
        return tl.maximum(x, 0.0)
    elif NAME == "gelu":
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif NAME == "sigmoid":
        return _sigmoid(x)
    else:
        tl.static_assert(NAME == "identity", "unknown activation")
        return x


@triton.jit
def kept(x, NAME: tl.constexpr):
    """What is kept of x for `value` and `slope`: φ(x), from which the slope follows; but of GELU x itself."""
    if NAME == "gelu":
        return x
    else:
        return activate(x, NAME)


@triton.jit
def value(y, NAME: tl.constexpr):
    """φ(x) from what is kept."""
    if NAME == "gelu":
        return activate(y, NAME)
    else:
        return y


@triton.jit
def slope(y, NAME: tl.constexpr):
    """dφ/dx from what is kept."""
    if NAME == "tanh":
        return 1.0 - y * y
    elif NAME == "elu":
        return tl.where(y > 0, 1.0, 1.0 + y)
    elif NAME == "relu":
        return tl.where(y > 0, 1.0, 0.0)
    elif NAME == "gelu":
        cdf = 0.5 * (1.0 + tl.erf(y * 0.7071067811865476))
        return cdf + y * tl.exp(-0.5 * y * y) * 0.3989422804014327
    elif NAME == "sigmoid":
        return y * (1.0 - y)
    else:
        tl.static_assert(NAME == "identity", "unknown activation")
        return y * 0.0 + 1.0
