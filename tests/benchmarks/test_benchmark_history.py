"""A record keeps every sample and nothing private, and only whole runs of a commit are filed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import history


def written(folder: Path, **changed) -> Path:
    """What pytest-benchmark writes, in short."""
    machine = {"device": "Intel(R) Xeon(R) Processor (AVX512)", "cores": 2}
    content = {
        "machine_info": dict.fromkeys(history.MACHINE, "known") | {"node": "private-host"},
        "commit_info": {"id": "0123456789abcdef", "time": "2026-11-23", "dirty": False, "branch": "private-branch"},
        "benchmarks": [{"extra_info": {"machine": machine}, "stats": {"data": [0.5, 0.25]}}],
        "refused": [],
        "datetime": "2026-11-23T18:15:00.123456+00:00",
        "version": "5.0",
    }
    source = folder / "benchmark.json"
    source.write_text(json.dumps(content | changed))
    return source


def test_a_record_has_its_place_and_nothing_private(tmp_path):
    source = written(tmp_path)
    target = history.add(source, tmp_path / "records")
    folder = "intel-xeon-processor-avx512-2-cores"
    assert target == tmp_path / "records" / folder / "20261123-181500-0123456789ab.json"
    assert "private" not in target.read_text()
    assert json.loads(target.read_text())["benchmarks"] == json.loads(source.read_text())["benchmarks"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"benchmarks": []}, "found none"),
        ({"refused": [{}]}, "got 1 refused"),
        ({"commit_info": {"id": "0" * 40, "dirty": True}}, "expected a run of a commit"),
    ],
)
def test_what_is_no_finished_run_is_refused(tmp_path, capsys, changed, message):
    assert history.main([str(written(tmp_path, **changed))]) == 2
    assert message in capsys.readouterr().err
