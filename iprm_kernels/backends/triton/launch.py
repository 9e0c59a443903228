"""What every launch needs: contiguous tensors, a mask of bytes, dropout arguments, the precision of products; and the
launch itself, at a configuration of `configs.py`.

Where that has more than one, `triton.autotune` times them once for each class of sizes, with the same constants and
dtypes, and keeps its choice on disk. With IPRM_TRITON_AUTOTUNE=0, and under `torch.use_deterministic_algorithms`, the
first is taken, without timing: configurations sum in different orders, and which one is fastest is chance. Either is
done at the first launch of its kind; later ones are those of `held.py`.
"""

from __future__ import annotations

import collections
import functools
import inspect
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from iprm_kernels.backends import devices
from iprm_kernels.backends.triton import attend, compose, configs, held, pairs, philox, simple, sums
from iprm_kernels.backends.triton.configs import cdiv, power_of_2
from iprm_kernels.philox import Role, stream_of
from iprm_kernels.precision import float32_products

KERNELS = {
    "products": attend.products_kernel,
    "pool": attend.pool_kernel,
    "slope": attend.slope_kernel,
    "d_tokens": attend.d_tokens_kernel,
    "d_query": attend.d_query_kernel,
    "logits": pairs.logits_kernel,
    "recompute": pairs.recompute_kernel,
    "hidden": pairs.hidden_kernel,
    "d_pre": pairs.d_pre_kernel,
    "chain_backward": pairs.chain_backward_kernel,
    "weights": pairs.weights_kernel,
    "simple_logits": simple.simple_logits_kernel,
    "simple_backward": simple.simple_backward_kernel,
    "composition_forward": compose.forward_kernel,
    "operations_backward": compose.operations_backward_kernel,
    "columns_backward": compose.columns_backward_kernel,
    "dropout": philox.dropout_kernel,
    "add_parts": sums.add_parts_kernel,
}
IN_PLACE = {"recompute": ["SUM_W"], "chain_backward": ["SUM_W"], "weights": ["SUM", "SUM_BIAS"]}
"""Arguments that a kernel adds to, or of which a configuration writes a part, which the autotuner must restore between
its runs."""
OPTIONS = {"enable_fp_fusion": True}
"""What must not depend on the default of a Triton version: a · b + c is one rounding."""
Grid = Callable[[dict[str, int]], tuple[int, ...]]
"""The programs of a launch, from the sizes of its blocks."""
NOMINAL: dict[str, int] = collections.defaultdict(lambda: 64)
"""Blocks of one size, to compare launches by."""


def contiguous(*tensors: Tensor) -> list[Tensor]:
    """The tensors as the kernels read them. One of other strides is copied; its bytes are the caller's to avoid."""
    return [t.contiguous() for t in tensors]


def bytes_of(mask: Tensor | None) -> Tensor | None:
    """A bool mask as int8, without a copy where it is contiguous."""
    return None if mask is None else mask.contiguous().view(torch.int8)


def threshold_of(p: float) -> tuple[int, float]:
    """What the upper 24 bits of a kept element's word reach, and what it is scaled by."""
    return math.ceil(p * 2**24), 1.0 / (1.0 - p)


class Draws(NamedTuple):
    """The kernel arguments of one dropout mask. The seed stays on the device: the kernel reads it there. The number of
    the mask's stream is `draw`, because Triton keeps the name `stream` for itself."""

    seed: Tensor | None
    draw: int
    threshold: int
    scale: float

    @property
    def on(self) -> bool:
        """Whether anything is dropped, which the kernels call DROP."""
        return self.seed is not None


def draws_of(p: float, seed: Tensor | None, step: int, role: Role) -> Draws:
    """Those of the mask of `role` in step `step`."""
    return Draws(seed if p else None, stream_of(step, role), *threshold_of(p))


def precision(dtype: torch.dtype) -> str:
    """How products are rounded: those of float32 as PyTorch's own on CUDA devices. AMD's are not: tf32 came to its
    matrix instructions with gfx942 and went with gfx950, and those of float32 are there in both."""
    return float32_products("cuda") if dtype == torch.float32 and not torch.version.hip else "ieee"


def architecture_of(device: torch.device) -> devices.Architecture | None:
    """90 for an H100, "gfx942" for an MI300; None under the interpreter."""
    return devices.card(device).architecture if device.type == "cuda" else None


def multiprocessors_of(device: torch.device) -> int:
    """How many a device has, or the interpreter would."""
    return devices.card(device).multiprocessors if device.type == "cuda" else configs.MULTIPROCESSORS


def tuning() -> bool:
    """Whether configurations are timed."""
    return os.environ.get("IPRM_TRITON_AUTOTUNE", "1") != "0" and not torch.are_deterministic_algorithms_enabled()


class Classed(triton.Config):
    """A configuration to be timed for a class of sizes. Results on disk are told apart by its text; what is written
    there is its `__dict__`, of which the sizes are no part."""

    __slots__ = ("sizes",)

    def __init__(self, entry: configs.Entry, sizes: tuple[int, ...]) -> None:
        super().__init__(dict(entry.constants), num_warps=entry.warps, num_stages=entry.stages)
        self.sizes = sizes

    def __str__(self) -> str:
        return f"{super().__str__()}, sizes: {self.sizes}"


def class_of(grid: Grid, options: dict[str, Any]) -> tuple[int, ...]:
    """Sizes that are tuned alike: each to the next power of two. How many programs fill a card says most, K and N how
    long their loops are."""
    sizes = math.prod(grid(NOMINAL)), options.get("K", 1), options.get("N", 1)
    return tuple(map(power_of_2, sizes))


@functools.cache
def tuned(kernel: str, entries: tuple[configs.Entry, ...], sizes: tuple[int, ...]) -> Any:
    """The kernel under `triton.autotune` with these configurations, for a class of sizes."""
    function, blocks = KERNELS[kernel], dict(entries[0].constants)
    key = [p.name for p in function.params if p.is_constexpr and p.name not in blocks]
    cached = {"cache_results": True} if "cache_results" in inspect.signature(triton.autotune).parameters else {}
    choices = [Classed(entry, sizes) for entry in entries]
    return triton.autotune(choices, key, restore_value=IN_PLACE.get(kernel), **cached)(function)


def launch(kernel: str, grid: Grid, *args: Any, like: Tensor, **options: Any) -> None:
    """Launch a kernel on a grid that may depend on its blocks.

    args: its first arguments, in order: pointers and numbers.  options: the others by name, but for the blocks: K, N
    and constants.  like: has the inputs' dtype and device.
    """
    size_class = None if torch.are_deterministic_algorithms_enabled() else class_of(grid, options)
    key = (*held.key_of(kernel, like.get_device(), args, options), size_class) if like.is_cuda else ()
    if (known := held.KERNELS.get(key)) and not held.watched(known.function):
        known.launch(grid, args)
        return
    sizes = options.get("R") or options.get("D"), options.get("K", 1), options.get("N", 1)
    entries = configs.entries(
        kernel, architecture_of(like.device), like.dtype, *sizes, options.get("PRECISION", "ieee")
    )
    first, *others = entries
    if like.is_cuda and others and tuning():
        tuner = tuned(kernel, entries, size_class)
        compiled = tuner[grid](*args, **options, **OPTIONS)
        blocks = tuner.best_config.kwargs
    else:
        compiled = KERNELS[kernel][grid](*args, **options, **OPTIONS, **first.arguments)
        blocks = dict(first.constants)
    if key:
        held.hold(key, KERNELS[kernel], compiled, args, options, blocks)


def add_parts(
    parts: Tensor, total: Tensor, axis: int = 0, also: tuple[Tensor, Tensor] | None = None, turned: bool = False
) -> Tensor:
    """The sum over an axis of `parts`, float32, into `total` of any dtype; both contiguous. `also`: parts and total of
    another sum of as many numbers, made in the same launch; a square matrix may be `turned`, which is transposed."""
    if total.numel():
        before, count = math.prod(parts.shape[:axis]), math.prod(parts.shape[axis + 1 :])
        other, other_total = also or (parts, total)
        grid: Grid = lambda meta: (before * cdiv(count, meta["BW"]), 2 if also else 1)  # noqa: E731
        launch(
            "add_parts", grid, parts, total, other, other_total, parts.shape[axis], other.shape[axis], count,
            R=total.shape[-1] if turned else 0, like=total,
        )  # fmt: skip
    return total


def over_pairs(kernel: str, first: Tensor, *args: Any, pairs: int, R: int, **options: Any) -> None:
    """Launch a forward chain, or its first half, over so many pairs, which is the last of its first arguments."""
    options |= product_options(kernel, R, first.dtype)
    grid: Grid = lambda meta: (cdiv(pairs, meta["BN"]), cdiv(R, options.get("BD", meta["BC"])))  # noqa: E731
    launch(kernel, grid, first, *args, pairs, like=first, **options)


def over_tokens(kernel: str, first: Tensor, *args: Any, tokens: int, N: int, K: int, R: int, **options: Any) -> None:
    """Launch a backward chain, or its first half, over all operations of so many tokens."""
    grouped = configs.grouped(K)
    options |= product_options(kernel, R, first.dtype) | {"GROUP": configs.group(K)}
    grid: Grid = lambda meta: (  # noqa: E731
        cdiv(tokens, meta["BN"] // grouped), cdiv(K, grouped), cdiv(R, options.get("BD", meta["BC"]))
    )  # fmt: skip
    launch(kernel, grid, first, *args, tokens, N=N, K=K, grouped=grouped, like=first, **options)


def product_options(kernel: str, R: int, dtype: torch.dtype) -> dict[str, Any]:
    """What all launches of chains and their halves are given."""
    found: dict[str, Any] = {"R": R, "PRECISION": precision(dtype)}
    return found | ({"BD": configs.columns(kernel, R, dtype)} if kernel in configs.CHAINS else {})
