"""Every kernel compiles for every architecture within its limits: shared memory, no spills, tensor cores.

A part of the matrix; all of it is `python -m iprm_kernels.backends.triton.ahead_of_time`.
"""

from __future__ import annotations

import dataclasses
import itertools
import os

import pytest
import torch

pytest.importorskip("triton.language")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from iprm_kernels.backends.triton import ahead_of_time, configs
from iprm_kernels.backends.triton.launch import KERNELS

PADDED = [
    (90, "bfloat16", 37), (100, "float32", 37), (80, "float16", 96), (100, "bfloat16", 192), (90, "float32", 200),
    (80, "bfloat16", 320), (90, "bfloat16", 384), (100, "float16", 384),
]  # fmt: skip


def first(*args, **options) -> ahead_of_time.Case:
    """A kernel at its fixed choice."""
    return next(iter(ahead_of_time.cases_of(*args, **options)))


def chosen() -> list[ahead_of_time.Case]:
    """Every entry at R = 256 in bfloat16 on sm_90, and the costliest activation; of the chains the fixed choice at
    other widths, on the other architectures and in float32, and what differs on cards with 99 KB of shared memory. Much
    else is compiled by test_launch.py."""
    found = []
    for kernel, function in KERNELS.items():
        found += ahead_of_time.cases_of(kernel, 90, "bfloat16", 256)
        if "ACTIVATION" in function.arg_names:
            found.append(first(kernel, 90, "bfloat16", 256, activation="gelu"))
    for kernel in configs.CHAINS:
        found += [first(kernel, *point) for point in PADDED]
        found += [first(kernel, architecture, "bfloat16", 256) for architecture in (80, 100)]
        for architecture in (80, 90, 100):
            found += [first(kernel, architecture, "bfloat16", width) for width in (128, 512)]
            found.append(first(kernel, architecture, "float32", 256))
        for architecture in (86, 89, 120):
            found += [first(kernel, architecture, "bfloat16", width) for width in (384, 512)]
        found += [first(kernel, 120, dtype, 256) for dtype in ("float32", "float16")]
    found += [first("logits", 90, dtype, width) for dtype in ("bfloat16", "float32") for width in (768, 1024)]
    found.append(first("logits", 120, "bfloat16", 1024))
    for kernel in ("products", "d_tokens"):
        found += ahead_of_time.cases_of(kernel, 120, "bfloat16", 256, on=False)
    return found


@pytest.mark.parametrize("case", chosen(), ids=lambda case: case.label.replace(" ", "-"))
def test_compiles_within_the_limits(case):
    assert not ahead_of_time.compiled(case).faults


def test_faults_are_found():
    """A tile of 64 pairs at R = 512 needs more than there is of everything."""
    case = first("logits", 90, "bfloat16", 512)
    entry = configs.Tile(64, 32, 0, 1, 8, 2).entry("logits")
    assert any("spill" in fault for fault in ahead_of_time.compiled(dataclasses.replace(case, entry=entry)).faults)


@pytest.mark.parametrize("architecture", [86, 89, 120])
def test_two_stages_do_not_fit_into_99_kilobytes(architecture):
    """Of R = 512 in 16 bits, which is why these cards have an entry of their own."""
    case = first("recompute", architecture, "bfloat16", 512)
    entry = configs.Tile(32, 32, 0, 1, 8, 2).entry("recompute")
    assert ahead_of_time.compiled(dataclasses.replace(case, entry=entry)).faults == ["102400 bytes of shared memory"]


def test_the_family_of_every_architecture():
    families = {80: 80, 86: 86, 87: 80, 89: 86, 90: 90, 100: 100, 103: 100, 110: 100, 120: 86, 121: 86}
    assert {architecture: configs.family(architecture) for architecture in families} == families


@pytest.mark.parametrize("kernel", KERNELS)
def test_compiles_with_absent_pointers_and_aligned_sizes(kernel):
    assert not ahead_of_time.compiled(first(kernel, 80, "bfloat16", 256, on=False)).faults


@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if ahead_of_time.variants(KERNELS[kernel])])
def test_compiles_for_a_single_token(kernel):
    """N = 1, or a count of 1, which a launch turns into a constant."""
    case = first(kernel, 80, "bfloat16", 256)
    ones = dict.fromkeys(ahead_of_time.variants(case.function), 1)
    ahead_of_time.compiled(dataclasses.replace(case, others=case.others | ones))


def test_only_what_masks_vectors_is_specialised():
    found = {name: ahead_of_time.variants(function) for name, function in KERNELS.items()}
    attention = {name: ["N"] for name in ("products", "pool", "d_tokens", "d_query", "slope")}
    assert {name: integers for name, integers in found.items() if integers} == attention | {"dropout": ["count"]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kernel", KERNELS)
def test_lists(kernel, dtype):
    """Blocks are powers of two, no entry comes twice, and few tokens get the fixed choice."""
    for architecture, width in itertools.product((80, 86, 90, 100, 103, 120), (1, 16, 37, 128, 256, 300, 512)):
        entries = configs.entries(kernel, architecture, dtype, width, 6, 196)
        assert len(set(entries)) == len(entries) <= 3
        blocks = [value for entry in entries for name, value in entry.constants if value and name != "PARTS"]
        assert all(block & (block - 1) == 0 for block in blocks)
        if kernel in ("products", "pool", "d_tokens", "d_query"):
            assert len(configs.entries(kernel, architecture, dtype, width, 6, configs.FEW)) == 1
