"""The whole forward and training step of the module: the cores, and all that stands outside of them.

The module itself says what that is: it runs on tensors without data, its walk over the steps with cores that only note
that they were called, and every operator of PyTorch is noted with its bytes and products. What its kernels are is
counted as PyTorch launches them on a card: one an operator, but two of a layer norm's backward; views and memory are
none. (Before 2.14 it copied an addend of the result's shape first, which was another launch.)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.roofline.cards import Card
from benchmarks.roofline.counts import PASSES, Launch, launches, predicted
from benchmarks.roofline.tiles import Sizes
from iprm import IPRMConfig
from iprm.fast import IPRM
from iprm_kernels.backends import eager
from iprm_kernels.steps import walk
from iprm_kernels.steps.weights import flattened

HOST = 27e-6
"""Seconds of the host for each launch of an eager step: an assumption. `benchmarks.launches` found 17 to 18 µs a kernel
in bfloat16 on two cores of an Intel Xeon with little else to do, and 36 with a load of 3, with its stub driver, hence
without a driver's own time. It depends on the processor more than on anything here."""
STEPS = ("forward", "training")
NO_KERNEL = ("empty", "new_empty", "empty_like", "new_empty_strided", "empty_strided", "_unsafe_view", "promote_types")
PRODUCTS = {"mm": (0, 1), "bmm": (0, 1), "addmm": (1, 2), "addmm_": (1, 2), "baddbmm": (1, 2)}
"""Where their factors stand."""


class Step(NamedTuple):
    """What a whole forward or training step launches: of the cores, and outside of them."""

    cores: list[Launch]
    others: list[Launch]

    @property
    def launches(self) -> int:
        return launches(self.cores) + launches(self.others)

    def device(self, card: Card, dtype: str) -> float:
        """Seconds of the device, which a graph takes."""
        return predicted(self.cores, card, dtype) + predicted(self.others, card, dtype)

    def eager(self, card: Card, dtype: str) -> float:
        """The longer of the host's time and the device's."""
        return max(HOST * self.launches, self.device(card, dtype))


class Noted(TorchDispatchMode):
    """Notes the kernels of what is called."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Launch] = []
        self.silent = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        view = any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns)
        if not (self.silent or view or name in NO_KERNEL):
            read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
            self.found.append(launch_of(name, read, [t for t in tree_leaves(out) if isinstance(t, Tensor)], args))
        return out

    @contextmanager
    def silence(self) -> Generator[None]:
        before, self.silent = self.silent, True
        yield
        self.silent = before


def stored(tensor: Tensor) -> int:
    """Bytes of what a tensor shows: what is expanded is there once."""
    shown = [n for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    return math.prod(shown) * tensor.element_size() if tensor.numel() else 0


def launch_of(name: str, read: list[Tensor], written: list[Tensor], args: Any) -> Launch:
    """The kernels of an operator."""
    moved, operations, times = sum(map(stored, read)) + sum(map(stored, written)), 0.0, 1
    if name in PRODUCTS:
        left, right = (args[i] for i in PRODUCTS[name])
        operations = 2.0 * left.numel() * right.shape[-1]
    elif name == "native_layer_norm_backward":
        times = 2
    elif name.startswith("_foreach"):
        moved = sum(map(stored, read)) + sum(map(stored, args[0]))
    return Launch(name, operations, moved, times)


def noting_cores(noted: Noted, s: Sizes, cores: list[Launch]) -> SimpleNamespace:
    """Cores that note their launches and give back tensors of the right shapes."""

    def note(name: str, columns: int = 0) -> None:
        cores.extend(PASSES[name](replace(s, W=columns // s.K - 1) if columns else s).ours)

    def empties(*like: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in like)

    def attention(q: Tensor, count: int) -> Tensor:
        return q.new_empty(s.B, s.K, count, dtype=torch.float32)

    def formation(q: Tensor, X: Tensor, *_: Any) -> tuple[Tensor, ...]:
        note("formation forward")
        return *empties(q), attention(q, s.L)

    def formation_backward(dz: Tensor, da: Any, q: Tensor, X: Tensor, f: Tensor, *_: Any) -> tuple[Tensor, ...]:
        note("formation backward")
        return empties(q, X, f)

    def execution(v: Tensor, u: Tensor, g: Tensor, l: Tensor, a: Any, b: Any, c: Any, w: Any, x: Tensor, *_: Any):
        note("execution forward")
        return x.new_empty(s.B, s.K, s.D), attention(x, s.N)

    def execution_backward(d: Tensor, da: Any, *inputs: Any) -> tuple[Tensor, ...]:
        note("execution backward")
        return empties(*inputs[:9])

    def composition(q: Tensor, keys: list[Tensor], *_: Any) -> tuple[Tensor, ...]:
        note("composition forward", s.K * len(keys))
        return *empties(q, q), attention(q, s.K * len(keys))

    def composition_backward(do: Tensor, de: Tensor, da: Any, q: Tensor, k: Any, o: Any, r: Any, c: Tensor, *_: Any):
        note("composition backward", s.K * len(k))
        return *empties(q), *(list(empties(*of)) for of in (k, o, r)), *empties(c)

    def dropout(x: Tensor, *_: Any) -> Tensor:
        cores.append(Launch("dropout", 0, 2 * stored(x)))
        return empties(x)[0]

    def silent(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            with noted.silence():
                return function(*args)

        return call

    rooms = (
        formation, formation_backward, execution, execution_backward, composition, composition_backward, dropout
    )  # fmt: skip
    own = {room.__name__: silent(room) for room in rooms}
    kept = {name: getattr(eager, name) for name in ("linear", "linear_back", "pack", "pair_unit")}
    return SimpleNamespace(**own, **kept)


class Walked(torch.autograd.Function):
    """All T steps, as `iprm::recurrence` and its backward."""

    @staticmethod
    def forward(ctx: Any, cores: Any, arguments: tuple[Any, ...], *flat: Tensor) -> tuple[Tensor, ...]:
        O, E, language, visual, *weights = flat
        maps, seed, options = arguments
        O, E, *attentions, kept = walk.forward(
            cores, O, E, language, None, visual, None, weights, maps, seed, *options, any(ctx.needs_input_grad)
        )
        ctx.held = cores, language, visual, weights, maps, attentions, kept, seed, options
        return O, E

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        dO, dE = grads
        cores, language, visual, weights, maps, attentions, kept, seed, options = ctx.held
        found = walk.backward(
            cores, dO, dE, None, None, None, language, visual, weights, maps, *attentions, kept, seed, *options,
            list(ctx.needs_input_grad[2:]),
        )  # fmt: skip
        *first, flat = found
        gradients = [*first, *flat]
        return None, None, *(g if need else None for g, need in zip(gradients, ctx.needs_input_grad[2:], strict=True))


class Module(IPRM):
    """The module, whose steps are walked with cores that note."""

    cores: Any

    def _recurrence(
        self, O: Tensor, E: Tensor, language: Tensor, visual: Tensor, language_mask: Any, visual_mask: Any,
        return_attention: bool,
    ) -> Any:  # fmt: skip
        flat, maps = flattened(self._weights())
        o = self._options()
        seed = torch.empty(1, dtype=torch.int64, device="meta") if self._drops() else None
        options = (
            o["steps"], o["window"], o["mask_self"], ",".join(o["activations"]), list(o["rates"]), list(o["epsilons"]),
            0,
        )  # fmt: skip
        O, E = Walked.apply(self.cores, (maps, seed, options), O, E, language, visual, *flat)
        return O, E, []


@functools.cache
def step_of(step: str, s: Sizes, T: int = 9) -> Step:
    """A whole step; with the default dropout where the sizes say so and it trains."""
    training = step == "training"
    s = replace(s, dropout=s.dropout and training)
    config = IPRMConfig(dim=s.D, num_ops=s.K, num_steps=T, window=s.W, reduction=s.r)
    with torch.device("meta"):
        module = Module(config if s.dropout else config.without_dropout()).to(s.torch_dtype)
        shapes = (s.B, s.L, s.D), (s.B, s.D), (s.B, s.N, s.D)
        inputs = [torch.empty(shape, dtype=s.torch_dtype).requires_grad_(training) for shape in shapes]
        module.train(training)
        noted, cores = Noted(), []
        object.__setattr__(module, "cores", noting_cores(noted, s, cores))
        with noted, torch.set_grad_enabled(training):
            result: Any = module(*inputs)
            if training:
                (result * torch.empty_like(result)).sum().backward()
    return Step(cores, noted.found)
