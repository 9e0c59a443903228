"""The experiments: each one's short form from its command, what they measure on planted cases, and how they go on."""

import json

import numpy as np
import pytest
import torch

from iprm.vqa.data.examples import Question
from iprm.vqa.experiments import __main__ as command
from iprm.vqa.experiments import signs, steps
from iprm.vqa.experiments.forms import FORMS, overrides
from iprm.vqa.experiments.running import Results, Run, spread
from iprm.vqa.training.config import configuration


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Questions and trained models that the experiments share."""
    return tmp_path_factory.mktemp("work")


@pytest.mark.parametrize("name", command.EXPERIMENTS)
def test_short_form(name, work, tmp_path, monkeypatch, capsys):
    """Writes tables with spread over three seeds, figures and runs; asked again it trains nothing."""
    ask = [name, "--work", str(work), "--out", str(tmp_path)]
    assert command.main(ask) == 0
    found = json.loads((tmp_path / f"{name}.json").read_text())
    assert {run["seed"] for run in found["runs"].values()} == {0, 1, 2}
    text = (tmp_path / f"{name}.md").read_text()
    assert "±" in text
    assert f"python -m iprm.vqa.experiments {name} --form short" in text
    assert "nan" not in text
    pictures = list(tmp_path.glob("*.png"))
    assert pictures
    assert all(f"({picture.name})" in text for picture in pictures)
    monkeypatch.setattr(command, "finish", lambda runs, measure, results, *rest: check_finished(runs, results))
    assert command.main(ask) == 0
    assert (tmp_path / f"{name}.md").read_text() == text


def check_finished(runs, results):
    assert runs
    assert all(results.holds(run) for run in runs)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("name", command.EXPERIMENTS)
def test_every_run_has_a_configuration(name, form):
    runs = command.EXPERIMENTS[name].runs(form)
    assert len({run.name for run in runs}) == len(runs)
    assert len({run.folder for run in runs}) == len(runs)
    for run in runs:
        assert configuration(None, run.overrides).training.steps > 0


def test_results_go_on(tmp_path):
    run, other = Run("a", 0, ["training.steps=1"]), Run("a", 0, ["training.steps=2"])
    Results(tmp_path / "x.json").put(run, {"accuracy": {"overall": 0.5}})
    again = Results(tmp_path / "x.json")
    assert again.holds(run)
    assert not again.holds(other)  # another configuration is another run
    again.put_once({"ms": 3})
    assert Results(tmp_path / "x.json").once == {"ms": 3}
    assert again.of("a", lambda found: found["accuracy"]["overall"]) == [0.5]


def test_spread():
    assert spread([0.5, 0.7]) == "60.0 ± 14.1"
    assert spread([0.5]) == "50.0"
    assert spread([]) == "-"


def test_runs_with_one_configuration_share_a_folder():
    form = FORMS["short"]
    a, b = Run("x", 1, overrides(form)), Run("y", 1, overrides(form))
    assert a.folder == b.folder
    assert a.folder != Run("x", 2, overrides(form)).folder
    assert a.folder != Run("x", 1, overrides(form, training__lr=1.0)).folder


def test_attention_on_the_true_objects_is_found():
    """Attention that pays every program step in some slot is matched whole; attention elsewhere is not."""
    program = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]]).bool()
    functions = ["scene", "filter_color", "unique", "relate"]
    slots = torch.full((2, 2, 4), 0.0)
    slots[0, 1] = torch.tensor([0.5, 0.5, 0, 0])
    slots[1, 0] = torch.tensor([0, 1.0, 0, 0])
    slots[1, 1] = torch.tensor([0, 0, 0.25, 0.75])
    slots[0, 0, 0] = 1.0
    question = steps.Question(slots, program, functions, np.random.default_rng(0))
    assert question.kinds == ["filter", "unique", "relate"]
    np.testing.assert_allclose(question.shares, 1.0)
    assert question.chance.mean() < 0.9
    blind = steps.Question(torch.full((2, 2, 4), 0.25), program, functions, np.random.default_rng(0))
    np.testing.assert_allclose(blind.shares, [0.5, 0.25, 0.5])
    np.testing.assert_allclose(blind.chance, blind.shares)  # no permutation changes what a uniform glance sees


def test_a_slot_is_matched_once():
    slot, share = steps.matched(np.array([[1.0, 0.0]]), np.array([[True, False], [True, False], [False, True]]))
    assert sorted(slot) == [-1, -1, 0]
    assert share.sum() == 1.0


def test_entropy_of_uniform_and_of_certain_weights():
    K, W, T = 3, 1, 2
    columns = [K - 1 + K, K - 1 + K]
    uniform = torch.zeros(T, 2, K, K * (1 + W))
    for k in range(K):
        uniform[:, :, k] = 1 / columns[0]
        uniform[:, :, k, k] = 0.0
    torch.testing.assert_close(signs.entropy(uniform, W), torch.ones(T))
    certain = torch.zeros_like(uniform)
    certain[..., -1] = 1.0
    torch.testing.assert_close(signs.entropy(certain, W), torch.zeros(T))


def test_likeness():
    same = torch.randn(2, 1, 8).expand(2, 4, 8)
    torch.testing.assert_close(signs.likeness(same), torch.tensor(1.0))
    torch.testing.assert_close(signs.likeness(torch.eye(4)[None]), torch.tensor(0.0))


def node(function, inputs=(), values=()):
    return {"function": function, "inputs": list(inputs), "value_inputs": list(values)}


@pytest.mark.parametrize(
    ("filters", "contradicts"),
    [
        ([("filter_shape", "cube"), ("filter_shape", "sphere")], True),
        ([("filter_shape", "cube"), ("filter_color", "red"), ("filter_shape", "sphere")], True),
        ([("filter_shape", "cube"), ("filter_color", "red"), ("filter_shape", "cube")], False),
        ([("filter_shape", "cube"), ("filter_color", "red")], False),
    ],
)
def test_contradictions(filters, contradicts):
    program = [node("scene"), *(node(f, [i], [value]) for i, (f, value) in enumerate(filters))]
    program.append(node("exist", [len(filters)]))
    assert signs.contradicts_itself(Question("", "no", 0, program=program)) == contradicts


def test_filters_on_two_branches_do_not_contradict():
    program = [
        node("scene"), node("filter_shape", [0], ["cube"]), node("scene"), node("filter_shape", [2], ["sphere"]),
        node("union", [1, 3]), node("count", [4]),
    ]  # fmt: skip
    assert not signs.contradicts_itself(Question("", "2", 0, program=program))
