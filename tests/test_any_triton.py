"""The runs under other versions of Triton: which they are, and what is said where one cannot be had."""

from __future__ import annotations

import sys
from pathlib import Path

import any_triton
import pytest

from iprm_kernels.backends.triton import ops


@pytest.fixture
def installed(monkeypatch):
    """Whatever is asked for is installed, and is Triton 3.4.0."""
    monkeypatch.setattr(any_triton, "install", lambda requirements, folder: None)
    monkeypatch.setattr(any_triton, "version_in", lambda folder: "3.4.0")


def test_the_oldest_is_the_least_that_serves():
    least = ".".join(map(str, ops.LEAST_VERSION))
    assert f"triton=={least}.0" in any_triton.REQUIREMENTS["oldest"]


def test_what_cannot_be_installed_is_said(monkeypatch, capsys):
    monkeypatch.setattr(any_triton, "install", lambda requirements, folder: "no index")
    assert any_triton.main([]) == 1
    said = capsys.readouterr().out
    assert said.count("not installed, nothing run | no index") == 2
    assert "0 of 2 passed" in said


def test_pip_says_why(tmp_path):
    requirement = f"nothing @ {(tmp_path / 'nothing.whl').as_uri()}"
    assert any_triton.install([requirement], tmp_path / "folder")


@pytest.mark.parametrize(
    ("printed", "status", "fails"),
    [
        ("3 passed in 1s", 0, False),
        ("not compiled for gfx942: no linker\n3 compiled, 0 with a fault", 0, False),
        ("3 skipped in 1s", 0, True),
        ("0 compiled, 0 with a fault", 0, True),
        ("2 passed, 1 failed", 1, True),
    ],
)
def test_what_is_a_failure(printed, status, fails, installed, monkeypatch, capsys):
    command = [sys.executable, "-c", f"print({printed!r}); raise SystemExit({status})"]
    monkeypatch.setattr(any_triton, "RUNS", {"a run": (command, {})})
    assert any_triton.main([]) == int(fails)
    said = capsys.readouterr().out
    assert ("**fails**" in said) == fails
    assert all(line in said for line in printed.splitlines() if "skipped" not in line)


def test_its_files_exist():
    assert all((any_triton.TESTS / name).is_file() for name in any_triton.INTERPRETED)
    assert Path(any_triton.ROOT / ".ci/run").read_text().rstrip().endswith("make any-triton")
