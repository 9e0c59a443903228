"""A sweep from end to end: pytest's command line, its JSON, the page and the plots."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.records import load

PNG = b"\x89PNG"
SIZES = "--num-ops 1,2 --num-steps 2 --visual-tokens 9 --language-tokens 5 --batch 2 --dim 16 --threads 1"
OPTIONS = f"{SIZES} --device cpu --rounds 3 --seconds 0.05 --variants reference,fast[eager],wrong-result"


def sweep(root: Path, target: Path, *options: str) -> subprocess.CompletedProcess:
    here = str(Path(__file__).parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), here])}
    command = [sys.executable, "-m", "pytest", "benchmarks", "-p", "slightly_wrong", "-p", "no:cacheprovider"]
    command += [f"--benchmark-json={target}", *OPTIONS.split(), *options]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> tuple[subprocess.CompletedProcess, Path]:
    target = tmp_path_factory.mktemp("sweep") / "made" / "benchmark.json"
    root = Path(__file__).resolve().parents[2]
    done = sweep(root, target, "--measured", "forward,training")
    return done, target


def test_what_is_measured(swept):
    done, target = swept
    assert "4 failed, 8 passed" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
    records = load(target)
    measured = {(r.measured, r.point.num_ops, r.variant) for r in records if r.value}
    assert measured == {
        (step, ops, variant)
        for step in ("forward", "training")
        for ops in (1, 2)
        for variant in ("reference", "fast[eager]")
    }


def test_wrong_variant_is_reported_and_has_no_time(swept):
    done, target = swept
    assert "wrong-result is wrong and not measured: " in done.stdout
    wrong = [record for record in load(target) if record.variant == "wrong-result"]
    assert len(wrong) == 4
    assert all(record.status == "wrong" and record.value is None for record in wrong)


def test_entries_carry_their_conditions(swept):
    for entry in json.loads(swept[1].read_text())["benchmarks"]:
        info = entry["extra_info"]
        assert {"sizes", "machine", "versions", "date", "measured", "variant", "gate"} <= info.keys()
        assert info["gate"]["passed"]
        assert info["gate"]["error"] <= info["gate"]["allowed"]
        assert len(entry["stats"]["data"]) == entry["stats"]["rounds"] >= 3
        assert "recorded_time" in entry["options"]["timer"]


def test_report(swept, tmp_path):
    assert report.main([str(swept[1]), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "benchmark.md").read_text()
    assert "| 2 | `fast[eager]` |" in text
    assert "**wrong**" in text
    assert "- `wrong-result`, training, K = 2, float32: **wrong**. " in text
    assert "- Spread: " in text
    assert "N = 9" in text
    assert "1 thread, cpu" in text
    assert "torch " in text
    for name in ("forward.png", "training.png"):
        assert f"]({name})" in text
        assert (tmp_path / name).read_bytes().startswith(PNG)


def test_memory_is_swept(root, tmp_path):
    target = tmp_path / "benchmark.json"
    done = sweep(root, target, "--measured", "memory", "--num-ops", "2", "--variants", "wrong-result,fast[eager]")
    assert "1 failed, 1 passed" in done.stdout, done.stdout[-3000:]
    by_variant = {record.variant: record for record in load(target)}
    assert by_variant["fast[eager]"].value > 0
    assert by_variant["wrong-result"].status == "wrong"
    report.main([str(target), "--out", str(tmp_path)])
    assert (tmp_path / "memory.png").read_bytes().startswith(PNG)


def test_a_variant_that_cannot_run_is_skipped_with_the_reason(root, tmp_path):
    done = sweep(root, tmp_path / "benchmark.json", "--variants", "fast[nowhere]", "-rs")
    assert "fast[nowhere]: no such backend" in done.stdout
