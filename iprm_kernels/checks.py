"""Argument checks whose messages name the argument, what was expected and what came."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def name_of(dtype: torch.dtype) -> str:
    """`float32` for torch.float32."""
    return str(dtype).removeprefix("torch.")


def described(value: object) -> str:
    """`(8, 195) int64 on cpu` for a tensor; type and value otherwise."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {name_of(value.dtype)} on {value.device}"
    return repr(value) if value is None else f"{value!r} ({type(value).__name__})"


def check_tensor(
    name: str, value: Tensor, shape: Sequence[int | str], dtype: torch.dtype, device: torch.device
) -> None:
    """Raise unless `value` is a tensor of this shape (a letter stands for any size), dtype and device."""
    good = (
        isinstance(value, Tensor)
        and value.dim() == len(shape)
        and all(isinstance(want, str) or want == got for want, got in zip(shape, value.shape, strict=True))
        and value.dtype == dtype
        and value.device == device
    )
    if not good:
        sizes = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
        raise ValueError(f"{name}: expected ({sizes}) {name_of(dtype)} on {device}, got {described(value)}")


def check_floating(name: str, value: Tensor) -> None:
    """Raise unless `value` is a tensor of a floating type that the kernels know."""
    if not (isinstance(value, Tensor) and value.dtype in DTYPES):
        names = ", ".join(map(name_of, DTYPES))
        raise ValueError(f"{name}: expected a tensor of one of {names}, got {described(value)}")


def check_tokens(name: str, value: Tensor) -> None:
    """Raise unless the (B, tokens, D) tensor has a token: there is no attention over none."""
    if value.shape[1] == 0:
        raise ValueError(f"{name}: expected at least one token, got {tuple(value.shape)}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")
