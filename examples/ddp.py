"""Data-parallel training: each process takes its part of every batch, and the losses are those of one process alone.

    python examples/ddp.py
    torchrun --standalone --nproc-per-node=2 examples/ddp.py

On the CPU, with gloo. Dropout is off: each process would draw its own, and the losses could not be compared.
"""

from __future__ import annotations

import argparse
import gc

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from toy import CONFIG, Answerer, batch

from iprm.fast import IPRM


def train(rank: int, processes: int, steps: int, size: int) -> None:
    """Train on part `rank` of each batch of `size` questions; the first process prints the mean loss of all."""
    torch.manual_seed(0)
    model = Answerer(IPRM(CONFIG.without_dropout()))
    if processes > 1:
        model = DistributedDataParallel(model)  # its backward pass averages the gradients of the processes
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(steps):
        language, summary, visual, _, answers, _ = (tensor.chunk(processes)[rank] for tensor in batch(size, seed=step))
        loss = cross_entropy(model(language, summary, visual), answers)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        mean = loss.detach() / processes
        if processes > 1:
            dist.all_reduce(mean)
        if rank == 0 and step % 5 == 0:
            print(f"step {step:3}  loss {mean.item():.4f}", flush=True)


def main() -> None:
    """Join the processes that torchrun started, or train alone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=64, help="questions of all processes, a multiple of their number")
    arguments = parser.parse_args()
    if not dist.is_torchelastic_launched():
        train(0, 1, arguments.steps, arguments.batch)
        return
    dist.init_process_group("gloo")
    rank, processes = dist.get_rank(), dist.get_world_size()
    if arguments.batch % processes:
        parser.error(f"--batch: expected a multiple of the {processes} processes, got {arguments.batch}")
    train(rank, processes, arguments.steps, arguments.batch)
    gc.collect()  # the wrapped model, which refers to itself, holds the group that ends here
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
