"""The build switch: a missing compiler gives a pure-Python package that says why, or a loud failure when asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MISSING = "no-such-compiler"


def setup(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "setup.py", *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_without_a_compiler_it_builds_pure_python_and_records_why(tmp_path):
    run = setup("build", "--build-base", str(tmp_path), "--build-lib", str(tmp_path / "lib"), CXX=MISSING)
    assert run.returncode == 0, run.stderr
    assert f"no C++ compiler: '{MISSING}' was not on PATH" in run.stderr
    record = json.loads((tmp_path / "lib/iprm_kernels/_build.json").read_text())
    assert record["extension"] is False
    assert MISSING in record["reason"]
    assert (tmp_path / "lib/iprm/fast.py").exists()
    assert not list((tmp_path / "lib").rglob("_C*.so"))


def test_a_build_that_was_asked_for_fails_loudly():
    run = setup("--name", CXX=MISSING, IPRM_BUILD_CPU="1")
    assert run.returncode != 0
    assert f"IPRM_BUILD_CPU=1, but no C++ compiler: '{MISSING}'" in run.stderr


@pytest.mark.parametrize("value", ["yes", "", "2"])
def test_an_unknown_switch_is_refused(value):
    run = setup("--name", IPRM_BUILD_CPU=value)
    assert run.returncode != 0
    assert f"IPRM_BUILD_CPU: expected auto, 0 or 1, got {value!r}" in run.stderr


def test_nothing_is_built_when_switched_off():
    run = setup("--name", IPRM_BUILD_CPU="0")
    assert run.returncode == 0
    assert "the package was built with IPRM_BUILD_CPU=0" in run.stderr
