"""The three cores straight from mechanism.md, by broadcasting and autograd: what every backend is held against."""

from __future__ import annotations

import torch
from torch import Tensor

from iprm_kernels.activations import ACTIVATIONS
from iprm_kernels.dropout import Role, scaled_mask, stream_of

MASK_BIAS = -1e30


def drop(x: Tensor, p: float, seed: Tensor | None, step: int, role: Role) -> Tensor:
    return x * scaled_mask(x.shape, p, seed, stream_of(step, role), x.dtype) if p else x


def masked_softmax(s: Tensor, keep: Tensor | None) -> Tensor:
    s = s.to(torch.promote_types(s.dtype, torch.float32))
    return torch.softmax(s if keep is None else s + (~keep).to(s.dtype) * MASK_BIAS, -1)


def formation(query, tokens, gate, mask=None, *, seed=None, step=0, p_attention=0.0):
    s = (gate * (query[:, :, None] * tokens[:, None])).sum(-1)
    a = masked_softmax(s, None if mask is None else mask[:, None])
    dropped = drop(a, p_attention, seed, step, Role.FORMATION_ATTENTION)
    return (dropped[..., None] * tokens[:, None]).sum(2).to(tokens.dtype), a


def execution(
    v, u, g, l, C1a, C2, c2, w, tokens, mask=None, *, activation="elu", seed=None, step=0, p_product=0.0,
    p_attention=0.0,
):  # fmt: skip
    φ = ACTIVATIONS[activation]
    h = φ((g[:, :, None] * v[:, None]) @ C1a.mT + u[:, None]) @ C2.mT + c2
    return _attend(φ(h * l[:, :, None]), w, tokens, mask, seed, step, p_product, p_attention)


def execution_simple(
    keys, query, w, tokens, mask=None, *, activation="elu", seed=None, step=0, p_product=0.0, p_attention=0.0
):
    y = ACTIVATIONS[activation](query[:, :, None] * keys[:, None])
    return _attend(y, w, tokens, mask, seed, step, p_product, p_attention)


def _attend(y, w, tokens, mask, seed, step, p_product, p_attention):
    s = (drop(y, p_product, seed, step, Role.PRODUCT) * w).sum(-1)
    a = masked_softmax(s, None if mask is None else mask[:, None])
    dropped = drop(a, p_attention, seed, step, Role.EXECUTION_ATTENTION)
    return (dropped[..., None] * tokens[:, None]).sum(2).to(tokens.dtype), a


def composition(
    query, keys, operations, results, gate, *, mask_self=True, seed=None, step=0, p_product=0.0, p_value=0.0,
    p_attention=0.0,
):  # fmt: skip
    k, o, e = (torch.cat(list(states), 1) for states in (keys, operations, results))
    product = drop(query[:, :, None] * k[:, None], p_product, seed, step, Role.COMPOSITION_PRODUCT)
    other = ~torch.eye(query.shape[1], k.shape[1], dtype=torch.bool)
    a = masked_softmax((gate * product).sum(-1), other if mask_self else None)
    dropped = drop(a, p_attention, seed, step, Role.COMPOSITION_ATTENTION)
    o = drop(o, p_value, seed, step, Role.COMPOSITION_OPERATION)
    e = drop(e, p_value, seed, step, Role.COMPOSITION_RESULT)
    return *((dropped[..., None] * values[:, None]).sum(2).to(o.dtype) for values in (o, e)), a
