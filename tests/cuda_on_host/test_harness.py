"""The harness itself: correct kernels pass in every flavour and schedule, and planted bugs are found and named."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import build_on_host as build
import pytest

PLANTED = Path(__file__).parent / "planted"
ORDERS = ("forward", "reverse", "random:1", "random:2", "random:3")
CORRECT = {
    "blocks": ("reverse", "warps", "deadlock", "undefined", "last_block", "independent", "phases", "large", "recovery"),
    "products": ("multiply_half", "multiply_bfloat16", "tails"),
}


@functools.cache
def compiled(program: str, flavour: str) -> Path:
    if reason := build.obstacle(flavour):
        pytest.skip(reason)
    return build.program(PLANTED / f"{program}.cu", flavour)


def run(program: str, flavour: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess:
    settings = {f"IPRM_ON_HOST_{name}": value for name, value in settings.items()}
    return subprocess.run(
        [str(compiled(program, flavour)), *arguments], env=os.environ | build.preload(flavour) | settings,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


# --- Correct kernels


@pytest.mark.parametrize("program", CORRECT)
@pytest.mark.parametrize("flavour", build.FLAVOURS)
def test_correct_kernels_pass(program, flavour):
    """On every schedule in the plain flavour, on two in the others."""
    orders = ORDERS if flavour == "plain" else ("forward", "random:1")
    for name in CORRECT[program]:
        for order, copies in zip(orders, ("lazy", "eager", "random", "lazy", "eager"), strict=False):
            got = run(program, flavour, name, ORDER=order, COPIES=copies)
            assert got.returncode == 0, (name, order, copies, got.stdout, got.stderr)
            assert got.stdout.strip().endswith("ok")


# --- Planted bugs


@dataclass(frozen=True)
class Bug:
    """`says` is a pattern of the report, by flavour."""

    program: str
    kernel: str
    name: str
    says: dict[str, str]
    settings: dict[str, str] = field(default_factory=dict)


def line(program: str, marker: str) -> str:
    """file:line of the only line of a program that has the marker."""
    (number,) = [i for i, text in enumerate((PLANTED / f"{program}.cu").read_text().splitlines(), 1) if marker in text]
    return rf"{program}\.cu:{number}\b"


def race(program: str, *markers: str) -> str:
    """A report that names these lines, in any order."""
    return "ThreadSanitizer: data race" + "".join(rf"(?=[\s\S]*{line(program, marker)})" for marker in markers)


def reported(program: str, marker: str, what: str) -> str:
    """What the shim says: the launch, the block, the thread, the line."""
    thread = r"block \(\d,0,0\) thread \d+"
    return rf"reported: kernel launched at {program}\.cu:\d+ .*{thread} at {line(program, marker)}: {what}"


WRONG = {"plain": "wrong result"}
READ, OVERWRITE = "const float other = tile", "? i + 1 : i] += other"
LOAD, FETCH = "load_matrices(left_rows", "copy_async(stages.a"
BUGS = [
    Bug("blocks", "reverse", "no_barrier_before_read", WRONG | {"tsan": race("blocks", READ)}),
    Bug("blocks", "reverse", "no_barrier_before_overwrite", WRONG | {"tsan": race("blocks", READ, OVERWRITE)}),
    Bug("blocks", "reverse", "uninitialised_shared", WRONG),
    Bug(
        "blocks",
        "reverse",
        "divergent_barrier",
        {"plain": r"thread \d+ at blocks\.cu:\d+: divergent __syncthreads: other threads .* at blocks\.cu:\d+"},
    ),
    Bug("blocks", "reverse", "out_of_bounds_shared", {"asan": rf"use-after-poison[\s\S]*{line('blocks', OVERWRITE)}"}),
    Bug("blocks", "reverse", "out_of_bounds_global_read", {"asan": r"heap-buffer-overflow[\s\S]*READ of size 4"}),
    Bug("blocks", "reverse", "out_of_bounds_global_write", {"asan": r"heap-buffer-overflow[\s\S]*WRITE of size 4"}),
    Bug("blocks", "warps", "no_syncwarp", WRONG | {"tsan": race("blocks", "mine[lane] = value", "sum += mine[i]")}),
    Bug(
        "blocks",
        "warps",
        "lane_out_of_mask",
        {"plain": reported("blocks", "0xffffu", "__shfl_xor_sync: the calling lane is not in its mask")},
    ),
    Bug("blocks", "warps", "lanes_missing", {"plain": "__shfl_xor_sync: a lane of its mask (has exited|exits)"}),
    Bug("blocks", "warps", "lanes_apart", {"plain": r"deadlock: .* waits for a warp collective at blocks\.cu:\d+"}),
    Bug(
        "blocks",
        "deadlock",
        "lanes_at_two_barriers",
        {"plain": r"deadlock: .* thread 0 waits for a warp collective .*; .* thread \d+ waits for __syncthreads"},
    ),
    Bug("blocks", "undefined", "shift", {"asan": r"blocks\.cu:\d+:\d+: runtime error: shift exponent 40 is too large"}),
    Bug("blocks", "undefined", "misaligned_vector", {"asan": r"runtime error: .* misaligned address .*float4"}),
    Bug("blocks", "last_block", "no_fence", {"tsan": race("blocks", "sum += parts[b]")}),
    Bug("blocks", "independent", "race_between_blocks", {"tsan": race("blocks", 'bug("race_between_blocks")')}),
    Bug("blocks", "phases", "no_grid_barrier", WRONG | {"tsan": race("blocks", "second[i] = first[n - 1 - i]")}),
    Bug(
        "blocks",
        "phases",
        "block_leaves",
        {"plain": r"deadlock: block \(0,0,0\) thread 0 waits for grid_barrier at blocks\.cu:\d+"},
    ),
    Bug("blocks", "phases", "barrier_not_zero", {"plain": "grid_barrier: its count is not zero beforehand"}),
    Bug("blocks", "phases", "not_resident", {"plain": "grid_barrier: needs launch_resident"}),
    Bug("blocks", "large", "none", {"plain": "launch: cudaErrorInvalidValue"}, {"SHARED_KB": "163"}),
    Bug("products", "multiply_half", "no_wait", WRONG),
    Bug("products", "multiply_bfloat16", "barrier_before_wait", WRONG | {"tsan": race("products", LOAD)}),
    Bug("products", "multiply_half", "no_barrier_after_wait", WRONG | {"tsan": race("products", LOAD)}),
    Bug("products", "multiply_half", "no_barrier_before_next_copy", WRONG | {"tsan": race("products", FETCH, LOAD)}),
    Bug(
        "products",
        "multiply_half",
        "misaligned_copy",
        {"plain": reported("products", FETCH, "copy_async: the target is not aligned to 16 bytes")},
    ),
    Bug(
        "products",
        "multiply_half",
        "misaligned_row",
        {"plain": reported("products", LOAD, "load_matrices: the row is not aligned to 16 bytes")},
    ),
]


@pytest.mark.parametrize(
    ("bug", "flavour"),
    [pytest.param(bug, flavour, id=f"{bug.kernel}-{bug.name}-{flavour}") for bug in BUGS for flavour in bug.says],
)
def test_planted_bugs_are_found(bug, flavour):
    outputs = []
    for order in ORDERS:
        got = run(bug.program, flavour, bug.kernel, bug.name, ORDER=order, COPIES="lazy", **bug.settings)
        outputs.append(got.stdout + got.stderr)
        if got.returncode != 0 and re.search(bug.says[flavour], outputs[-1]):
            return
        if flavour != "plain":  # finds races and bad accesses whatever the schedule
            break
    pytest.fail("\n".join(outputs)[-6000:])


def test_copies_may_come_early():
    """A missing wait goes unnoticed where copies are made at once: hence the other settings."""
    assert run("products", "plain", "multiply_half", "no_wait", COPIES="eager").returncode == 0


def test_settings_are_checked():
    for name in ("ORDER", "COPIES"):
        got = run("blocks", "plain", "reverse", **{name: "sideways"})
        assert got.returncode == 2
        assert f"IPRM_ON_HOST_{name}: expected" in got.stderr


# --- A module in Python, which is not instrumented


def in_python(flavour: str, function: str) -> subprocess.CompletedProcess:
    if reason := build.obstacle(flavour):
        pytest.skip(reason)
    code = f"import ctypes, torch; print(ctypes.CDLL({str(build.module(flavour))!r}).iprm_on_host_{function}())"
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | build.preload(flavour), capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("flavour", "function", "says"),
    [("asan", "overflow", "heap-buffer-overflow"), ("tsan", "race", "ThreadSanitizer: data race")],
)
def test_a_report_fails_python(flavour, function, says):
    got = in_python(flavour, function)
    assert got.returncode == 66
    assert says in got.stderr
    assert in_python(flavour, "launches").stdout.strip() == "0"


# --- Fragments, as the PTX ISA defines them (mma.m16n8k16, ldmatrix): element i of lane's registers


def place_of_a(lane: int, i: int) -> tuple[int, int]:
    """Row and column of a."""
    group, member = lane >> 2, lane % 4
    row = group if 0 <= i < 2 or 4 <= i < 6 else group + 8
    column = member * 2 + (i & 1) if i < 4 else member * 2 + (i & 1) + 8
    return row, column


def place_of_b(lane: int, i: int) -> tuple[int, int]:
    group, member = lane >> 2, lane % 4
    return (member * 2 + (i & 1) if i < 2 else member * 2 + (i & 1) + 8), group


def place_of_d(lane: int, i: int) -> tuple[int, int]:
    group, member = lane >> 2, lane % 4
    return (group if i < 2 else group + 8), member * 2 + (i & 1)


@pytest.mark.parametrize("order", ["forward", "random:1"])
@pytest.mark.parametrize("dtype", ["half", "bfloat16"])
def test_fragments_are_those_of_the_isa(dtype, order):
    got = run("products", "plain", f"fragments_{dtype}", ORDER=order)
    lanes = [[float(x) for x in text.split()] for text in got.stdout.splitlines()[:32]]
    for lane, registers in enumerate(lanes):
        for i, value in enumerate(registers[:8]):
            row, k = place_of_a(lane, i)
            assert value == 16 * row + k
        for i, value in enumerate(registers[8:12]):
            k, column = place_of_b(lane, i)
            assert value == 8 * k + column - 64
        for i, value in enumerate(registers[12:]):
            row, column = place_of_d(lane, i)
            assert value == sum((16 * row + k) * (8 * k + column - 64) for k in range(16))
