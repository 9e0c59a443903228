"""What is compared: the plain reference, the restructured algebra, both compiled, and the fused backends.

reference       the mechanism as it is written
algebra         the fast module's restructured algebra, in PyTorch under plain autograd
fast[backend]   the fast module on one backend; with +graph, replaying CUDA graphs
...+compile     any of them through torch.compile
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn

import iprm_kernels
from benchmarks.points import SEED, Point
from iprm import IPRMConfig, fast, reference
from iprm_kernels.activations import ACTIVATIONS
from iprm_kernels.autocast import cast
from iprm_kernels.backends import eager
from iprm_kernels.dropout import Role, dropout, stream_of

BUILDERS: dict[str, Callable[[IPRMConfig], nn.Module]] = {"reference": reference.IPRM, "algebra": fast.IPRM}
COMPILED = "+compile"

_IN_PLACE = {"elu": F.elu_, "tanh": torch.tanh_, "relu": torch.relu_, "sigmoid": torch.sigmoid_}
"""Autograd then keeps the activation's result, which the next product keeps anyway, and not its input too."""


def _activation(name: str) -> Callable:
    return _IN_PLACE.get(name, ACTIVATIONS[name])


def _attend(y, w, tokens, mask, seed, step, p_product, p_attention):
    """From y = φ(...) (B, K, N, R), the attention over the tokens; the registered op masks fastest."""
    y = dropout(y, p_product, seed, stream_of(step, Role.PRODUCT))
    logits = (y @ w).to(eager.accumulator(y.dtype))
    a = eager.masked_softmax(logits, None if mask is None else mask[:, None])
    dropped = dropout(a, p_attention, seed, stream_of(step, Role.EXECUTION_ATTENTION))
    return torch.bmm(dropped.to(tokens.dtype), tokens), a


def plain_formation(
    query, tokens, gate, mask=None, *, seed=None, step=0, p_attention=0.0, backend="auto"
):  # fmt: skip
    """`iprm_kernels.formation` as PyTorch that autograd sees through."""
    query, tokens, gate = cast(query.device, query, tokens, gate)
    logits = torch.bmm(query * gate, tokens.mT).to(eager.accumulator(query.dtype))
    a = eager.masked_softmax(logits, None if mask is None else mask[:, None])
    dropped = dropout(a, p_attention, seed, stream_of(step, Role.FORMATION_ATTENTION))
    return torch.bmm(dropped.to(tokens.dtype), tokens), a


def plain_execution(
    v, u, g, l, C1a, C2, c2, w, tokens, mask=None, *, activation="elu", seed=None, step=0, p_product=0.0,
    p_attention=0.0, backend="auto",
):  # fmt: skip
    """`iprm_kernels.execution` likewise, all samples at once; autograd keeps the pair tensors."""
    v, u, g, l, C1a, C2, c2, w, tokens = cast(v.device, v, u, g, l, C1a, C2, c2, w, tokens)
    φ = _activation(activation)
    hidden = φ(F.linear(g[:, :, None] * v[:, None], C1a).add_(u[:, None]))
    h = F.linear(hidden, C2, c2)
    del hidden
    product = h * l[:, :, None] if torch.is_grad_enabled() else h.mul_(l[:, :, None])
    return _attend(φ(product), w, tokens, mask, seed, step, p_product, p_attention)


def plain_execution_simple(
    keys, query, w, tokens, mask=None, *, activation="elu", seed=None, step=0, p_product=0.0, p_attention=0.0,
    backend="auto",
):  # fmt: skip
    """`iprm_kernels.execution_simple` likewise."""
    keys, query, w, tokens = cast(keys.device, keys, query, w, tokens)
    y = _activation(activation)(query[:, :, None] * keys[:, None])
    return _attend(y, w, tokens, mask, seed, step, p_product, p_attention)


def plain_execution_dropped(
    V, Wk, bk, C1b, c1, g, l, C1a, C2, c2, w, mask=None, *, seed, step, p_visual, **options
):  # fmt: skip
    """`iprm_kernels.execution_dropped` likewise; autograd keeps the keys of every step."""
    x = dropout(V, p_visual, seed, stream_of(step, Role.VISUAL))
    v = F.linear(x, Wk, bk)
    u = F.linear(v, C1b, c1)
    return plain_execution(v, u, g, l, C1a, C2, c2, w, x, mask, seed=seed, step=step, **options)


def plain_execution_simple_dropped(
    V, C1, c1, C2, c2, query, w, mask=None, *, seed, step, p_visual, activation, **options
):  # fmt: skip
    """`iprm_kernels.execution_simple_dropped` likewise."""
    x = dropout(V, p_visual, seed, stream_of(step, Role.VISUAL))
    keys = F.linear(ACTIVATIONS[activation](F.linear(x, C1, c1)), C2, c2)
    return plain_execution_simple(keys, query, w, x, mask, seed=seed, step=step, activation=activation, **options)


def plain_composition(
    query, keys, operations, results, gate, *, mask_self=True, seed=None, step=0, p_product=0.0, p_value=0.0,
    p_attention=0.0, backend="auto",
):  # fmt: skip
    """`iprm_kernels.composition` likewise; with dropout the registered op, whose masks cost less."""
    rates = {"p_product": p_product, "p_value": p_value, "p_attention": p_attention}
    if any(rates.values()):
        return iprm_kernels.composition(
            query, keys, operations, results, gate, mask_self=mask_self, seed=seed, step=step, **rates
        )
    query, keys, operations, results, gate = cast(query.device, query, keys, operations, results, gate)
    return eager.composition(
        query, keys, operations, results, gate, mask_self, seed, step, *rates.values()
    )  # fmt: skip


@contextlib.contextmanager
def plain_cores() -> Iterator[None]:
    """Within it the fast module calls the cores above: autograd and torch.compile see through them."""
    with mock.patch.multiple(
        fast,
        formation=plain_formation,
        execution=plain_execution,
        execution_dropped=plain_execution_dropped,
        execution_simple=plain_execution_simple,
        execution_simple_dropped=plain_execution_simple_dropped,
        composition=plain_composition,
    ):
        yield


def _within(context: Callable, run: Callable) -> Callable:
    def call(*inputs):
        with context():
            return run(*inputs)

    return call


def module_of(name: str, config: IPRMConfig) -> nn.Module:
    """The module of a variant, its parameters the same for every variant."""
    base = name.removesuffix(COMPILED)
    torch.manual_seed(SEED)
    if base in BUILDERS:
        return BUILDERS[base](config)
    backend, graph = _fast(base)
    if backend is None:
        known = ", ".join([*BUILDERS, "fast[backend]", "fast[backend]+graph"])
        raise ValueError(f"variant: expected one of {known}, with or without {COMPILED}, got {name!r}")
    return fast.IPRM(config, backend=backend, cuda_graph=graph)


def _fast(base: str) -> tuple[str | None, bool]:
    """The backend of a variant of the fast module, None of others, and whether it replays CUDA graphs."""
    found = re.fullmatch(r"fast\[(.+)\](\+graph)?", base)
    return (found[1], bool(found[2])) if found else (None, False)


def runner_of(name: str, module: nn.Module) -> Callable:
    """What is called to run the variant."""
    run = torch.compile(module, dynamic=False, fullgraph=True) if name.endswith(COMPILED) else module
    return _within(plain_cores, run) if name.removesuffix(COMPILED) == "algebra" else run


def unusable(name: str, point: Point) -> str | None:
    """Why the variant cannot run at the point, None where it can."""
    backend, _ = _fast(name.removesuffix(COMPILED))
    if backend is None:
        return None
    reasons = iprm_kernels.reasons(point.device, point.compute_dtype)
    return reasons.get(backend, "no such backend")


def fast_variants(point: Point) -> list[str]:
    """The fused backends that can run at the point, the one that "auto" takes first."""
    reasons = iprm_kernels.reasons(point.device, point.compute_dtype)
    simulated = {"triton", "cuda"} if point.device == "cpu" else set()  # the speed of what is interpreted says nothing
    return [f"fast[{name}]" for name, reason in reasons.items() if reason is None and name not in simulated]


def default_variants(point: Point, compiled: bool = True) -> list[str]:
    """What is compared at the point unless something else is asked for."""
    plain = ["reference", "algebra"]
    baselines = [name + suffix for name in plain for suffix in (("", COMPILED) if compiled else ("",))]
    return [*baselines, *fast_variants(point)]
