"""Argument checks whose messages name the argument, what was expected and what came."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import TypeGuard

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
STEPS = 2**28
"""Steps are numbered below this: 16 dropout masks of each, with numbers of 32 bits."""


def name_of(dtype: torch.dtype) -> str:
    """`float32` for torch.float32."""
    return str(dtype).removeprefix("torch.")


def is_dense(value: object) -> TypeGuard[Tensor]:
    """Whether `value` is a tensor with strides, neither sparse nor nested."""
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested


def described(value: object) -> str:
    """`(8, 195) int64 on cpu` for a tensor; type and value, cut short, otherwise."""
    if is_dense(value):
        return f"{tuple(value.shape)} {name_of(value.dtype)} on {value.device}"
    if isinstance(value, Tensor):
        layout = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
        return f"a {layout} tensor of {name_of(value.dtype)}"
    return repr(value) if value is None else f"{reprlib.repr(value)} ({type(value).__name__})"


def is_tensor(value: object, shape: Sequence[int | str], dtype: torch.dtype, device: torch.device) -> bool:
    """Whether `value` is a dense tensor of this shape (a letter stands for any size), dtype and device."""
    if not (is_dense(value) and value.dtype == dtype and value.device == device):
        return False
    return value.shape == shape or (
        value.dim() == len(shape)
        and all(isinstance(want, str) or want == got for want, got in zip(shape, value.shape, strict=True))
    )


def check_tensor(
    name: str, value: Tensor, shape: Sequence[int | str], dtype: torch.dtype, device: torch.device
) -> None:
    """Raise unless `is_tensor` of these arguments."""
    if not is_tensor(value, shape, dtype, device):
        sizes = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
        raise ValueError(f"{name}: expected ({sizes}) {name_of(dtype)} on {device}, got {described(value)}")


def check_floating(name: str, value: Tensor) -> None:
    """Raise unless `value` is a dense tensor of a floating type that the kernels know."""
    if not (is_dense(value) and value.dtype in DTYPES):
        names = ", ".join(map(name_of, DTYPES))
        raise ValueError(f"{name}: expected a tensor of one of {names}, got {described(value)}")


def check_tokens(name: str, value: Tensor) -> None:
    """Raise unless the (B, tokens, D) tensor has a token: there is no attention over none."""
    if value.shape[1] == 0:
        raise ValueError(f"{name}: expected at least one token, got {tuple(value.shape)}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise unless `value` is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {reprlib.repr(value)}")


def check_number(name: str, value: int, below: int, least: int = 0) -> None:
    """Raise unless `value` is an integer from `least` to `below` - 1."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < below:
        raise ValueError(f"{name}: expected an integer from {least} to {below - 1}, got {described(value)}")


def check_rate(name: str, p: float, seed: Tensor | None, device: torch.device) -> None:
    """Raise unless p is in [0, 1) and, where p > 0, the seed is an int64 (1,) tensor on `device`."""
    if not isinstance(p, int | float) or isinstance(p, bool) or not 0.0 <= p < 1.0:
        raise ValueError(f"{name}: expected a rate in [0, 1), got {described(p) if isinstance(p, Tensor) else p!r}")
    if p > 0.0 and not (
        isinstance(seed, Tensor) and seed.dtype == torch.int64 and seed.shape == (1,) and seed.device == device
    ):
        raise ValueError(f"seed: expected (1,) int64 on {device} because {name} = {p}, got {described(seed)}")
