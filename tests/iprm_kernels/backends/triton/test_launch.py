"""The launch code of every op through Triton's own launch: arguments specialised, kernels compiled, no device.

What a first run on a card could stumble over: arguments of a wrong type or too many, a grid beyond its limits, too much
shared memory or too many threads (which Triton refuses on loading), spills, a synchronisation, the autotuner misused.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton.language")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter launches nothing", allow_module_level=True)

import stub_driver

from benchmarks import ahead_of_time
from iprm_kernels.backends.triton import configs, execution, launch, ops


class Sizes(NamedTuple):
    B: int
    K: int
    N: int
    L: int
    D: int
    R: int
    blocks: int
    dtype: torch.dtype
    full: bool  # masks, dropout and gradients of the attention, or none of them


PAPER = Sizes(64, 6, 196, 24, 512, 256, 3, torch.bfloat16, True)
ODD = Sizes(3, 5, 61, 7, 37, 19, 2, torch.float32, False)
ODD_HALF = Sizes(2, 7, 81, 9, 99, 37, 2, torch.float16, True)
ONE = Sizes(1, 1, 1, 1, 1, 1, 1, torch.bfloat16, False)
EVEN = Sizes(16, 16, 256, 32, 256, 128, 3, torch.float16, False)
MANY = Sizes(2, 32, 576, 48, 768, 384, 4, torch.float32, True)
SMALL_CARD = Sizes(8, 6, 196, 24, 64, 512, 2, torch.bfloat16, False)
"""R of what would need more than 99 KB of shared memory in tiles for larger cards."""
WIDE = Sizes(4, 6, 196, 24, 1536, 1536, 2, torch.bfloat16, True)


@pytest.fixture(autouse=True)
def fixed_choice(monkeypatch):
    monkeypatch.setenv("IPRM_TRITON_AUTOTUNE", "0")


def meta(*shape, dtype):
    return torch.empty(shape, dtype=dtype, device="meta")


def calls(s: Sizes) -> dict:
    """Every op, forward and backward, as a call without arguments."""
    B, K, N, L, D, R, blocks, dtype, full = s
    p, seed, step = (0.1, meta(1, dtype=torch.int64), 3) if full else (0.0, None, 0)

    def t(*shape):
        return meta(*shape, dtype=dtype)

    def attention(columns):
        return meta(B, K, columns, dtype=torch.float32)

    def given(columns, kind):
        return {"mask": meta(B, columns, dtype=torch.bool), "gradient": attention(columns)}[kind] if full else None

    state, gate, tail = t(B, K, D), t(D), (seed, step, p, p, "elu")
    pairs = (t(B, N, R), t(B, N, R), t(B, K, R), t(B, K, R), t(R, R), t(R, R), t(R), t(R), t(B, N, D))
    plain = (t(B, N, R), t(B, K, R), t(R), t(B, N, D))
    window = ([t(B, K, D) for _ in range(blocks)],) * 3
    text = (state, t(B, L, D), gate)
    composed = (full, seed, step, p, p, p)
    columns = attention(K * blocks)
    return {
        "dropout": lambda: ops.dropout(t(B, N, D), 0.3, meta(1, dtype=torch.int64), 16),
        "formation": lambda: ops.formation(*text, given(L, "mask"), seed, step, p),
        "formation_backward": lambda: ops.formation_backward(
            state, given(L, "gradient"), *text, attention(L), seed, step, p, [True] * 3
        ),
        "execution": lambda: ops.execution(*pairs, given(N, "mask"), *tail),
        "execution_backward": lambda: ops.execution_backward(
            state, given(N, "gradient"), *pairs, attention(N), *tail, [True] * 9
        ),
        "execution_simple": lambda: ops.execution_simple(*plain, given(N, "mask"), *tail),
        "execution_simple_backward": lambda: ops.execution_simple_backward(
            state, given(N, "gradient"), *plain, attention(N), *tail, [True] * 4
        ),
        "composition": lambda: ops.composition(state, *window, gate, *composed),
        "composition_backward": lambda: ops.composition_backward(
            state, state, columns if full else None, state, *window, gate, columns, *composed
        ),
    }


LAUNCHES = {
    "paper": (90, PAPER), "paper-sm_80": (80, PAPER), "paper-sm_100": (100, PAPER), "even": (90, EVEN),
    "odd": (90, ODD), "odd-half-sm_100": (100, ODD_HALF), "one-sm_80": (80, ONE), "many-sm_80": (80, MANY),
    "wide": (90, WIDE), "small-sm_89": (89, SMALL_CARD), "paper-gfx942": ("gfx942", PAPER),
    "odd-gfx950": ("gfx950", ODD),
}  # fmt: skip


@pytest.mark.parametrize("op", calls(ONE))
@pytest.mark.parametrize(("architecture", "sizes"), LAUNCHES.values(), ids=LAUNCHES)
def test_launches(architecture, sizes, op, monkeypatch):
    if reason := ahead_of_time.obstacle(architecture):
        pytest.skip(reason)
    driver = stub_driver.install(monkeypatch, architecture)
    calls(sizes)[op]()
    assert driver.launches
    assert not driver.faults
    assert all(made.metadata.enable_fp_fusion for made in driver.launches)


@pytest.mark.parametrize("op", calls(ONE))
@pytest.mark.parametrize("sizes", [PAPER._replace(B=70_001, N=36), PAPER._replace(B=1, N=4_000_004)])
def test_large_grids(sizes, op, monkeypatch):
    """More samples than the second and third index of a grid reach, and more tokens than 65535 tiles hold."""
    driver = stub_driver.install(monkeypatch, 90)
    monkeypatch.setattr(execution, "BUFFER_BYTES", 2**40)
    calls(sizes)[op]()
    assert driver.launches
    assert not driver.faults


def test_a_launch_is_compiled_once_for_all_steps_and_rates(monkeypatch):
    """Streams, thresholds and the first pair's number are no constants."""
    driver = stub_driver.install(monkeypatch, 90)
    s = PAPER._replace(B=2)
    hashes = set()
    for step in (0, 1, 2):
        for p in (2.0**-24, 0.1, 0.5):
            inputs = [meta(2, s.N, s.R, dtype=s.dtype), meta(2, s.K, s.R, dtype=s.dtype), meta(s.R, dtype=s.dtype)]
            seed = meta(1, dtype=torch.int64)
            ops.execution_simple(*inputs, meta(2, s.N, s.D, dtype=s.dtype), None, seed, step, p, p, "elu")
            hashes |= {(made.kernel, made.metadata.hash) for made in driver.launches}
    assert len(hashes) == 2


@pytest.fixture
def tuning(monkeypatch, tmp_path):
    """The driver with tuning on and no choice on disk; the last configuration of a list is the fastest."""
    monkeypatch.setenv("IPRM_TRITON_AUTOTUNE", "1")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    driver = stub_driver.install(monkeypatch, 90)
    driver.seconds = lambda made: -driver.benchmarks
    yield driver
    stub_driver.forget()


def chosen(made: stub_driver.Launch) -> dict:
    """The blocks and warps of a launch, under the names of `Entry.arguments`."""
    return made.constants | {"num_warps": made.metadata.num_warps, "num_stages": made.metadata.num_stages}


def test_every_op_under_the_autotuner(tuning):
    """Once through all: each launch is the last entry of its list, and the second time nothing is timed."""
    s = PAPER._replace(B=2)
    for run in (1, 2):
        for call in calls(s).values():
            call()
        assert not tuning.faults
        if run == 1:
            first, tuning.launches = tuning.launches, []
            timed = tuning.benchmarks
    assert timed > 15
    assert tuning.benchmarks == timed
    names = {function.__name__.removesuffix("_kernel"): name for name, function in launch.KERNELS.items()}
    for made, again in zip(first, tuning.launches, strict=True):
        width = made.constants.get("R") or made.constants.get("D")
        N = made.args.get("N", 1)
        entries = configs.entries(names[made.kernel], 90, s.dtype, width, s.K, N)
        assert entries[-1].arguments.items() <= chosen(made).items()
        assert chosen(made) == chosen(again)


def recompute(N: int, dtype=torch.bfloat16, R: int = 256) -> None:
    """A kernel of which some configurations write a part of an argument."""
    rows, weight, vector = meta(N, R, dtype=dtype), meta(R, R, dtype=dtype), meta(R, dtype=dtype)
    ds, sums = meta(N, dtype=torch.float32), meta(N // 64, R, dtype=torch.float32)
    inputs = (*[rows] * 4, weight, weight, vector, vector, ds, rows, rows, sums)
    launch.over_pairs(
        "recompute", *inputs, None, 0, 0, 1.0, 0, pairs=N, N=N, K=1, R=R, ACTIVATION="elu", DROP=False
    )  # fmt: skip


def logits(
    N: int, K: int = 4, dtype=torch.bfloat16, R: int = 256, B: int = 1, full: bool = False, activation: str = "elu"
) -> None:
    inputs = [meta(*shape, dtype=dtype) for shape in ((B, N, R), (B, N, R), (B, K, R), (B, K, R))]
    weights = [meta(*shape, dtype=dtype) for shape in ((R, R), (R, R), (R,), (R,))]
    seed, p = (meta(1, dtype=torch.int64), 0.1) if full else (None, 0.0)
    ops.execution(*inputs, *weights, meta(B, N, 16, dtype=dtype), None, seed, 0, p, 0.0, activation)


@pytest.fixture
def timed(tuning):
    """Calls `logits`; -> how often something was timed, and what was chosen."""

    def call(**options):
        before = tuning.benchmarks
        logits(**options)
        made = [launched for launched in tuning.launches if launched.kernel == "logits"]
        return tuning.benchmarks - before, chosen(made[-1])

    return call


def test_tuned_once_for_each_class_of_sizes(timed):
    count = len(configs.entries("logits", 90, torch.bfloat16, 256, 4, 60))
    assert timed(N=60)[0] == count
    for alike in (60, 61, 49, 64):
        assert timed(N=alike)[0] == 0
    assert timed(N=60, K=5)[0] == count
    assert timed(N=32)[0] == count
    assert timed(N=60, B=64)[0] == count  # not what was chosen for one sample
    assert timed(N=60, B=50)[0] == 0


def test_tuned_once_for_each_variant(timed):
    count = len(configs.entries("logits", 90, torch.bfloat16, 256, 4, 60))
    for variant in ({}, {"dtype": torch.float16}, {"full": True}, {"activation": "gelu"}):
        assert timed(N=60, **variant)[0] == count
        assert timed(N=60, **variant)[0] == 0
    number, choice = timed(N=60, R=128)
    entries = configs.entries("logits", 90, torch.bfloat16, 128, 4, 60)
    assert number == len(entries)
    assert entries[-1].arguments.items() <= choice.items()


def test_precision_is_a_variant(timed, monkeypatch):
    options = {"N": 60, "dtype": torch.float32}
    count = len(configs.entries("logits", 90, torch.float32, 256, 4, 60))
    for precision in ("ieee", "tf32"):
        monkeypatch.setattr(launch, "precision", lambda dtype, precision=precision: precision)
        assert timed(**options)[0] == count
        assert timed(**options)[0] == 0


def test_the_choice_is_fixed_under_deterministic_algorithms(timed):
    """Also where another has been found before, and after."""
    first, *_, last = configs.entries("logits", 90, torch.bfloat16, 256, 4, 60)
    assert last.arguments.items() <= timed(N=60)[1].items()
    torch.use_deterministic_algorithms(True)
    try:
        number, choice = timed(N=60)
    finally:
        torch.use_deterministic_algorithms(False)
    assert number == 0
    assert first.arguments.items() <= choice.items()
    assert last.arguments.items() <= timed(N=60)[1].items()


def test_the_choice_is_kept_on_disk(tuning):
    """For its class of sizes alone."""
    logits(N=60)
    before, choice = tuning.benchmarks, [chosen(made) for made in tuning.launches]
    stub_driver.forget()
    logits(N=60)
    assert tuning.benchmarks == before > 0
    assert [chosen(made) for made in tuning.launches[len(choice) :]] == choice
    logits(N=60, B=64)
    assert tuning.benchmarks > before


class Copies(TorchDispatchMode):
    """Counts clones and copies in place."""

    def __init__(self):
        super().__init__()
        self.clones = self.restored = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.clones += function is torch.ops.aten.clone.default
        self.restored += function is torch.ops.aten.copy_.default
        return function(*args, **(kwargs or {}))


def test_what_is_written_in_part_is_restored(tuning):
    with Copies() as copies:
        recompute(64)
    assert copies.clones == copies.restored == tuning.benchmarks > 1


def test_without_tuning_nothing_is_timed(tuning, monkeypatch):
    monkeypatch.setenv("IPRM_TRITON_AUTOTUNE", "0")
    for call in calls(PAPER._replace(B=2)).values():
        call()
    assert tuning.benchmarks == 0
    made = next(made for made in tuning.launches if made.kernel == "logits")
    assert configs.entries("logits", 90, torch.bfloat16, 256, 6, 196)[0].arguments.items() <= chosen(made).items()
