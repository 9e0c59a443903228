"""Kernels that an installation lost are named at first use, with the command that compiles them."""

from __future__ import annotations

import importlib.metadata
import json
import shlex
import sys
import warnings

import pytest
import torch

from iprm_kernels import dropout
from iprm_kernels.backends import compiled, reinstall

COMMIT = "0123456789abcdef"
BUILT = {"extension": True, "reason": None, "lost": False, "torch": "0.0.0"}
LOST = {"extension": False, "reason": "no C++ compiler", "lost": True, "torch": None}
LEFT_OUT = {"extension": False, "reason": "IPRM_BUILD_CPU=0", "lost": False, "torch": None}


@pytest.fixture
def built_as(monkeypatch):
    """Give the package this record of its CPU extension."""

    def clear():
        compiled.load.cache_clear()
        compiled.warn_if_lost.cache_clear()

    def give(record: dict) -> None:
        monkeypatch.setattr(compiled, "build_records", lambda: {"cpu": record})
        clear()

    yield give
    clear()


def said_by_two_calls() -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            dropout(torch.ones(4), 0.5, torch.zeros(1, dtype=torch.int64), 0)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("record", "reason"),
    [(BUILT, f"built for torch 0.0.0, not for {torch.__version__}"), (LOST, "no C++ compiler")],
)
def test_lost_kernels_are_named_once(built_as, record, reason):
    built_as(record)
    (said,) = said_by_two_calls()
    assert f"without its native CPU kernels, slower and with more memory: {reason}. To compile them: " in said
    assert said.endswith(reinstall.command())


def test_kernels_left_out_by_choice_are_not_missed(built_as):
    built_as(LEFT_OUT)
    assert said_by_two_calls() == []


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ({"url": "file:///a%20b/c", "dir_info": {}}, ["/a b/c"]),
        ({"url": "file:///a/c", "dir_info": {"editable": True}}, ["--editable", "/a/c"]),
        (
            {"url": "https://host/x.git", "vcs_info": {"vcs": "git", "commit_id": COMMIT}},
            [f"iprm-kernels @ git+https://host/x.git@{COMMIT}"],
        ),
        ({"url": "file:///a/x.tar.gz", "archive_info": {}}, ["file:///a/x.tar.gz"]),
    ],
)
def test_what_was_installed_is_installed_again(origin, expected):
    assert shlex.split(reinstall.source(origin)) == expected


def test_a_wheel_is_no_source(monkeypatch, tmp_path):
    monkeypatch.setattr(reinstall, "CHECKOUT", tmp_path)
    assert reinstall.source({"url": "file:///a/x.whl", "archive_info": {}}) == reinstall.UNKNOWN
    assert reinstall.source({}) == reinstall.UNKNOWN


@pytest.mark.parametrize(("installer", "start"), [("pip\n", "IPRM_BUILD_CPU=1 {python} -m pip"), ("uv", "uv pip")])
def test_the_command_is_of_the_tool_that_installed(monkeypatch, installer, start):
    files = {"INSTALLER": installer, "direct_url.json": json.dumps({"url": "file:///a", "dir_info": {}})}

    class Distribution:
        read_text = staticmethod(files.get)

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Distribution)
    command = reinstall.command()
    assert command.startswith(start.format(python=shlex.quote(sys.executable)))
    assert command.endswith(" --no-deps /a") or command.endswith(" --no-deps --no-build-isolation /a")
