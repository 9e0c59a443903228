"""What tests/conftest.py adds to pytest: the quick selection, and skips told in a line each."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from iprm_kernels.backends import BACKENDS

ROOT = Path(__file__).resolve().parents[1]
IN_IT = "tests/iprm_kernels/test_formation.py"
OUTSIDE = "tests/iprm_kernels/test_derivatives.py"


def run(*options: str, cwd: Path = ROOT) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False).stdout


def test_quick_is_a_few_cases_of_each_test():
    found = run("--collect-only", "-m", "quick", IN_IT, OUTSIDE)
    cases = [line for line in found.splitlines() if "::" in line]
    assert all(line.startswith(IN_IT) for line in cases)
    counts = Counter(line.split("[")[0] for line in cases)
    assert max(counts.values()) == 4
    everything = run("--collect-only", IN_IT)
    assert {line.split("[")[0] for line in everything.splitlines() if "::" in line} == set(counts)


def test_quick_leaves_out_what_cannot_run():
    """A backend that is skipped here would be no test."""
    found = run("--collect-only", "-m", "quick", IN_IT)
    for backend, module in BACKENDS.items():
        if module.unsupported(torch.device("cpu"), torch.float32):
            assert f"[{backend}" not in found
            assert f"-{backend}" not in found


@pytest.fixture
def suite(tmp_path) -> Path:
    """One of its own, with this conftest."""
    for name in ("conftest.py", "seeds.py"):
        (tmp_path / name).write_text((ROOT / "tests" / name).read_text())
    (tmp_path / "test_skips.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('i', range(1200))\n"
        "def test_card(i): pytest.skip('cuda: there is no CUDA device')\n"
        "@pytest.mark.parametrize('i', range(3))\n"
        "def test_own(i): pytest.skip('needs another thing')\n"
        "def test_passes(): pass\n"
    )
    return tmp_path


def test_skips_are_counted_in_a_line_of_each_kind(suite):
    said = run("--rootdir", str(suite), str(suite), cwd=suite)
    assert "skipped 1,200: needs a CUDA device" in said
    assert "skipped 3: test_skips.py::test_own: needs another thing" in said
    assert sum(line.startswith("skipped ") for line in said.splitlines()) == 2
    listed = run("--rootdir", str(suite), "-rs", str(suite), cwd=suite)
    assert "SKIPPED [1200]" in listed
    assert "skipped 1,200: " not in listed
