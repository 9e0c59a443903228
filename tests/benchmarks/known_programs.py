"""Programs of which it is known what they ask of a device. Run on the stub device, it prints what was counted of each.

python known_programs.py
"""

from __future__ import annotations

import functools
import json
from typing import NamedTuple

import torch
import torch.nn.functional as F

try:
    import triton
except ImportError:
    triton = None
else:

    @triton.jit
    def zero(at):
        triton.language.store(at, 0.0)


class Inputs(NamedTuple):
    """On the device."""

    a: torch.Tensor  # (4, 4)
    b: torch.Tensor  # (4, 4)
    v: torch.Tensor  # (4)


def inputs() -> Inputs:
    return Inputs(torch.rand(4, 4).cuda(), torch.rand(4, 4).cuda(), torch.rand(4).cuda())


def add_thrice(x: Inputs) -> None:
    for _ in range(3):
        torch.add(x.a, x.b)


def view(x: Inputs) -> None:
    x.a.view(2, 8).t()


def strided_copy(x: Inputs) -> None:
    x.a.t().contiguous()


def product(x: Inputs) -> None:
    torch.mm(x.a, x.b)


def low_product(x: Inputs) -> None:
    torch.mm(x.a.bfloat16(), x.b.bfloat16())


def linear(x: Inputs) -> None:
    F.linear(x.a, x.b, x.v)


def batched_product(x: Inputs) -> None:
    torch.bmm(x.a[None], x.b[None])


def matrix_times_vector(x: Inputs) -> None:
    torch.mv(x.a, x.v)


def backward(x: Inputs) -> None:
    x.a.detach().requires_grad_().exp().sum().backward()


def triton_twice(x: Inputs) -> None:
    zero[(5,)](x.a)
    zero[(7,)](x.a)


def copy(x: Inputs) -> None:
    x.a.copy_(x.b)


def long_sum(x: Inputs) -> None:
    torch.empty(1 << 20, device="cuda").sum()


def item(x: Inputs) -> None:
    x.a[0, 0].item()


def upload(x: Inputs) -> None:
    torch.ones(3).cuda()


def wait_for_device(x: Inputs) -> None:
    torch.cuda.synchronize()


def wait_for_stream(x: Inputs) -> None:
    torch.cuda.current_stream().synchronize()


def wait_for_event(x: Inputs) -> None:
    torch.cuda.current_stream().record_event().synchronize()


def much_memory(x: Inputs) -> None:
    torch.cuda.caching_allocator_delete(torch.cuda.caching_allocator_alloc(1 << 28))
    torch.cuda.empty_cache()


@functools.cache
def captured() -> torch.cuda.CUDAGraph:
    graph, x = torch.cuda.CUDAGraph(), inputs()
    with torch.cuda.graph(graph):
        add_thrice(x)
    return graph


def replay_twice(x: Inputs) -> None:
    captured().replay()
    captured().replay()


PROGRAMS = {
    backward: {"launches": 4},  # exp, sum, the one, and its product with exp
    add_thrice: {"launches": 3},
    view: {},
    strided_copy: {"launches": 1},
    product: {"launches": 1},
    low_product: {"launches": 3},  # two conversions
    linear: {"launches": 1},
    batched_product: {"launches": 1},
    matrix_times_vector: {"launches": 1},
    replay_twice: {"launches": 2},
    copy: {"copies": 1},
    long_sum: {"launches": 1, "sets": 1},  # what its blocks count themselves with is set to zero
    item: {"copies": 1, "waits": 1},
    upload: {"copies": 1, "waits": 1},
    wait_for_device: {"waits": 1},
    wait_for_stream: {"waits": 1},
    wait_for_event: {"waits": 1},
    much_memory: {"memory": 2},
}
if triton:
    PROGRAMS[triton_twice] = {"launches": 2}


def main() -> None:
    from benchmarks import stub_cuda

    found, x = {}, inputs()
    for program in PROGRAMS:
        program(x)  # loads what is loaded once
        stub_cuda.reset()
        program(x)
        found[program.__name__] = stub_cuda.counts()._asdict()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
