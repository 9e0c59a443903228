"""Every kernel compiles for every architecture within its limits: shared memory, no spills, tensor cores.

A part of the matrix; all of it is `python -m iprm_kernels.backends.triton.ahead_of_time`.
"""

from __future__ import annotations

import dataclasses
import os

import pytest
import torch

pytest.importorskip("triton.language")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from iprm_kernels.backends.triton import ahead_of_time, configs


def chosen() -> list[ahead_of_time.Case]:
    """The fixed choices in bfloat16, every entry at R = 256, float32 at one width, all other kernels once for each
    architecture."""
    found = {}
    for architecture in configs.ARCHITECTURES:
        for dtype, widths in (("bfloat16", (128, 256, 512)), ("float32", (256,))):
            for width in widths:
                every = list(ahead_of_time.chain_cases(architecture, dtype, width))
                first = {case.kernel: case for case in reversed(every)}
                for case in every if width == 256 and architecture == 90 else first.values():
                    found[case.label, str(case.constants)] = case
        for case in ahead_of_time.other_cases(architecture, "bfloat16", 256):
            found[case.label, str(case.constants)] = case
    return list(found.values())


@pytest.mark.parametrize("case", chosen(), ids=lambda case: case.label.replace(" ", "-"))
def test_compiles_within_the_limits(case):
    assert not ahead_of_time.compiled(case).faults


def test_faults_are_found():
    """A tile of 128 pairs at R = 512 needs more than there is of everything."""
    (case, *_) = ahead_of_time.chain_cases(90, "bfloat16", 512)
    case = ahead_of_time.Case(
        case.kernel, case.function, 90, case.dtype, 512, case.constants | {"BN": 64}, case.warps, case.stages
    )
    assert any("spill" in fault for fault in ahead_of_time.compiled(case).faults)


def of_one(case: ahead_of_time.Case) -> ahead_of_time.Case:
    """The case with K, N and the counts equal to 1, which a launch turns into constants."""
    ones = {name: 1 for name in ("K", "N", "pairs", "first", "count") if name in case.function.arg_names}
    return dataclasses.replace(case, constants=case.constants | ones)


def plain() -> list[ahead_of_time.Case]:
    """Every kernel once, with its switches off and absent pointers None."""
    chains = {case.kernel: case for case in ahead_of_time.chain_cases(80, "bfloat16", 256)}  # the last: no dropout
    return [*chains.values(), *ahead_of_time.other_cases(80, "bfloat16", 256, on=False)]


@pytest.mark.parametrize("case", plain(), ids=lambda case: case.kernel.replace(" ", "-"))
def test_compiles_with_absent_pointers_and_sizes_of_one(case):
    assert not ahead_of_time.compiled(case).faults
    ahead_of_time.compiled(of_one(case))


@pytest.mark.parametrize("architecture", configs.ARCHITECTURES)
@pytest.mark.parametrize("kernel", configs.KERNELS)
def test_autotuning_is_pruned_to_the_list(kernel, architecture, monkeypatch):
    monkeypatch.setattr(configs, "architecture_of", lambda device: architecture)
    tuner = configs.tuned(kernel)
    tuner.nargs = {"C1a": torch.empty(1, dtype=torch.bfloat16)}
    chosen = [(c.kwargs, c.num_warps, c.num_stages) for c in tuner.prune_configs({"R": 256})]
    tiles = configs.tiles(kernel, architecture, torch.bfloat16, 256)
    assert chosen == [(t.config(kernel), t.warps, t.stages) for t in tiles]
    assert tuner.cache_results


def test_a_width_without_a_list_is_named():
    with pytest.raises(ValueError, match="R: expected at most 1024 for the triton backend, got 1025"):
        configs.tiles("logits", 90, torch.float32, 1025)
