"""The processes that train one model together, as `torchrun` starts them; one process alone is the same with size 1."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Ranks:
    """This process's place among those that train together."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of all processes' tensors, which it replaces."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor([int(flag)])))

    def wait(self) -> None:
        """Wait until every process is here."""
        self.any(False)

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Let the leader through before the others, so that what it makes on disk is there for them.

        Where the leader fails the others go on, to fail likewise and not to wait for ever.
        """
        if not self.leads:
            self.wait()
        try:
            yield
        finally:
            if self.leads:
                self.wait()

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module to call in training, whose backward pass averages the gradients of the processes.

        The graph is static in which weights have gradients: a block that does not look at the scene leaves some out.
        """
        return DistributedDataParallel(module, static_graph=True) if self.size > 1 else module


ALONE = Ranks()


def device_of(name: str) -> torch.device:
    """Return the device of a configuration: with CUDA this process's own. Raises `ValueError` where there is none."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError("training.device: expected a CUDA device for 'cuda', torch sees none")
    return torch.device("cuda", torch.cuda.current_device()) if name != "cpu" and available else torch.device("cpu")


@contextmanager
def ranks() -> Iterator[Ranks]:
    """Yield this process's place: in the group it is in, in the one that `torchrun` starts it for, or alone."""
    if dist.is_available() and dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size())
    elif "WORLD_SIZE" in os.environ:
        with _group():
            yield Ranks(dist.get_rank(), dist.get_world_size())
    else:
        yield ALONE


@contextmanager
def _group() -> Iterator[None]:
    """Join the processes of `torchrun`, each with a GPU of its own where there are any."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()
