"""Shared fixtures, the seed of every test, the quick selection, and the summary of what was skipped."""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter, defaultdict
from pathlib import Path

# Before torch's threads are there: tests run side by side, and threads that wait by spinning would keep others' cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# A pytest that a test starts is none of those workers, and measures.
os.environ.pop("PYTEST_XDIST_WORKER", None)

import pytest
import torch
from seeds import SEED

from iprm_kernels.backends import BACKENDS

HERE = Path(__file__).resolve().parent

QUICK = (
    "iprm/test_config.py",  # options and their errors
    "iprm/test_fast.py",  # the fast module equals the reference, draws its dropout, compiles
    "iprm/test_layers.py",  # layers with hooks, adapters and the like
    "iprm/test_official.py",  # the published names and checkpoints
    "iprm/test_reference.py",  # the mechanism, by hand
    "iprm_kernels/test_composition.py",  # the ops equal their definitions, forward and backward, on every backend
    "iprm_kernels/test_dropout.py",  # the bits of the masks
    "iprm_kernels/test_dropped_execution.py",
    "iprm_kernels/test_errors.py",  # what is said of wrong arguments
    "iprm_kernels/test_execution.py",
    "iprm_kernels/test_formation.py",
    "iprm_kernels/test_import.py",  # importing is cheap and needs nothing optional
    "iprm_kernels/test_judge.py",  # the judge of numbers itself
    "iprm_kernels/test_recurrence.py",
)
"""Files with what most changes break, for `pytest -m quick`."""
QUICK_CASES = 4
"""So many cases of each of their tests are in it, drawn by the seed of the tests: one backend or option set each."""
SLOW = {"iprm/test_layers.py::test_compiles_without_a_graph_break"}
"""Tests of these files that take longer than all others together, and are left to the whole suite."""

CANNOT_RUN = {
    "needs a CUDA device": ("CUDA device",),
    "needs Triton": ("triton is not installed", "import 'triton"),
    "runs on the CPU in another way": ("tests/cuda_on_host", "test_interpreter.py"),
}
"""Why much cannot run here, and words of the reasons that say so: these skips are counted, all others listed."""


def pytest_report_header(config):
    run = f"torch {torch.__version__}, {torch.get_num_threads()} threads, seed {SEED}"
    return f"{run}, backends on the CPU: {', '.join(name for name in BACKENDS if obstacle(name) is None)}"


def obstacle(backend: str) -> str | None:
    """Why the backend cannot run the tests of the CPU, None where it can."""
    return BACKENDS[backend].unsupported(torch.device("cpu"), torch.float32)


def can_run(item: pytest.Item) -> bool:
    """False for a case of a backend that cannot run here."""
    backend = item.callspec.params.get("backend") if hasattr(item, "callspec") else None
    return backend not in BACKENDS or obstacle(backend) is None


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marker
def pytest_collection_modifyitems(items):
    """Mark the quick selection: of each test of the files, a few cases."""
    tests = defaultdict(list)
    for item in items:
        file = item.path.relative_to(HERE).as_posix() if item.path.is_relative_to(HERE) else ""
        name = f"{file}::{getattr(item, 'originalname', item.name)}"
        if file in QUICK and name not in SLOW and can_run(item):
            tests[name].append(item)
    for name, cases in tests.items():
        for item in random.Random(f"{SEED} {name}").sample(cases, min(QUICK_CASES, len(cases))):
            item.add_marker("quick")


def kind_of(reason: str) -> str | None:
    """The kind of a skip, by its reason; None for any other reason."""
    return next((kind for kind, words in CANNOT_RUN.items() if any(word in reason for word in words)), None)


def pytest_terminal_summary(terminalreporter):
    """Skips: one line for each kind that cannot run here, and one for any other reason of each test."""
    if terminalreporter.hasopt("s"):  # pytest lists them itself
        return
    counts = Counter()
    for report in terminalreporter.getreports("skipped"):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        counts[kind_of(reason) or f"{report.nodeid.split('[')[0]}: {reason}"] += 1
    if counts:
        terminalreporter.section("skipped", "=")
    for what, count in counts.most_common():
        terminalreporter.line(f"skipped {count:,}: {what}")


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(SEED)


@pytest.fixture(params=list(BACKENDS))
def backend(request) -> str:
    """Each backend by name; skipped, with its reason, where it cannot run."""
    if reason := obstacle(request.param):
        pytest.skip(f"{request.param}: {reason}")
    return request.param


@pytest.fixture
def threads():
    """Set the number of threads; restored afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def inductor() -> None:
    """Where torch's inductor has a C++ compiler."""
    if not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        pytest.skip("inductor needs a C++ compiler")
