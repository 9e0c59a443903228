"""The run on a card, without a card: its parts and their resumption on stand-ins, its page, and the whole of it dry."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.card import __main__ as command
from benchmarks.card import kernels
from benchmarks.card import record as records
from benchmarks.card.page import page
from benchmarks.card.parts import Part, on_card
from benchmarks.card.run import ABSENT_PART, CUT, DONE, FAILED, RUNNING, Run
from benchmarks.points import Point

PROGRAMS = {
    "good": "note(path, 'a', 'passed'); note(path, 'b', 'passed')",
    "bad": "print('before'); note(path, 'a', 'passed'); note(path, 'b', 'failed', message='wrong by far')",
    "broken": "note(path, 'a', 'passed'); raise ValueError('what went wrong')",
    "absent": "print('no such tool'); sys.exit(77)",
    "skipped": "note(path, 'a', 'skipped', message='no device'); note(path, 'b', 'skipped', message='no device')",
    # What has an outcome is not run again; each start does one thing more, and then hangs.
    "slow": "k = len(known); note(path, str(k), 'passed'); note(path, 'hangs', 'started'); time.sleep(60 * (k < 3))",
    # Each of three tests ends its process.
    "crash": "k = next((k for k in 'abc' if k not in known), None)\n"
    "if k: note(path, k, 'started'); os.kill(os.getpid(), 9)\n"
    "note(path, 'rest', 'passed')",
    "lost": "k = next((k for k in 'ab' if k not in known), None)\n"
    "if k: note(path, k, 'failed', message='CUDA error'); sys.exit(86)\n"
    "note(path, 'rest', 'passed')",
    "always-lost": "sys.exit(86)",
    "child": "from subprocess import Popen; note(path, str(Popen(['sleep', '60']).pid), 'passed'); time.sleep(60)",
}  # fmt: skip
STARTED = 8.0
"""Seconds in which a process has surely started, though others take the cores, and noted what it does first."""
START = """
import os, sys, time
from pathlib import Path
from benchmarks.card.record import done, entries, note
path = Path(sys.argv[1])
known = [key for key in entries(path) if done(entries(path), key)]
"""


def stand_in(part: Part, path: Path) -> list[str]:
    return [sys.executable, "-c", START + PROGRAMS[part.name], str(path)]


def a(name: str) -> Part:
    return Part(name, f"what {name} is", ())


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(tmp_path / "card.json", tmp_path / "work", stand_in)


def outcomes(part: dict) -> dict[str, str]:
    return {entry["key"]: entry["outcome"] for entry in part["entries"]}


@pytest.mark.parametrize(
    ("name", "outcome", "message"),
    [
        ("good", DONE, ""),
        ("bad", FAILED, "1 failed"),
        ("broken", FAILED, "exit status 1"),
        ("absent", ABSENT_PART, "no such tool"),
        ("skipped", ABSENT_PART, "no device"),
        ("always-lost", FAILED, "exit status 86"),
    ],
)
def test_what_becomes_of_a_part(name, outcome, message, run):
    found = run.part(a(name), 30)
    assert (found["outcome"], found["message"]) == (outcome, message)
    assert json.loads(run.path.read_text())["parts"][name] == found
    assert run.left([a(name)]) == ([a(name)] if outcome == ABSENT_PART else [])


def test_the_end_of_the_output_is_kept_of_what_failed(run):
    assert run.part(a("broken"), 30)["tail"].endswith("ValueError: what went wrong")
    assert run.part(a("bad"), 30)["tail"] == "before"
    assert run.part(a("good"), 30)["tail"] == ""


def test_a_part_out_of_time_goes_on_where_it_stopped(run):
    """Also on another machine, which has the record and not the files beside it."""
    for known in (1, 2, 3):
        found = run.part(a("slow"), STARTED)
        assert (found["outcome"], found["message"]) == (CUT, "in hangs")
        assert outcomes(found) == dict.fromkeys(map(str, range(known)), "passed") | {"hangs": "started"}
        assert run.left([a("slow")]) == [a("slow")]
        run.entries(a("slow")).unlink()
        run = Run(run.path, run.work, stand_in)
    found = run.part(a("slow"), 30)
    assert outcomes(found)["3"] == "passed"
    assert found["seconds"] > 3 * STARTED - 1


@pytest.mark.parametrize(("name", "failed"), [("crash", "abc"), ("lost", "ab")])
def test_a_crash_fails_what_was_running_and_the_rest_goes_on(name, failed, run):
    found = run.part(a(name), 30)
    assert found["outcome"] == FAILED
    assert outcomes(found) == dict.fromkeys(failed, "failed") | {"rest": "passed"}


def test_processes_of_a_part_end_with_it(run):
    found = run.part(a("child"), STARTED)
    assert found["outcome"] == CUT
    stat = Path(f"/proc/{found['entries'][0]['key']}/stat")
    assert not stat.exists() or stat.read_text().split()[2] == "Z"


def test_killed_in_the_middle(run, root):
    """The record is whole, and the next run takes up what the killed one had found."""
    run.work.mkdir()
    program = f"""
from pathlib import Path
from test_card import a, stand_in
from benchmarks.card.run import Run
Run(Path({str(run.path)!r}), Path({str(run.work)!r}), stand_in).part(a("slow"), 60)
"""
    paths = os.pathsep.join([str(root), str(Path(__file__).parent), *sys.path])
    process = subprocess.Popen([sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": paths}, cwd=root)
    until = time.monotonic() + 60
    while "hangs" not in records.entries(run.entries(a("slow"))) and time.monotonic() < until:
        time.sleep(0.05)
    process.kill()
    process.wait()
    again = Run(run.path, run.work, stand_in)
    assert again.record["parts"]["slow"]["outcome"] == RUNNING
    assert again.left([a("slow")]) == [a("slow")]
    assert {"0", "1"} <= outcomes(again.part(a("slow"), STARTED)).keys()


def test_a_record_is_replaced_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    records.save(path, {"parts": {"first": {}}})

    def broken_off(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", broken_off)
    with pytest.raises(KeyboardInterrupt):
        records.save(path, {"parts": {"second": {}}})
    assert records.load(path) == {"parts": {"first": {}}}


def test_a_line_that_was_cut_short_is_no_entry(tmp_path):
    path = tmp_path / "part.jsonl"
    records.note(path, "a", "passed")
    path.write_text(path.read_text() + '{"key": "b", "outco')
    assert records.entries(path).keys() == {"a"}
    records.restore(path, ())
    records.note(path, "c", "passed")
    assert records.entries(path).keys() == {"a", "c"}


FACTS = {
    "device": {"name": "NVIDIA H200", "kind": "cuda", "capability": "9.0", "memory": 141 * 2**30, "driver": "580.1"},
    "machine": {"cpu": "a host", "cores": 16, "system": "Linux"},
    "versions": {"torch": "2.11.0+cu130", "triton": "3.6.0"},
    "tools": {"pytest": "9.0", "nvcc": None},
}


@pytest.fixture
def called(tmp_path, monkeypatch, capsys):
    """called(*options): the command on a card with stand-ins as parts; -> exit status and what it printed."""
    monkeypatch.setattr(command, "facts", lambda: copy.deepcopy(FACTS))
    monkeypatch.setattr(command, "parts_of", lambda device: [a("broken"), a("absent"), a("good")])
    monkeypatch.setattr(command, "Run", lambda path, work: Run(path, tmp_path / "work", stand_in))
    monkeypatch.setattr(command.signal, "signal", lambda *_: None)

    def call(*options: str) -> tuple[int, str]:
        status = command.main(["--out", str(tmp_path), *options])
        return status, capsys.readouterr().out

    return call


def test_a_failure_stops_nothing_and_is_told_by_the_exit_status(called, tmp_path):
    status, said = called()
    assert status == 1
    assert [line.split(" (")[0] for line in said.splitlines() if "at most" not in line][:3] == [
        "broken: failed exit status 1", "absent: cannot run here no such tool", "good: done ",
    ]  # fmt: skip
    text = (tmp_path / "nvidia-h200.md").read_text()
    assert "ValueError: what went wrong" in text
    status, said = called()  # finished, and failed all the same
    assert status == 1
    assert "absent: " in said
    assert "broken: " not in said
    assert "good: " not in said


def test_finished_parts_are_run_again_where_that_is_asked(called):
    assert called("--parts", "good")[0] == 0
    assert "good: " not in called("--parts", "good")[1]
    assert "good: done" in called("--parts", "good", "--again")[1]


def test_parts_without_time_are_left(called):
    status, said = called("--minutes", "0.001", "--parts", "good,absent")
    assert (status, said.splitlines()[0]) == (3, "left for another call: good, absent")
    assert called("--parts", "good,absent")[0] == 0


def test_other_versions_are_not_mixed(called, monkeypatch):
    called("--parts", "good")
    monkeypatch.setitem(FACTS["versions"], "torch", "2.12.0")
    with pytest.raises(SystemExit, match=r"2\.11\.0"):
        called("--parts", "absent")
    assert called("--parts", "good", "--again")[0] == 0


def test_an_unknown_part_is_refused(called):
    with pytest.raises(SystemExit, match="broken, absent, good, got nonsense"):
        called("--parts", "nonsense")


def sweep_entry(variant: str, measured: str, milliseconds: float, **more) -> dict:
    point = Point(batch=64, dtype="bfloat16", device="cuda")
    machine = {"device": "NVIDIA H200", "cpu": "", "cores": 1, "system": "", "float32_products": "ieee", "load": 0}
    info = {"sizes": point.as_dict(), "machine": machine, "versions": {}, "date": "2026-11-28", "measured": measured}
    gate, seconds = {"error": 2e-3}, milliseconds * 1e-3
    stats = {"median": seconds, "q1": 0.9 * seconds, "q3": 1.1 * seconds, "rounds": 11}
    return {
        "key": f"{measured}-{variant}", "outcome": "measured", "stats": stats,
        "extra_info": info | {"variant": variant, "gate": gate} | more,
    }  # fmt: skip


def part_of(outcome: str, entries: list[dict], **more) -> dict:
    commit = {"id": "0123456789abcdef", "dirty": False}
    facts = {"what": "it", "message": "", "tail": "", "seconds": 12.3, "date": "2026-11-28T10:00:00", "commit": commit}
    return facts | {"outcome": outcome, "entries": entries} | more


MADE_UP = FACTS | {
    "dry": False,
    "parts": {
        "tests-cuda": part_of("failed", [
            {"key": "test_a.py::test_b[1]", "outcome": "failed", "message": "AssertionError: off by 3"},
            {"key": "test_a.py::test_b[2]", "outcome": "passed"},
            {"key": "c", "outcome": "skipped", "message": "no nvcc"},
        ], message="1 failed", tail="the last line"),
        "sweep-triton": part_of("done", [
            sweep_entry("reference", "forward", 30.0), sweep_entry("fast[triton]", "forward", 6.0),
            sweep_entry("reference", "memory", 1.0, memory=800e6),
            sweep_entry("fast[triton]", "memory", 1.0, memory=50e6),
        ]),
        "compile": part_of("done", [
            sweep_entry("reference", "forward", 31.0), sweep_entry("reference+compile", "forward", 15.5),
            {"key": "x", "outcome": "wrong", "status": "wrong", "message": "off by far", "measured": "training",
             "variant": "reference+compile", "sizes": Point(batch=64, dtype="bfloat16", device="cuda").as_dict()},
        ]),
        "kernels-triton": part_of("out of time", [
            {"key": "execution forward, bfloat16", "outcome": "measured", "pass": "execution forward",
             "backend": "triton", "sizes": {"B": 64, "dtype": "bfloat16"}, "whole": 300e-6, "floor": 100e-6,
             "predicted": 150e-6, "rows": [
                 {"kernel": "logits", "launches": 1, "seconds": 240e-6, "predicted": 120e-6, "names": []},
                 {"kernel": "new_one", "launches": 2, "seconds": 30e-6, "predicted": None, "names": []}]},
        ], message="in execution backward, bfloat16"),
    },
}  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        "# NVIDIA H200",
        "- Compute capability: 9.0",
        "- Driver: 580.1",
        "- Tools: pytest 9.0, nvcc missing",
        "- Commit: `0123456789ab`",
        "| `tests-cuda` | it | **failed**: 1 failed | 12 | 1 failed, 1 passed, 1 skipped | 2026-11-28 |",
        "- `tests-cuda`, `test_a.py::test_b[1]`: AssertionError: off by 3",
        "- `tests-cuda`, 1: no nvcc",
        "| B = 64, K = 6, bfloat16 | forward, ms | 30.0 to 31.0 | 5.00x | 2.00x |",
        "| B = 64, K = 6, bfloat16 | step's extra memory, MB | 800 | 16.00x |  |",
        "- `reference+compile`, training, K = 6, bfloat16: **wrong**. off by far",
        "- Spread: the middle half of the rounds spans 20% of the median (typical case), 20% (worst case)",
        "| execution forward | **all kernels** | 3 | 270 | 150 | 1.80 | 100 | 300 |",
        "| execution forward | `logits` | 1 | 240 | 120 | 2.00 |  |  |",
        "| execution forward | `new_one` | 2 | 30.0 |  | no prediction |  |  |",
        "the last line",
    ],
)
def test_the_page_of_a_made_up_card(line):
    text = page(MADE_UP)
    assert line in text.splitlines(), text
    assert "**Measured** on this card" in text
    assert "Dry run" not in text


def test_of_many_failures_the_page_names_some():
    failures = [{"key": f"test_{n}", "outcome": "failed", "message": "wrong"} for n in range(100)]
    text = page(MADE_UP | {"parts": {"tests-cuda": part_of("failed", failures)}})
    assert text.count("wrong\n") + int(re.search(r"(\d+) more are in the record", text)[1]) == 100


def test_a_page_is_made_at_any_stage():
    for count in range(len(MADE_UP["parts"])):
        known = dict(list(MADE_UP["parts"].items())[:count])
        assert page(MADE_UP | {"parts": known}).startswith("# NVIDIA H200\n")


TORCHS = "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float> >(at::native::ReduceOp<float>)"
CUDAS = "void iprm::cuda::(anonymous namespace)::logits_kernel<__nv_bfloat16, 64>(iprm::cuda::Pairs, float*)"


def test_kernels_are_known_by_the_profilers_names(monkeypatch):
    known = {"reduce_kernel": "reduce", "forward_kernel": "composition_forward"}
    monkeypatch.setattr(kernels, "triton_kernels", lambda: known)
    triton, cuda = kernels.ours("triton"), kernels.ours("cuda")
    assert [triton(name) for name in (*known, TORCHS)] == [*known.values(), None]
    assert [cuda(name) for name in (CUDAS, TORCHS, "nvjet_tst_128x64")] == ["logits", None, None]
    rounds = [[("reduce_kernel", own), (TORCHS, 1e-6), ("nvjet", own + 1e-6)] for own in (2e-6, 4e-6)]
    ours, library = kernels.rows_of(rounds, triton)
    assert (ours.kernel, ours.launches, ours.seconds) == ("reduce", 1, pytest.approx(3e-6))
    assert (library.launches, library.seconds, library.names) == (2, pytest.approx(5e-6), [TORCHS, "nvjet"])
    parts = [kernels.roofline.Launch(name, 0, 1e9) for name in ("reduce", "dC2", "dC1a")]
    kernels.predict([ours, library], parts, "triton", lambda found: float(len(found)))
    assert (ours.predicted, library.predicted) == (1.0, 2.0)
    unknown = kernels.Row("gradients")
    kernels.predict([unknown], parts, "cuda", lambda found: 1.0)
    assert unknown.predicted is None


def test_a_card_is_known_by_its_name():
    assert kernels.card_of("NVIDIA H200").name == "H200"
    assert kernels.card_of("NVIDIA H100 80GB HBM3").name == "H100"
    assert kernels.card_of("NVIDIA GeForce RTX 4090").name == "RTX 4090"
    assert kernels.card_of("NVIDIA L4") is None


def test_what_the_parts_run_is_there(root):
    """On a card nothing would tell of a wrong path but the part itself."""
    for part in on_card():
        module, *arguments = part.command
        assert (root / "benchmarks" / "card" / f"{module}.py").exists()
        paths = [argument.partition("::") for argument in arguments if argument.startswith("tests/")]
        assert module != "tests" or paths
        for path, _, test in paths:
            assert (root / path).exists()
            assert not test or f"def {test}(" in (root / path).read_text()


NATIVE = """
import pytest
@pytest.fixture
def device(): pass
@pytest.fixture
def on_host(device): pass
def test_here(device): pass
def test_wrong(device): assert 1 == 2, "one is not two"
def test_on_the_cpu(on_host): raise AssertionError("ran")
def test_without_a_device(): raise AssertionError("ran")
@pytest.mark.parametrize("n", [1, 2])
def test_skipped(n, device): pytest.skip("no such card")
"""


def test_native_tests_are_chosen_noted_and_not_repeated(tmp_path, root):
    folder = tmp_path / "native"
    folder.mkdir()
    (folder / "test_native.py").write_text(NATIVE)
    (folder / "test_broken.py").write_text("import no_such_module")
    (folder / "pytest.ini").write_text("[pytest]\n")
    path = tmp_path / "entries.jsonl"
    records.note(path, "test_native.py::test_here", records.STARTED)
    program = [sys.executable, "-m", "benchmarks.card.tests", str(path), str(folder)]

    def run() -> str:
        done = subprocess.run(program, cwd=root, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run()
    found = {key.rpartition("::")[2]: entry for key, entry in records.entries(path).items()}
    assert {name: entry["outcome"] for name, entry in found.items()} == {
        "test_here": "passed", "test_wrong": "failed", "test_broken.py": "failed", "test_skipped[1]": "skipped",
        "test_skipped[2]": "skipped",
    }  # fmt: skip
    assert next(iter(found)) == "test_here"
    assert "one is not two" in found["test_wrong"]["message"]
    assert "no_such_module" in found["test_broken.py"]["message"]
    assert found["test_skipped[1]"]["message"] == "no such card"
    assert not re.search(r"\d+ passed", run())


@pytest.fixture(scope="module")
def dry(tmp_path_factory) -> tuple[subprocess.CompletedProcess, Path]:
    """The whole command without a card, but for torch.compile, which takes most of a minute."""
    out, root = tmp_path_factory.mktemp("dry"), Path(__file__).resolve().parents[2]
    program = [sys.executable, "-m", "benchmarks.card", "--out", str(out), "--again"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    parts = ["--parts", "build,tests-cpu,sweep-cpu,kernels-cpu"]
    return subprocess.run([*program, *parts], cwd=root, capture_output=True, text=True, env=environment), out


def test_dry_run(dry):
    done, out = dry
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((out / "dry-run.json").read_text())
    assert {name: part["outcome"] for name, part in found["parts"].items()} == dict.fromkeys(found["parts"], DONE)
    assert len(found["parts"]) == 4
    text = (out / "dry-run.md").read_text()
    assert text == page(found)
    assert "**Dry run on a processor**" in text
    assert "**Measured**" not in text
    assert re.search(r"\| B = 2, K = 2, float32 \| forward, ms \| [\d.]+ \| [\d.]+x \|", text)
    assert re.search(r"\| execution backward \| `execution_backward` \| 1 \| [\d.]+ \|  \| no prediction \|", text)


def test_a_dry_run_names_no_host(dry):
    import getpass
    import socket

    text = (dry[1] / "dry-run.json").read_text()
    assert socket.gethostname() not in text
    assert str(Path.home()) not in text
    assert f'"{getpass.getuser()}"' not in text
