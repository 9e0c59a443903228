"""The estimate of a call's memory: against the bytes that a backend really allocates, and against the process's."""

from __future__ import annotations

import gc
import warnings

import pytest
import torch

from benchmarks.memory import usage_in_fresh_process
from benchmarks.points import Point
from iprm import IPRMConfig, fast
from iprm_kernels.backends import BACKENDS
from iprm_kernels.memory import Ledger, MemoryEstimate, memory_estimate
from iprm_kernels.steps import kept
from iprm_kernels.steps.weights import flattened

OPTIONS = {
    "default": {},
    "simple": {"execution": "simple"},
    "per-step query, joined": {"query_from_results": "concat", "per_step_query": True, "formation_norm": True},
    "no composition": {"composition": False},
}
KiB = 2**10


def configs():
    found = []
    for name, options in OPTIONS.items():
        config = IPRMConfig(dim=64, num_ops=4, num_steps=2, **options)
        found += [pytest.param(config, id=f"{name}, dropout"), pytest.param(config.without_dropout(), id=name)]
    return found


def allocated(module: fast.IPRM, B: int, L: int, N: int) -> tuple[MemoryEstimate, MemoryEstimate]:
    """What is alive while the backend computes, of all that it gets from torch's allocator; and the estimate."""
    options, K, D = module._options(), module.config.num_ops, module.config.dim
    dtype = next(module.parameters()).dtype
    O, E, X, V = (torch.randn(B, n, D, dtype=dtype, requires_grad=True) for n in (K, K, L, N))
    weights = module._weights()
    flat, maps = flattened(weights)
    names = ("steps", "window", "mask_self", "activations", "rates", "epsilons", "memory")
    steps, window, mask_self, φ, rates, epsilons, memory = (options[name] for name in names)
    seed = torch.tensor([7]) if any(rates) else None
    rest = (steps, window, mask_self, ",".join(φ), list(rates), list(epsilons), kept.room_of(memory))
    backend, inputs = BACKENDS[module.backend], (O, E, X, None, V, None, flat, maps, seed)
    with torch.no_grad():
        forward, training = Ledger(lambda *_: 0), Ledger(lambda *_: 0)
        with forward:
            found = backend.recurrence(*inputs, *rest, False)
        with training:
            found = backend.recurrence(*inputs, *rest, True)
            gc.collect()
            between = training.now
            dO, dE = torch.zeros_like(O), torch.zeros_like(E)
            needs = [True] * (4 + len(flat))
            backend.recurrence_backward(dO, dE, None, None, None, X, V, flat, maps, *found[2:], seed, *rest, needs)
    real = MemoryEstimate(forward.most, training.most, between)
    return real, memory_estimate(O, E, X, V, weights, **options)


@pytest.mark.parametrize("config", configs())
@pytest.mark.parametrize(("dtype", "memory"), [(torch.float32, "least"), (torch.bfloat16, "fast")], ids=["32", "16"])
def test_counts_what_is_allocated(backend, dtype, memory, config):
    module = fast.IPRM(config, backend=backend, memory=memory).to(dtype)
    real, estimate = allocated(module, B=3, L=5, N=40)
    assert estimate.kept == real.kept
    if backend == "eager":  # its walk is the one that is counted
        assert estimate == real
    tiles = 64 * KiB * torch.get_num_threads() if backend == "cpu" else 0  # counted, though not from the allocator
    assert estimate.training == pytest.approx(real.training, rel=0.15, abs=tiles)
    assert estimate.forward == pytest.approx(real.forward, rel=0.2, abs=tiles)


@pytest.mark.parametrize("sizes", [(4, 6, 5, 60, 64), (8, 6, 4, 196, 256), (2, 12, 3, 300, 128), (24, 4, 2, 16, 64)])
@pytest.mark.parametrize("dropout", [False, True], ids=["plain", "dropout"])
def test_of_larger_calls_on_the_cpu(sizes, dropout):
    B, K, T, N, D = sizes
    config = IPRMConfig(dim=D, num_ops=K, num_steps=T)
    module = fast.IPRM(config if dropout else config.without_dropout(), backend="cpu")
    if reason := BACKENDS["cpu"].unsupported(torch.device("cpu"), torch.float32):
        pytest.skip(f"cpu: {reason}")
    real, estimate = allocated(module, B, 9, N)
    assert estimate.kept == real.kept
    assert estimate.training == pytest.approx(real.training, rel=0.15)


@pytest.mark.parametrize("policy", ["least", "fast"])
@pytest.mark.parametrize("dropout", [False, True], ids=["plain", "dropout"])
def test_is_what_the_process_grows_by(backend, policy, dropout, threads):
    """Within 20 %, or the two megabytes that an allocator may waste."""
    if backend == "triton":
        pytest.skip("triton: interpreted, the process holds the interpreter's copies")
    point = Point(num_ops=6, num_steps=5, visual_tokens=196, batch=8, dim=256, dropout=dropout)
    with torch.device("meta"):
        module = fast.IPRM(point.config, backend=backend, memory=policy)
    threads(point.threads)
    estimate = module.memory_estimate(point.batch, point.language_tokens, point.visual_tokens)
    measured = usage_in_fresh_process(f"fast[{backend}]+{policy}", point)
    assert estimate.training == pytest.approx(measured.peak, rel=0.2, abs=2 * KiB * KiB)


@pytest.mark.parametrize("name", BACKENDS)
def test_of_backends_that_need_not_be_here(name):
    """What grows with more to do, does."""
    with torch.device("meta"):
        config = IPRMConfig(dim=64, num_ops=4, num_steps=3).without_dropout()
        module = fast.IPRM(config, backend=name, memory="least").to(torch.float16)
    least = module.memory_estimate(2, 5, 20)
    assert 0 < least.forward < least.training
    assert 0 < least.kept < least.training
    for sizes in ((4, 5, 20), (2, 50, 20), (2, 5, 200)):
        more = module.memory_estimate(*sizes)
        assert all(a < b for a, b in zip(least, more, strict=True))
    without = module.memory_estimate(2, 5, 20, inputs_require_grad=False)
    assert without.training < least.training
    module.requires_grad_(False)
    assert module.memory_estimate(2, 5, 20, inputs_require_grad=False).training < without.training


def test_threads_without_work_take_nothing(threads):
    """On a machine of many cores: two operations on one tile are two tasks forward and fewer than 8 backward."""
    with torch.device("meta"):
        module = fast.IPRM(IPRMConfig(dim=64, num_ops=2, num_steps=2), backend="cpu")
    found = []
    for count in (1, 8, 64):
        threads(count)
        found.append(module.memory_estimate(1, 5, 20))
    assert found[0].forward < found[1].forward
    assert found[1] == found[2]


def test_the_mode_counts():
    """In evaluation nothing is dropped, so that nothing of it is kept."""
    with torch.device("meta"):
        module = fast.IPRM(IPRMConfig(dim=64, num_ops=4, num_steps=3), backend="cpu", memory="least")
    assert module.eval().memory_estimate(2, 5, 20).kept < module.train().memory_estimate(2, 5, 20).kept


def test_buffers_of_gpus_are_bounded():
    """A batch eight times as large needs no larger buffers for pairs once they are full."""
    found = {}
    for name in ("triton", "cuda"):
        with torch.device("meta"):
            module = fast.IPRM(IPRMConfig(dim=512, num_ops=16), backend=name, memory="least").to(torch.bfloat16)
        small, large = (module.memory_estimate(batch, 24, 196).training for batch in (64, 512))
        found[name] = large / small
    assert all(ratio < 8 for ratio in found.values()), found


def test_errors():
    with torch.device("meta"):
        module = fast.IPRM(IPRMConfig(dim=16))
    with pytest.raises(ValueError, match="backend: expected one of 'triton', 'cuda', 'cpu', 'eager', got 'auto'"):
        module.memory_estimate(2, 5, 7)
    O, V = torch.empty(2, 6, 16, device="meta"), torch.empty(2, 7, 8, device="meta")
    with pytest.raises(ValueError, match=r"visual: expected \(2, N, 16\) float32 on meta, got \(2, 7, 8\)"):
        memory_estimate(O, O, O, V, module._weights(), steps=2, backend="cpu")
    module = fast.IPRM(IPRMConfig(dim=16))
    assert module.memory_estimate(2, 5, 7).training > 0
    module.formation.F1.register_forward_hook(lambda *_: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is told once in a process
        with pytest.raises(RuntimeError, match=r"formation\.F1 has a hook"):
            module.memory_estimate(2, 5, 7)
