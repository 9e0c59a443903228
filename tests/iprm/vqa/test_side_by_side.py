"""The command end to end, tiny: two modules, one record."""

import json
import subprocess

import pytest
import torch

from iprm.config import IPRMConfig
from iprm.vqa.data.sources import source
from iprm.vqa.data.tensors import load
from iprm.vqa.models.answerer import InputSizes, QuestionAnswerer
from iprm.vqa.models.reasoners import VARIANTS, reasoner
from iprm.vqa.training import memory, report, side_by_side

TINY = [
    "--steps",
    "3",
    "--batch-size",
    "8",
    "--dim",
    "8",
    "--num-ops",
    "2",
    "--num-steps",
    "2",
    "--threads",
    "1",
]


def run(tmp_path, *extra):
    path = tmp_path / "record" / "train.json"
    code = side_by_side.main([*TINY, "--device", "cpu", "--no-memory", "--record", str(path), *extra])
    return code, json.loads(path.read_text()) if path.exists() else None


def test_generated_questions(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("CLEVR_DIR", raising=False)
    small = ["--train-scenes", "8", "--val-scenes", "3", "--questions-per-scene", "5"]
    code, record = run(tmp_path, "--cache", str(tmp_path / "cache"), *small)
    assert code == 0
    assert record["agreement"]["agrees"]
    assert record["agreement"]["relative_difference"] < 1e-4
    assert len(record["losses"]["reference"]) == len(record["losses"]["fast"]) == 3
    assert set(record["accuracy"]) == set(VARIANTS)
    assert "overall" in record["accuracy"]["fast"]
    assert set(record["priors"]) == {"answer", "family", "kind"}
    assert record["conditions"]["torch"] == torch.__version__
    assert record["conditions"]["dtype"] == "float32"
    assert record["config"]["product_dropout"] > 0
    assert "Validation accuracy" in capsys.readouterr().out


def test_a_folder_of_the_data_set(tmp_path, clevr, monkeypatch):
    monkeypatch.setenv("CLEVR_DIR", str(clevr))
    code, record = run(tmp_path, "--dtype", "float64", "--max-questions", "20")
    assert code == 0
    assert record["sizes"]["folder"] == str(clevr)
    assert record["sizes"]["train_questions"] == 20
    assert record["agreement"]["relative_difference"] < 1e-9


def test_disagreement_fails(tmp_path, clevr, capsys):
    code, record = run(tmp_path, "--clevr-dir", str(clevr), "--tolerance", "-1")
    assert code == 1
    assert not record["agreement"]["agrees"]
    assert "disagree" in capsys.readouterr().out


def test_missing_folder(tmp_path, capsys):
    code, record = run(tmp_path, "--clevr-dir", str(tmp_path / "nowhere"))
    assert code == 2
    assert record is None
    assert "nowhere: expected a folder" in capsys.readouterr().err


def test_wrong_steps(tmp_path, clevr, capsys):
    assert side_by_side.main(["--steps", "0", "--clevr-dir", str(clevr)]) == 2
    assert "--steps: expected at least 1, got 0" in capsys.readouterr().err


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_changes_no_answer(clevr, variant):
    data = load(source("clevr", clevr))
    torch.manual_seed(0)
    config = IPRMConfig(dim=8, num_ops=2, num_steps=2, op_init="language")
    sizes = InputSizes.of(data.train.source, data.vocabularies)
    model = QuestionAnswerer(reasoner(variant, config), 8, sizes).eval()
    rows = torch.arange(12)
    together = model(data.train.batch(rows))
    alone = torch.cat([model(data.train.batch(rows[i : i + 1])) for i in range(12)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_odd_width_is_refused():
    with pytest.raises(ValueError, match="dim: expected an even number"):
        QuestionAnswerer(reasoner("reference", IPRMConfig(dim=9, reduction=1)), 9, InputSizes(9, (5,), 3, 9))


def test_unknown_variant():
    with pytest.raises(ValueError, match=r"reasoner: expected one of reference, fast, .*, got 'quick'"):
        reasoner("quick", IPRMConfig())


def test_agreement():
    assert report.agreement([1.0, 2.0, 9.0], [1.0, 2.0, 1.0], steps=2) == 0
    assert report.agreement([1.0, 2.0], [1.0, 1.0]) == 0.5
    assert report.agreement([float("nan")], [1.0]) == float("inf")


def test_memory_of_a_fresh_process():
    config = IPRMConfig(dim=64, num_ops=4, num_steps=2)
    sizes = memory.Sizes(batch=8, words=6, objects=64)
    pair = 8 * 4 * 64 * 32 * 4  # bytes of one (B, K, N, R) tensor; the reference keeps several a step
    assert memory.measure("reference", config, sizes) > 4 * pair


def test_memory_says_why_it_failed(monkeypatch):
    broken = subprocess.CompletedProcess([], 1, stdout="", stderr="Traceback\nMemoryError: too much\n")
    monkeypatch.setattr(memory.subprocess, "run", lambda *args, **options: broken)
    sizes = memory.Sizes(batch=1, words=1, objects=1)
    with pytest.raises(RuntimeError, match=r"memory of fast: .*MemoryError: too much"):
        memory.measure("fast", IPRMConfig(dim=8), sizes)
