"""Kernels held from one launch to the next: each is the one that Triton itself would launch.

A kernel specialised for other arguments would be silently wrong on a device: a load of 16 bytes from an address that is
no multiple of 16, a mask left away.
"""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("triton.language")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter launches nothing", allow_module_level=True)

import stub_driver
import triton
from test_launch import ODD, ONE, PAPER, calls, meta, tuning  # noqa: F401

from benchmarks import ahead_of_time
from iprm_kernels.backends.triton import held, launch, ops

pytestmark = pytest.mark.skipif(not held.KNOWN, reason=f"with triton {triton.__version__} no kernel is held")


@pytest.fixture
def driver(monkeypatch):
    monkeypatch.setenv("IPRM_TRITON_AUTOTUNE", "0")
    yield stub_driver.install(monkeypatch, 90)
    stub_driver.forget()


def what(made: stub_driver.Launch) -> tuple:
    """All of a launch but the pointers."""
    args = {name: None if isinstance(value, torch.Tensor | tuple) else value for name, value in made.args.items()}
    return made.kernel, made.metadata.hash, made.grid, made.signature, args


def launches_of(driver, call) -> list[tuple]:
    """What a call launches."""
    driver.launches.clear()
    call()
    return [what(made) for made in driver.launches]


def only_held(kernel, *args, **options):
    """In the place of a kernel that Triton is not to launch."""
    raise AssertionError(f"launched by Triton: {args}")


@pytest.mark.parametrize("op", calls(ONE))
@pytest.mark.parametrize("sizes", [PAPER._replace(B=2), ODD], ids=["paper", "odd"])
def test_the_second_launch_is_the_first(sizes, op, driver, monkeypatch):
    """The same kernels with the same arguments, and Triton's launch is not asked again."""
    first = launches_of(driver, calls(sizes)[op])
    monkeypatch.setattr(triton.JITFunction, "run", only_held)
    assert launches_of(driver, calls(sizes)[op]) == first != []
    assert not driver.faults


def test_the_autotuners_choice_is_held(tuning, monkeypatch):  # noqa: F811
    call = calls(PAPER._replace(B=2))["execution_backward"]
    first = launches_of(tuning, call)
    monkeypatch.setattr(triton.JITFunction, "run", only_held)
    assert launches_of(tuning, call) == first != []


def dropped(count: int, offset: int = 0, dtype=torch.float32, stream: int = 18, seed_offset: int = 0):
    """drop(x) of so many elements, which begin so many elements after an aligned address."""
    x, seed = meta(count + offset, dtype=dtype)[offset:], meta(1 + seed_offset, dtype=torch.int64)[seed_offset:]
    return lambda: ops.dropout(x, 0.1, seed, stream)


def attended(N: int, offset: int = 0, dtype=torch.float32, masked: bool = False):
    """Formation over so many tokens."""
    tokens = meta(2 * N * 64 + offset, dtype=dtype)[offset:].view(2, N, 64)
    mask = meta(2, N, dtype=torch.bool) if masked else None
    return lambda: ops.formation(meta(2, 6, 64, dtype=dtype), tokens, meta(64, dtype=dtype), mask, None, 0, 0.0)


LIKE_EACH_OTHER = {
    "dropout": [
        dropped(1024), dropped(1024, offset=1), dropped(1024, offset=4), dropped(1025), dropped(1), dropped(1040),
        dropped(1024, seed_offset=1), dropped(1024, dtype=torch.bfloat16), dropped(1024, 4, torch.bfloat16),
        dropped(1024, stream=1), dropped(1024, stream=16),
    ],
    "formation": [
        attended(32), attended(32, offset=1), attended(20), attended(16), attended(1), attended(32, masked=True),
        attended(32, dtype=torch.bfloat16), attended(32, 4, torch.bfloat16),
    ],
}  # fmt: skip
"""Calls that differ in nothing but what one of them may be specialised for."""


@pytest.mark.parametrize("op", LIKE_EACH_OTHER)
def test_no_call_gets_the_kernel_of_another(op, driver):
    """With all the others held, each launches what it launches where nothing is held."""
    every = LIKE_EACH_OTHER[op]
    for _ in range(2):
        together = [launches_of(driver, call) for call in every]
    for call, got in zip(every, together, strict=True):
        stub_driver.forget()
        assert launches_of(driver, call) == got


def test_pointers_of_another_alignment_get_another_kernel(driver):
    ((_, aligned, *_),) = launches_of(driver, dropped(1024))
    ((_, other, *_),) = launches_of(driver, dropped(1024, offset=1))
    assert aligned != other
    assert len(held.KERNELS) == 2
    launches_of(driver, dropped(1024, offset=4))
    assert len(held.KERNELS) == 2


NUMBERS = [
    1, 2, 15, 16, 2**31 - 16, 2**31 - 1, 2**31, 2**31 + 1, 2**32, 2**63 - 1, 2**63, 2**63 + 1, 0, -1, -16, -(2**31),
    -(2**31) - 1, -(2**31) - 16, 1.0, 16.0, 0.5, None,
]  # fmt: skip


def test_numbers_of_one_kind_are_specialised_alike():
    """By Triton's own launch."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime import jit

    if not hasattr(jit, "native_specialize_impl"):
        pytest.skip("this version of Triton specialises elsewhere")
    backend, kinds = type(make_backend(GPUTarget("cuda", 90, 32))), {}
    for number in NUMBERS:
        kinds.setdefault(held.kind_of_number(number), set()).add(
            jit.native_specialize_impl(backend, number, False, True, True)
        )
    assert all(len(found) == 1 for found in kinds.values()), kinds


def test_steps_and_samples_add_no_kinds(driver):
    """What grows with the steps and the batch is in no key by its value: the batch by its class of sizes."""

    def run(step, B):
        seed, tokens = meta(1, dtype=torch.int64), meta(B, 32, 64, dtype=torch.float32)
        query, gate = tokens[:, :6].contiguous(), meta(64, dtype=torch.float32)
        ops.dropout(query, step / 100, seed, 16 * step + 3)
        ops.formation(query, tokens, gate, None, seed, step, step / 100)

    run(1, 44)
    before = len(held.KERNELS)
    for step in range(2, 9):
        run(step, 44 + 2 * step)
    assert len(held.KERNELS) == before > 0
    run(9, 88)
    assert before < len(held.KERNELS) <= 2 * before


@pytest.mark.parametrize("name", ["launch_enter_hook", "launch_exit_hook", "pre_run_hooks", "debug"])
def test_who_listens_sees_tritons_own_launch(name, driver, monkeypatch):
    """And what is launched then is not held."""
    call, runtime = dropped(1024), triton.knobs.runtime
    launches_of(driver, call)
    hook = getattr(runtime, name, None)
    if name == "pre_run_hooks":
        monkeypatch.setattr(launch.KERNELS["dropout"], name, [lambda *args, **options: None])
    elif name == "debug":
        monkeypatch.setattr(runtime, name, True)
    elif hasattr(hook, "calls"):
        monkeypatch.setattr(hook, "calls", [lambda *args: None])
    else:
        monkeypatch.setattr(runtime, name, lambda *args: None)
    monkeypatch.setattr(held.Held, "launch", only_held)
    assert len(launches_of(driver, call)) == 1
    held.KERNELS.clear()
    launches_of(driver, call)
    assert not held.KERNELS


@pytest.mark.skipif(bool(ahead_of_time.obstacle("gfx942")), reason="this Triton compiles nothing for AMD's cards here")
def test_on_amds_cards_nothing_is_held(monkeypatch):
    """Every launch is Triton's own, which compiles a kernel anew where a tensor has 2 GB or more."""
    monkeypatch.setenv("IPRM_TRITON_AUTOTUNE", "0")
    driver = stub_driver.install(monkeypatch, "gfx942")
    small, large = dropped(1024), dropped(2**30)
    first = launches_of(driver, small)
    assert launches_of(driver, small) == first
    assert launches_of(driver, large)[0][1] != first[0][1]
    assert not held.KERNELS
    assert not driver.faults
    stub_driver.forget()


def test_with_an_unknown_triton_nothing_is_held(driver, monkeypatch):
    monkeypatch.setattr(held, "KNOWN", False)
    assert launches_of(driver, dropped(1024)) == launches_of(driver, dropped(1024))
    assert not held.KERNELS
