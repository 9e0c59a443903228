"""Launch configurations: for the chains of products, lists by architecture, dtype and width; for the others, rules.

Every entry of every list, and every value of the rules, has been compiled ahead of time (`inspect.py`): it fits the
shared memory of its architecture, spills no register and, in bfloat16 and float16, multiplies on tensor cores. A
list's first entry is the fixed choice. On a device `triton.autotune` times the list once for each (K, N, R, dtype) and
keeps its choice on disk; IPRM_TRITON_AUTOTUNE=0 takes the first entry instead, without timing.

Tiles of BN = 128 pairs would halve the traffic of the weights through the second-level cache, but at R = 256 on sm_90
their accumulator is half the register file and every form of the logits kernel spilled; 64 is the best that does not.
"""

from __future__ import annotations

import functools
import inspect
import os
from typing import NamedTuple

import torch
import triton

from iprm_kernels.backends.triton import pairs
from iprm_kernels.backends.triton.launch import cdiv, power_of_2, precision

ARCHITECTURES = (80, 90, 100)


class Tile(NamedTuple):
    """One configuration of a chain of products."""

    BN: int  # pairs
    BC: int  # columns of the hidden tile at a time
    BR: int  # columns of the first product's contraction at a time; 0 is all, held in registers
    PARTS: int  # column parts of the end of the logits kernel
    warps: int
    stages: int

    def config(self, kernel: str) -> dict:
        """The kernel's constants."""
        constants = {"BN": self.BN, "BC": self.BC, "BR": self.BR}
        return constants | {"PARTS": self.PARTS} if kernel == "logits" else constants


KERNELS = {
    "logits": pairs.logits_kernel,
    "recompute": pairs.recompute_kernel,
    "chain_backward": pairs.chain_backward_kernel,
}
IN_PLACE = {"chain_backward": ["D_H"]}
"""Arguments that a kernel reads and overwrites, which the autotuner must restore between its runs."""

# by width R rounded up to 128, 256, 512 or 1024
_FLOAT = {
    128: [Tile(32, 32, 32, 1, 4, 2), Tile(32, 32, 32, 1, 8, 2)],
    256: [Tile(32, 32, 32, 1, 8, 3), Tile(16, 32, 32, 1, 8, 2)],
    512: [Tile(16, 32, 32, 1, 8, 2)],
    1024: [Tile(16, 16, 32, 1, 8, 1)],
}
_HALF = {
    80: {
        128: [Tile(64, 32, 0, 2, 4, 2), Tile(128, 32, 0, 4, 8, 2), Tile(64, 64, 0, 1, 8, 2)],
        256: [Tile(64, 32, 0, 1, 8, 2), Tile(128, 32, 0, 4, 8, 2), Tile(32, 32, 0, 2, 4, 2)],
        512: [Tile(32, 32, 0, 1, 8, 2)],
        1024: [Tile(16, 16, 0, 1, 8, 2)],
    },
    90: {
        128: [Tile(128, 64, 0, 4, 8, 2), Tile(64, 64, 0, 2, 4, 2), Tile(128, 32, 0, 4, 8, 3)],
        256: [Tile(64, 64, 0, 1, 8, 2), Tile(64, 32, 0, 1, 8, 2), Tile(64, 32, 0, 2, 8, 3)],
        512: [Tile(32, 32, 0, 1, 8, 2)],
        1024: [Tile(16, 16, 0, 1, 8, 2)],
    },
    100: {
        128: [Tile(128, 64, 0, 4, 8, 2), Tile(64, 64, 0, 2, 4, 2)],
        256: [Tile(128, 64, 0, 4, 8, 2), Tile(128, 32, 0, 4, 8, 2), Tile(64, 64, 0, 4, 8, 2)],
        512: [Tile(32, 32, 0, 1, 8, 2)],
        1024: [Tile(16, 16, 0, 1, 8, 2)],
    },
}
_INSTEAD = {
    ("chain_backward", 90, 1024): [Tile(16, 32, 0, 1, 8, 2)],
    ("chain_backward", 100, 1024): [Tile(16, 32, 0, 1, 8, 2)],
}
"""Where one kernel needs another list than its neighbours."""
INTERPRETED = Tile(64, 64, 0, 2, 4, 1)


def width_class(R: int) -> int:
    """The list that serves width R.

    Raises:
        ValueError: R is over 1024.
    """
    for width in (128, 256, 512, 1024):
        if width >= R:
            return width
    raise ValueError(f"R: expected at most 1024 for the triton backend, got {R}")


def tiles(kernel: str, architecture: int, dtype: torch.dtype, R: int) -> list[Tile]:
    """The configurations that may be launched, the fixed choice first."""
    if dtype == torch.float32:
        return _FLOAT[width_class(R)]
    place = (kernel, family(architecture), width_class(R))
    return _INSTEAD.get(place) or _HALF[place[1]][place[2]]


def every_tile() -> list[Tile]:
    """All configurations of all lists."""
    lists = [*_FLOAT.values(), *_INSTEAD.values(), *(entries for arch in _HALF.values() for entries in arch.values())]
    return sorted({tile for entries in lists for tile in entries})


def family(architecture: int) -> int:
    """The architecture whose lists serve this one. Consumer cards have the shared memory and the matrix
    instructions of the oldest."""
    return architecture if architecture in (90, 100) else 100 if architecture == 103 else 80


def architecture_of(device: torch.device) -> int:
    """90 for an H100."""
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def tuning() -> bool:
    """Whether configurations are timed."""
    return os.environ.get("IPRM_TRITON_AUTOTUNE", "1") != "0"


@functools.cache
def tuned(kernel: str):
    """The kernel under `triton.autotune`, its list pruned to what the call may launch."""
    configs = {t: triton.Config(t.config(kernel), num_warps=t.warps, num_stages=t.stages) for t in every_tile()}

    def allowed(_, named, **options):
        like = next(t for t in named.values() if isinstance(t, torch.Tensor))
        entries = tiles(kernel, architecture_of(like.device), like.dtype, options["R"])
        return [configs[t] for t in entries]

    cached = {"cache_results": True} if "cache_results" in inspect.signature(triton.autotune).parameters else {}
    key = [name for name in ("K", "N", "R", "RP") if name in KERNELS[kernel].arg_names]
    return triton.autotune(
        list(configs.values()), key, prune_configs_by={"early_config_prune": allowed},
        restore_value=IN_PLACE.get(kernel), **cached,
    )(KERNELS[kernel])  # fmt: skip


def launch_pairs(kernel: str, like: torch.Tensor, R: int, *args, pairs: int, **options) -> None:
    """Launch a chain of products over so many pairs; `like` has the inputs' dtype and device."""
    options |= {"pairs": pairs, "R": R, "RP": max(16, power_of_2(R)), "PRECISION": precision(like.dtype)}

    def grid(meta):
        return (cdiv(pairs, meta["BN"]),)

    if like.is_cuda and tuning():
        tuned(kernel)[grid](*args, **options)
        return
    tile = tiles(kernel, architecture_of(like.device), like.dtype, R)[0] if like.is_cuda else INTERPRETED
    KERNELS[kernel][grid](*args, **options, **tile.config(kernel), num_warps=tile.warps, num_stages=tile.stages)


def attention_blocks(K: int, N: int, D: int, dtype: torch.dtype) -> dict:
    """Blocks of the kernels in `attend.py`. Without tensor cores a product holds both factors in registers."""
    return {
        "BK": 16 if K <= 16 else 32,
        "BN": min(32 if dtype == torch.float32 else 64, max(16, power_of_2(N))),
        "BD": min(64, max(16, power_of_2(D))),
        "num_warps": 4,
    }


def column_blocks(R: int) -> dict:
    """Blocks of the elementwise kernels over (tokens or pairs, R)."""
    return {"BN": 32, "BR": min(64, max(16, power_of_2(R))), "num_warps": 4}


def composition_blocks(K: int, D: int) -> dict:
    """Blocks of the kernels of `compose.py` that serve one operation."""
    return {"BK": 16, "BD": min(64, max(4, power_of_2(D))), "num_warps": 4}


def window_blocks(K: int, D: int) -> dict:
    """Blocks of its kernel over the columns, which sums three tiles at once."""
    return {"BK": min(8, power_of_2(K)), "BD": min(32, max(4, power_of_2(D))), "num_warps": 4}
