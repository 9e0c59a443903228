"""A point of a sweep: sizes, number format and machine settings, and the inputs that go with them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from iprm import IPRMConfig

SEED = 20240
DTYPES = ("float32", "bfloat16", "float16", "float64", "amp-bfloat16", "amp-float16")
"""`amp-x`: parameters and inputs in float32, run under autocast to x."""


@dataclass(frozen=True)
class Point:
    """Everything that a measurement depends on, save the variant that is measured."""

    num_ops: int = 6  # K
    num_steps: int = 9  # T
    window: int = 2  # W
    visual_tokens: int = 196  # N
    language_tokens: int = 24  # L
    batch: int = 8  # B
    dim: int = 512  # D
    reduction: int = 2  # r
    dtype: str = "float32"
    dropout: bool = False  # at the default rates, in training steps
    threads: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}, got {self.dtype!r}")

    @property
    def config(self) -> IPRMConfig:
        names = ("dim", "num_ops", "num_steps", "window", "reduction")
        config = IPRMConfig(**{name: getattr(self, name) for name in names})
        return config if self.dropout else config.without_dropout()

    @property
    def compute_dtype(self) -> torch.dtype:
        """What the kernels get."""
        return getattr(torch, self.dtype.removeprefix("amp-"))

    @property
    def stored_dtype(self) -> torch.dtype:
        """What parameters and inputs are held in."""
        return torch.float32 if self.amp else self.compute_dtype

    @property
    def amp(self) -> bool:
        return self.dtype.startswith("amp-")

    @property
    def label(self) -> str:
        sizes = {
            "K": self.num_ops, "T": self.num_steps, "W": self.window, "N": self.visual_tokens,
            "L": self.language_tokens, "B": self.batch, "D": self.dim, "r": self.reduction,
        }  # fmt: skip
        dropout = "-dropout" if self.dropout else ""
        text = "-".join(f"{letter}{size}" for letter, size in sizes.items())
        return f"{text}-{self.dtype}{dropout}-{self.device}-{self.threads}t"

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        """language (B, L, D), summary (B, D), visual (B, N, D)."""
        B, D = self.batch, self.dim
        return (B, self.language_tokens, D), (B, D), (B, self.visual_tokens, D)

    def inputs(self) -> list[Tensor]:
        """Tensors of `input_shapes`, the same at every call."""
        generator = torch.Generator().manual_seed(SEED)
        drawn = [torch.randn(shape, generator=generator) for shape in self.input_shapes]
        return [x.to(self.device, self.stored_dtype) for x in drawn]

    def weighting(self) -> Tensor:
        """The loss is Σ weighting ⊙ result: (B, D)."""
        drawn = torch.randn(self.batch, self.dim, generator=torch.Generator().manual_seed(SEED + 1))
        return drawn.to(self.device, self.stored_dtype)

    def as_dict(self) -> dict:
        return dataclasses.asdict(self)
