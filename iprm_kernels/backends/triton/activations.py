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
def slope(x, NAME: tl.constexpr):
    """dφ/dx as a function of x."""
    if NAME == "tanh":
        t = _tanh(x)
        return 1.0 - t * t
    elif NAME == "elu":
        return tl.exp(tl.minimum(x, 0.0))
    elif NAME == "relu":
        return tl.where(x > 0, 1.0, 0.0)
    elif NAME == "gelu":
        cdf = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))
        return cdf + x * tl.exp(-0.5 * x * x) * 0.3989422804014327
    elif NAME == "sigmoid":
        y = _sigmoid(x)
        return y * (1.0 - y)
    else:
        tl.static_assert(NAME == "identity", "unknown activation")
        return x * 0.0 + 1.0
