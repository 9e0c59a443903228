"""A program of two processes: the fast module under every kind of distribution equals the plain reference.

`python sharded.py RANK FILE`, FILE being where the two meet. Each kind is a list of paths that are wrapped.
"""

from __future__ import annotations

import sys
import warnings
from datetime import timedelta

import torch
import torch.distributed as dist
from pairs import inputs, pair
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

from iprm import IPRMConfig

CPU = torch.device("cpu")
STAGES = ["memory", "formation", "execution", "composition", "readout"]
SMALL = {"dim": 12, "num_ops": 3, "num_steps": 2}
OPTIONS = [{}, {"visual_dropout": 0.0}, {"execution": "simple", "readout": "learned"}]


def fully_sharded(model, paths, mesh):
    """FSDP2."""
    for path in paths:
        fully_shard(model.get_submodule(path), mesh=mesh)
    return model


def fully_sharded_1(model, paths, mesh):
    """FSDP1, which wraps a module in another one."""
    for path in paths:
        setattr(model, path, FullyShardedDataParallel(getattr(model, path), device_id=CPU, use_orig_params=True))
    return model


def tensor_parallel(model, paths, mesh):
    """Rows of the weights on one process each."""
    plan = {path: ColwiseParallel(output_layouts=Replicate()) for path in paths}
    return parallelize_module(model, mesh, plan)


def data_parallel(model, paths, mesh):
    """DDP."""
    return nn.parallel.DistributedDataParallel(model)


LINEAR = ["formation.F1", "formation.f", "execution.C1", "execution.C2", "execution.w", "execution.Wv", "execution.We",
          "composition.c", "composition.Vo", "composition.Qo", "readout.Pk"]  # fmt: skip
WIDE = [path for path in LINEAR if not path.endswith((".f", ".w", ".c"))]
CASES = [
    *((fully_sharded, [path]) for path in [*STAGES, *LINEAR, ""]),
    (fully_sharded, [*STAGES, ""]),
    *((fully_sharded_1, [path]) for path in STAGES),
    (fully_sharded_1, STAGES),
    *((tensor_parallel, [path]) for path in WIDE),
    (tensor_parallel, WIDE),
    (data_parallel, []),
]


def whole(tensor):
    """All of a sharded tensor."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def check(wrap, paths, options, mesh) -> None:
    """Evaluation and a training step, results and gradients."""
    torch.manual_seed(0)
    config = IPRMConfig(**SMALL, **options)
    plain, fast = pair(config)
    args = inputs(config, B=2, masked=True)
    fast = wrap(fast, paths, mesh)
    with torch.no_grad():
        torch.testing.assert_close(fast.eval()(*args), plain.eval()(*args), rtol=1e-9, atol=1e-9)
    results = []
    for model in (plain.train(), fast.train()):
        torch.manual_seed(1)
        results.append(model(*args))
        results[-1].square().sum().backward()
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-9)
    if wrap is fully_sharded_1:  # its gradients are pieces of flat tensors
        return
    for (name, want), (_, got) in zip(plain.named_parameters(), fast.named_parameters(), strict=True):
        torch.testing.assert_close(whole(got.grad), want.grad, rtol=1e-8, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")


def main(rank: int, file: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    mesh = init_device_mesh("cpu", (2,))
    for wrap, paths in CASES:
        for options in OPTIONS:
            try:
                check(wrap, paths, options, mesh)
            except Exception as error:
                raise AssertionError(f"{wrap.__name__} of {paths} with {options}") from error
    print(f"{len(CASES)} ways of distribution")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
