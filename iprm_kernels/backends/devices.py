"""What backends ask about CUDA devices. Torch is asked here alone, so that a test can put another card in its place."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch

KIB = 1024
_SHARED = {75: 64, 80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 103: 227, 110: 227, 120: 99, 121: 99}
_LEAST_SHARED = 48


class Card(NamedTuple):
    """A CUDA device."""

    capability: tuple[int, int]
    shared: int  # bytes of shared memory that a block may ask for

    @property
    def architecture(self) -> int:
        """90 for capability 9.0."""
        major, minor = self.capability
        return 10 * major + minor


def shared_memory(architecture: int) -> int:
    """Bytes of shared memory that one block may ask for (CUDA C++ programming guide); of an architecture that is not
    listed, those that every one gives."""
    return KIB * _SHARED.get(architecture, _LEAST_SHARED)


@functools.cache
def _card(index: int) -> Card:
    properties = torch.cuda.get_device_properties(index)
    capability = (properties.major, properties.minor)
    shared = getattr(properties, "shared_memory_per_block_optin", None)  # not every version of torch tells
    return Card(capability, shared or shared_memory(10 * capability[0] + capability[1]))


def card(device: torch.device) -> Card:
    """That of a CUDA device of which `obstacle` has nothing to say."""
    return _card(torch.cuda.current_device() if device.index is None else device.index)


def obstacle(device: torch.device) -> str | None:
    """Why kernels for NVIDIA's cards cannot run on a device of torch's type "cuda", or None where they may."""
    if torch.version.hip:
        return f"its kernels were never compiled for ROCm {torch.version.hip}, which is what torch calls cuda here"
    count = torch.cuda.device_count()
    if count <= (device.index or 0):
        return f"torch finds {count or 'no'} CUDA device{'s' if count > 1 else ''}"
    return None
