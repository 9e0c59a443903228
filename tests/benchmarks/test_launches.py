"""The stub device counts what programs are known to ask of it, and the fast module never waits for a device.

All that a forward and a training step ask, as a table: `python -m benchmarks.launches`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import known_programs
import pytest

from benchmarks import launches, stub_cuda


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """Of a process with the stub device."""
    if reason := stub_cuda.obstacle():
        pytest.skip(reason)
    return stub_cuda.environment(stub_cuda.build(tmp_path_factory.mktemp("stub")))


def run(environment: dict[str, str], *arguments: str) -> str:
    """What Python prints there."""
    root = str(Path(launches.__file__).parents[1])
    whole = environment | {"PYTHONPATH": root}
    done = subprocess.run([sys.executable, *arguments], env=whole, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def counted(environment) -> dict[str, dict]:
    """Of each known program: what was counted."""
    return json.loads(run(environment, known_programs.__file__))


@pytest.mark.parametrize("program", known_programs.PROGRAMS, ids=lambda program: program.__name__)
def test_known_programs(counted, program):
    totals = {kind: sum(names.values()) for kind, names in counted[program.__name__].items()}
    nothing = dict.fromkeys(stub_cuda.Counts._fields, 0)
    assert totals == nothing | known_programs.PROGRAMS[program]


def test_values_come_back(environment):
    assert run(environment, "-c", "import torch; print(torch.arange(4).cuda().tolist())").strip() == "[0, 1, 2, 3]"


WAITS_IN_CAPTURE = """
import torch
x = torch.ones(3).cuda()
with torch.cuda.graph(torch.cuda.CUDAGraph()):
    x.sum().item()
"""


def test_nothing_may_wait_for_what_is_captured(environment):
    with pytest.raises(AssertionError, match="not permitted when stream is capturing"):
        run(environment, "-c", WAITS_IN_CAPTURE)


SMALL = "--batch 2 --num-ops 3 --num-steps 3 --visual-tokens 9 --language-tokens 5 --dim 64 --rounds 1 --by-name 99"


@pytest.mark.parametrize("dtype", ["float32", "amp-bfloat16"])
@pytest.mark.parametrize("variant", ["reference", "fast[triton]", "fast[cuda]", "fast[cuda]+graph", "fast[eager]"])
def test_nothing_waits_for_the_device(environment, variant, dtype):
    """Nor goes to it or comes from it: inputs and weights are there, and nobody reads the result."""
    text = run(environment, "-m", "benchmarks.launches", "--variants", variant, "--dtype", dtype, *SMALL.split())
    rows = re.findall(r"^(?:\S+) +(forward|training) +(\d+) +\d+ +(\d+)", text, re.MULTILINE)
    if not rows:
        pytest.skip(text.splitlines()[-1])
    assert [step for step, _, _ in rows] == ["forward", "training"]
    for step, launched, waits in rows:
        assert int(launched) > 0, step
        assert int(waits) == 0, text
    assert "to host" not in text
    assert "host to" not in text
