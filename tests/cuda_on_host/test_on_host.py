"""Runs the tests of the CUDA kernels on the CPU, in processes of their own: in three flavours, under several schedules,
with the shared memory of sm_80 (163 KB) and of sm_90 (227 KB)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import build_on_host as build
import pytest

TESTS = Path(__file__).resolve().parents[1] / "iprm_kernels" / "backends" / "cuda"
CORES, STEPS = ("test_cuda_cores.py",), ("test_cuda_steps.py",)
EVERYTHING = sorted(path.name for path in TESTS.glob("test_*.py"))
RIGHT = [name for name in EVERYTHING if name != "test_cuda_planted.py"]  # the same kernels, on arguments that are meant
# Neither of these runs a kernel on values that others do not, and the compiler's processes would be sanitized too.
NO_COMPILER = "not compiles_without and not opcheck"

pytestmark = pytest.mark.skipif("IPRM_CUDA_ON_HOST" in os.environ, reason="already on the host")


def passes(flavour: str, files, *arguments: str, **settings: str) -> None:
    """All tests of the files pass, none is skipped, and no sanitizer has anything to say."""
    if reason := build.obstacle(flavour):
        pytest.skip(reason)
    environment = {
        "IPRM_CUDA_ON_HOST": str(build.module(flavour)),
        "OMP_NUM_THREADS": "1",
        **build.preload(flavour),
        **{f"IPRM_ON_HOST_{name}": value for name, value in settings.items()},
    }
    # -s: a sanitizer writes its report to the process's own stderr, and ends the process.
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-x", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [*command, *arguments, *(str(TESTS / file) for file in files)],
        env=os.environ | environment, capture_output=True, text=True,
    )  # fmt: skip
    said = run.stdout[-8000:] + run.stderr[-12000:]
    assert run.returncode == 0, said
    assert re.search(r"\d+ passed", run.stdout)
    assert "skipped" not in run.stdout.splitlines()[-1]
    assert not re.search("Sanitizer|runtime error", said)


@pytest.mark.parametrize("file", EVERYTHING)
def test_values(file):
    passes("plain", [file])


@pytest.mark.parametrize(
    ("order", "copies", "kilobytes"),
    [("reverse", "lazy", 163), ("random:1", "random", 163), ("random:2", "lazy", 227), ("random:3", "eager", 227)],
)
def test_values_under_other_schedules(order, copies, kilobytes):
    passes("plain", CORES + STEPS, "-k", NO_COMPILER, ORDER=order, COPIES=copies, SHARED_KB=str(kilobytes))


@pytest.mark.parametrize("kilobytes", [163, 227])
def test_no_access_out_of_bounds_and_no_undefined_behaviour(kilobytes):
    files, order = (RIGHT, "random:1") if kilobytes == 227 else (CORES, "forward")
    passes("asan", files, "-k", NO_COMPILER, ORDER=order, SHARED_KB=str(kilobytes))


RACES = {
    "cores": (CORES, "not same_bits and not module", {"ORDER": "forward", "SHARED_KB": "163"}),
    "another schedule": (CORES, "every_tile or wide or formation_equals", {"ORDER": "random:1"}),
    "module": (CORES, "module and options0", {"ORDER": "reverse"}),
    "steps": (STEPS, "test_sizes and not 16 and not 33 and not 300", {"ORDER": "random:1"}),
}


@pytest.mark.parametrize("name", RACES)
def test_no_races(name):
    """Within blocks and between those of a launch. Every order of every thread costs time: a part of the tests."""
    files, few, settings = RACES[name]
    passes("tsan", files, "-k", few, COPIES="lazy", PROCESSORS="2", **settings)
