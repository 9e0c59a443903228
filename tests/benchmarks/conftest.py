"""The sweeps' code is no installed package: it is found from the repository's root."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(path) for path in (ROOT, HERE) if str(path) not in sys.path]

from benchmarks.points import Point  # noqa: E402


@pytest.fixture
def small() -> Point:
    """A point that takes milliseconds."""
    return Point(batch=2, num_ops=2, num_steps=2, visual_tokens=9, language_tokens=5, dim=16, threads=1, device="cpu")


@pytest.fixture
def root() -> Path:
    return ROOT
