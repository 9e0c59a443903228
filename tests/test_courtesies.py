"""What one may expect of any package: help that fits, no warnings, `-OO`, other systems, and words for what is missing.

In fresh interpreters, as it is decided when modules are imported; one for several commands, as each loads torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from iprm.vqa import locks

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = (
    "iprm.look", "iprm.train", "iprm.vqa.data.generate", "iprm.vqa.experiments", "iprm.vqa.training.memory",
    "iprm.vqa.training.side_by_side", "iprm_kernels.info",
)  # fmt: skip
STEP = """
import torch
from iprm import IPRMConfig
from iprm.fast import IPRM
model = IPRM(IPRMConfig(dim=8, num_ops=2, num_steps=2), backend={backend!r})
inputs = torch.randn(2, 3, 8), torch.randn(2, 8), torch.randn(2, 5, 8)
model(*inputs).sum().backward()
print(all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters()))
"""
BLOCK = """
import sys
for name in {names!r}:
    sys.modules[name] = None
"""
HELP = """
import contextlib, io, json, runpy, sys
def help_of(command):
    said, sys.argv = io.StringIO(), [command, "--help"]
    sys.modules.pop(command, None)  # another command may have imported it
    try:
        with contextlib.redirect_stdout(said):
            runpy.run_module(command, run_name="__main__")
    except SystemExit as end:
        return end.code, said.getvalue()
"""
EVERY_HELP = f"{HELP}\nprint(json.dumps({{command: help_of(command) for command in {COMMANDS!r}}}))"
"""Prints the exit status and the words of each command."""
AT_EXIT_OF_TRITON = ("nanobind: ", " - leaked ", " - ... skipped ", "See https://nanobind.")
"""How the lines begin that its bindings write where an interpreter ends with some of their objects."""
UNIX = ("fcntl", "grp", "pwd", "resource", "termios")
UNIX_FUNCTIONS = ("fork", "getuid", "sched_getaffinity", "sysconf")
"""What Windows lacks; of `os`, the latter."""


def python(*arguments: str, code: str | None = None) -> str:
    """What a fresh interpreter prints, in the root of the project, on a terminal of 100 columns."""
    command = [sys.executable, *arguments, *(("-c", code) if code else ())]
    environment = os.environ | {"COLUMNS": "100"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    said = [line for line in run.stderr.splitlines() if not line.startswith(AT_EXIT_OF_TRITON)]
    assert (run.returncode, said) == (0, [])
    return run.stdout


@pytest.mark.parametrize("flags", [("-W", "error"), ("-OO",)])
def test_help_fits_a_terminal(flags):
    for command, (code, said) in json.loads(python(*flags, code=EVERY_HELP)).items():
        assert code == 0
        assert said.startswith(f"usage: python -m {command} ")
        assert max(map(len, said.splitlines())) <= 100, command


def test_a_training_step_without_docstrings():
    assert python("-OO", code=STEP.format(backend="auto")) == "True\n"


def test_a_training_step_compiled_or_not_warns_of_nothing():
    compiled = 'torch.compile(model, backend="aot_eager", fullgraph=True)(*inputs).sum().backward()'
    assert python("-W", "error", code=STEP.format(backend="auto") + compiled) == "True\n"


def test_info_warns_of_nothing():
    found = json.loads(python("-W", "error", "-m", "iprm_kernels.info", "--json"))
    assert found["devices"]["cpu"]["backends"]["eager"]["usable"] is True


def test_runs_without_what_unix_alone_has():
    remove = f"import os\nfor name in {UNIX_FUNCTIONS}: vars(os).pop(name, None)\n"
    assert python(code=BLOCK.format(names=UNIX) + remove + STEP.format(backend="eager")) == "True\n"


def test_commands_start_without_what_unix_alone_has():
    found = json.loads(python(code=BLOCK.format(names=("fcntl", "resource")) + EVERY_HELP))
    assert {command: code for command, (code, _) in found.items()} == dict.fromkeys(COMMANDS, 0)


MISSING = [
    ("iprm.train", "rich", "train"),
    ("iprm.train", "omegaconf", "train"),
    ("iprm.train", "safetensors", "train"),
    ("iprm.look", "safetensors", "train"),
    ("iprm.vqa.experiments", "scipy", "train"),
    ("iprm.vqa.training.side_by_side", "rich", "train"),
    ("benchmarks.ahead_of_time", "triton", "triton"),
]
WITHOUT = """
found = []
for command, package, _ in {missing!r}:
    for name in [name for name in sys.modules if name.startswith(("iprm.vqa", package))]:
        del sys.modules[name]
    sys.modules[package] = None
    found.append(help_of(command)[0])
    del sys.modules[package]
print(json.dumps(found))
"""


def test_commands_say_in_a_line_what_is_missing():
    lines = [f"error: {package} is not installed: pip install 'iprm-kernels[{extra}]'" for _, package, extra in MISSING]
    assert json.loads(python(code=HELP + WITHOUT.format(missing=MISSING))) == lines


LOCK = "import sys; from iprm.vqa.locks import lock; file = open(sys.argv[1], 'w'); lock(file, wait=False)"


def test_a_lock_is_held_by_one_process_until_it_lets_go(tmp_path):
    other = [sys.executable, "-c", LOCK, str(tmp_path / "lock")]
    with (tmp_path / "lock").open("w") as file:
        locks.lock(file, wait=True)
        held = subprocess.run(other, cwd=ROOT, capture_output=True, text=True, check=False)
        assert "BlockingIOError" in held.stderr
    assert subprocess.run(other, cwd=ROOT, check=False).returncode == 0


def test_a_lock_by_the_calls_of_windows(tmp_path, monkeypatch):
    """Their refusal is an error like any other; who waits asks again."""
    answers = [PermissionError("held"), PermissionError("held"), None]

    def locking(descriptor: int, mode: int, bytes_: int) -> None:
        if answer := answers.pop(0):
            raise answer

    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
    monkeypatch.setattr(locks.sys, "platform", "win32")
    monkeypatch.setattr(locks.time, "sleep", lambda seconds: None)
    with (tmp_path / "lock").open("w") as file:
        with pytest.raises(BlockingIOError, match="held"):
            locks.lock(file, wait=False)
        locks.lock(file, wait=True)
    assert not answers
