"""Bad input gives a message that names the argument, what was expected and what came; never a crash."""

from __future__ import annotations

import pytest
import test_composition
import test_execution
import test_formation
import torch

import iprm_kernels
from iprm_kernels import backends
from iprm_kernels.backends.calls import Call


def full(**changes):
    return iprm_kernels.execution(**{**test_execution.make_full(2, 3, 7, 5, 4), **changes})


def formation(**changes):
    return iprm_kernels.formation(**{**test_formation.make(2, 3, 5, 4), **changes})


def composition(**changes):
    return iprm_kernels.composition(**{**test_composition.make(2, 3, 4, 2), **changes})


BAD = [
    (full, {"g": torch.randn(2, 3, 6)}, r"g: expected \(2, K, 5\) float32 on cpu, got \(2, 3, 6\) float32 on cpu"),
    (full, {"u": torch.randn(2, 6, 5)}, r"u: expected \(2, 7, 5\) float32"),
    (full, {"w": torch.randn(5).double()}, r"w: expected \(5,\) float32 on cpu, got \(5,\) float64 on cpu"),
    (full, {"v": torch.ones(2, 7, 5).long()}, r"v: expected a tensor of one of float32, .* got \(2, 7, 5\) int64"),
    (full, {"C2": torch.randn(5, 4)}, r"C2: expected \(5, 5\)"),
    (full, {"tokens": torch.randn(2, 7, 4, device="meta")}, r"tokens: expected \(2, 7, D\) float32 on cpu, .* on meta"),
    (full, {"mask": torch.ones(2, 6).bool()}, r"mask: expected \(2, 7\) bool on cpu, got \(2, 6\) bool on cpu"),
    (full, {"mask": torch.ones(2, 7)}, r"mask: expected \(2, 7\) bool on cpu, got \(2, 7\) float32 on cpu"),
    (full, {"mask": torch.full((2, 7), float("nan"))}, r"mask: expected \(2, 7\) bool"),
    (full, {"p_product": 1.0, "seed": torch.tensor([1])}, r"p_product: expected a rate in \[0, 1\), got 1.0"),
    (full, {"p_attention": -0.1}, r"p_attention: expected a rate in \[0, 1\), got -0.1"),
    (full, {"p_product": 0.1}, r"seed: expected \(1,\) int64 on cpu because p_product = 0.1, got None"),
    (full, {"p_product": 0.1, "seed": torch.tensor([1.0])}, r"seed: expected \(1,\) int64 .* got \(1,\) float32"),
    (full, {"activation": "swish"}, r"activation: expected one of 'identity', .* got 'swish'"),
    (full, {"backend": "tpu"}, r"backend: expected one of 'auto', .* got 'tpu'"),
    (full, {"tokens": torch.randn(2, 0, 4), "v": torch.randn(2, 0, 5), "u": torch.randn(2, 0, 5)},
     r"tokens: expected at least one token, got \(2, 0, 4\)"),
    (formation, {"gate": torch.randn(3)}, r"gate: expected \(4,\) float32"),
    (formation, {"tokens": torch.randn(3, 5, 4)}, r"tokens: expected \(2, L, 4\) float32"),
    (formation, {"tokens": torch.randn(2, 0, 4)}, r"tokens: expected at least one token"),
    (formation, {"mask": [[True]]}, r"mask: expected \(2, 5\) bool on cpu, got \[\[True\]\] \(list\)"),
    (composition, {"keys": []}, r"keys: expected at least the current step's states"),
    (composition, {"results": [torch.randn(2, 3, 4)]}, r"results: expected 2 tensors as keys has, got 1"),
    (composition, {"keys": [torch.randn(2, 3, 4), torch.randn(2, 2, 4)]}, r"keys\[1\]: expected \(2, 3, 4\) float32"),
]  # fmt: skip


@pytest.mark.parametrize(("core", "changes", "message"), BAD, ids=[m[:40] for *_, m in BAD])
def test_message(core, changes, message):
    with pytest.raises(ValueError, match=message):
        core(**changes)


def test_every_backend_says_why_it_cannot_run():
    for name, reason in iprm_kernels.reasons("meta").items():
        if name == "eager":
            assert reason is None
        else:
            assert reason
            with pytest.raises(RuntimeError, match=f"backend '{name}' cannot run execution for float32 on meta"):
                backends.select(name, Call("execution"), torch.device("meta"), torch.float32)


def test_auto_takes_the_first_that_can(monkeypatch):
    device, dtype = torch.device("cpu"), torch.float32
    usable = [name for name, reason in iprm_kernels.reasons(device, dtype).items() if reason is None]
    assert backends.select("auto", Call("execution"), device, dtype) is backends.BACKENDS[usable[0]]
    for backend in backends.BACKENDS.values():
        if backend is not backends.BACKENDS["eager"]:
            monkeypatch.setattr(backend, "unsupported", lambda *_: "switched off")
    assert backends.select("auto", Call("execution"), device, dtype) is backends.BACKENDS["eager"]
