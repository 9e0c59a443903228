"""What backends ask about CUDA devices, which are AMD's cards where torch is built for ROCm. Torch is asked here alone,
so that a test can put another card in its place."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch

Architecture = int | str
"""As Triton names them: 90 for an H100, "gfx942" for an MI300 of AMD's."""
KIB = 1024
_SHARED: dict[Architecture, int] = {
    75: 64, 80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 103: 227, 110: 227, 120: 99, 121: 99, "gfx950": 160,
}  # fmt: skip
_LEAST_SHARED, _LEAST_OF_AMD = 48, 64


class Card(NamedTuple):
    """A CUDA device."""

    capability: tuple[int, int]
    shared: int  # bytes of shared memory that a block may ask for
    multiprocessors: int
    amd: str | None = None  # AMD's name of the architecture

    @property
    def architecture(self) -> Architecture:
        """90 for capability 9.0."""
        major, minor = self.capability
        return self.amd or 10 * major + minor


def is_amd(architecture: Architecture) -> bool:
    """Whether it is one of AMD's."""
    return isinstance(architecture, str)


def name_of(architecture: Architecture) -> str:
    """sm_90, gfx942."""
    return str(architecture) if is_amd(architecture) else f"sm_{architecture}"


def shared_memory(architecture: Architecture) -> int:
    """Bytes of shared memory that one block may ask for (CUDA C++ programming guide, AMD's architecture guides); of an
    architecture that is not listed, those that every one gives."""
    return KIB * _SHARED.get(architecture, _LEAST_OF_AMD if is_amd(architecture) else _LEAST_SHARED)


@functools.cache
def _card(index: int) -> Card:
    properties = torch.cuda.get_device_properties(index)
    name = properties.gcnArchName.partition(":")[0] if torch.version.hip else None  # gfx942:sramecc+:xnack-
    found = Card((properties.major, properties.minor), 0, properties.multi_processor_count, name)
    shared = getattr(properties, "shared_memory_per_block_optin", None)  # not every version of torch tells
    return found._replace(shared=shared or shared_memory(found.architecture))


def card(device: torch.device) -> Card:
    """That of a CUDA device of which `obstacle` has nothing to say."""
    return _card(torch.cuda.current_device() if device.index is None else device.index)


def obstacle(device: torch.device) -> str | None:
    """Why nothing can run on a device of torch's type "cuda", or None where it may."""
    count = torch.cuda.device_count()
    if count <= (device.index or 0):
        return f"torch finds {count or 'no'} CUDA device{'s' if count > 1 else ''}"
    return None
