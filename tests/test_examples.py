"""The examples in a small form: what they print and write."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from iprm import layers

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SCRIPTS = {path.name for path in EXAMPLES.glob("*.py")} - {"toy.py"}
LOSS = re.compile(r"step +\d+  loss ([\d.]+)")


@pytest.fixture
def run(monkeypatch, capsys, tmp_path, threads):
    """Run an example as a script with these arguments, in a folder of its own, and return what it prints."""
    threads(1)  # more wait for one another at these sizes where the machine is busy
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)

    def script(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return script


def numbers(pattern: str, text: str) -> list[float]:
    return [float(found) for found in re.findall(pattern, text)]


def assert_learnt(losses: list[float]) -> None:
    """The last loss is below that of guessing, which is log 4, and below the first."""
    assert losses[-1] < 0.8 * losses[0]
    assert losses[-1] < 1.1


def test_swap(run):
    losses = [
        numbers(LOSS.pattern, run("swap.py", "--module", name, "--steps", "16")) for name in ("reference", "fast")
    ]
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert_learnt(losses[0])


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_ddp(run):
    alone = numbers(LOSS.pattern, run("ddp.py", "--steps", "11"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    loopback = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    path = os.pathsep.join([str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")])
    together = subprocess.run(
        [*torchrun, str(EXAMPLES / "ddp.py"), "--steps", "11"],
        env=os.environ | loopback | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert together.returncode == 0, together.stderr[-6000:]
    assert numbers(LOSS.pattern, together.stdout) == pytest.approx(alone, rel=1e-3)
    assert len(alone) == 3
    assert_learnt(alone)


def test_published_checkpoint(run, tmp_path):
    made = run("published_checkpoint.py")
    state = torch.load(tmp_path / "build" / "published.pt", weights_only=True)
    assert "module.lang_retrieval_block.lang_mlp.0.weight" in state
    given = run("published_checkpoint.py", str(tmp_path / "build" / "published.pt"))
    for text in (made, given):
        assert f"published.pt: {len(state)} tensors, K = 6, T = 9, D = 64" in text
        assert numbers(r"largest difference of the results: (\S+)", text)[0] < 1e-5
        assert f"given back: {len(state)} of {len(state)}" in text


def test_a_published_checkpoint_that_is_missing_is_not_made(run, tmp_path):
    with pytest.raises(FileNotFoundError):
        run("published_checkpoint.py", str(tmp_path / "missing.pt"))


def test_lora(run):
    layers.warn_once.cache_clear()
    reason = r"formation\.F1 is a __main__\.Around"
    with pytest.warns(UserWarning, match=reason + r", so the module runs as iprm\.reference does"):
        text = run("lora.py", "--steps", "16")
    assert re.findall("fused: (.*)", text) == ["yes", "no, formation.F1 is a __main__.Around"]
    parametrized, wrapped = (list(map(float, line.split())) for line in re.findall("losses (.*)", text))
    assert wrapped == pytest.approx(parametrized, rel=1e-3)
    assert_learnt(parametrized)
    assert numbers(r"merged: largest difference (\S+)", text)[0] < 1e-5


def test_compile_and_export(run, tmp_path):
    torch._dynamo.reset()
    text = run("compile_and_export.py", "--compiler", "eager", "--out", str(tmp_path / "iprm.pt2"))
    differences = numbers(r"(?:differs|gradient) by ([\d.e+-]+)", text)
    assert len(differences) == 5
    assert max(differences) < 1e-4
    assert (tmp_path / "iprm.pt2").stat().st_size > 0


def test_ops(run):
    text = run("ops.py")
    assert re.search(r"^eager +can run it$", text, re.MULTILINE)
    differences = numbers(r"differs by (\S+)", text)
    assert len(differences) == 15
    assert max(differences) < 1e-10


def test_attention_pictures(run, tmp_path):
    image = pytest.importorskip("matplotlib.image", reason="needs matplotlib, the extra `plots`")
    text = run("attention_pictures.py", "--steps", "30", "--out", str(tmp_path))
    assert max(numbers(r"op \d +(\d+)%", text)) > 20  # 4 by chance
    for kind in ("colour", "shape"):
        assert f"{kind}.png: the answer is in row" in text
        assert image.imread(tmp_path / f"{kind}.png").std() > 0.05  # something is drawn


def test_video(run):
    text = run("video.py", "--steps", "60")
    assert numbers(r"(\d+)% right", text)[0] > 40  # 20 by chance
    first, last = (numbers(r"(\d+)%", line) for line in re.findall(r"attention on the frames (.*)", text))
    assert first[0] > last[0]
    assert first[-1] < last[-1]


def test_every_example_is_in_the_table_and_tested_here():
    table = (EXAMPLES / "README.md").read_text()
    assert set(re.findall(r"^\| \[(\w+\.py)\]\(\1\)", table, re.MULTILINE)) == SCRIPTS
    assert set(re.findall(r"run\(\"(\w+\.py)\"", Path(__file__).read_text())) == SCRIPTS
    assert all(len(path.read_text().splitlines()) < 100 for path in EXAMPLES.glob("*.py"))
