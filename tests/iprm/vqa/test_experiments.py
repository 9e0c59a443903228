"""The experiments: each one's short form from its command, what they measure on planted cases, and how they go on."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from rich.console import Console

from iprm.config import IPRMConfig
from iprm.vqa.data.examples import Question
from iprm.vqa.experiments import __main__ as command
from iprm.vqa.experiments import running, signs, steps
from iprm.vqa.experiments.forms import FORMS, overrides
from iprm.vqa.experiments.running import Results, Run, of_family, spread
from iprm.vqa.training.checkpoint import held
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
    once = {"found": {str(K): {"training": 1.0 + 0.1 * K} for K in form.operations}}
    runs = command.EXPERIMENTS[name].runs(form, once)
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
    again.put_once({"ms": 3}, {"device": "cpu"})
    assert Results(tmp_path / "x.json").once["found"] == {"ms": 3}
    assert again.of("a", of_family("overall")) == [0.5]
    assert again.only([run]).runs == again.runs
    assert not again.only([other]).runs  # what is no longer asked for is in no table


def test_results_of_another_version_are_made_again(tmp_path, monkeypatch):
    run = Run("a", 0, ["training.steps=1"])
    results = Results(tmp_path / "x.json")
    results.put(run, {"accuracy": {"overall": 0.5}})
    results.put_once({"ms": 3}, {})
    folder = run.folder
    monkeypatch.setattr(running, "VERSION", running.VERSION + 1)
    assert not Results(tmp_path / "x.json").holds(run)
    assert not Results(tmp_path / "x.json").once
    assert run.folder != folder


def test_differences_are_taken_seed_by_seed(tmp_path):
    results = Results(tmp_path / "x.json")
    for variant, seed, share in (("a", 0, 0.5), ("a", 1, 0.75), ("b", 1, 0.5), ("b", 0, 0.125), ("b", 2, 0.9)):
        results.put(Run(variant, seed, []), {"accuracy": {"overall": share}})
    assert sorted(results.differences("a", "b", of_family("overall"))) == [0.25, 0.375]


def test_a_run_that_fails_ends_those_that_wait(tmp_path):
    form = FORMS["short"]
    runs = [Run("wrong", seed, overrides(form, training__batch_size=10**6)) for seed in range(20)]
    with pytest.raises(ValueError, match="batch size"):
        running.finish(runs, running.nothing, Results(tmp_path / "x.json"), tmp_path / "work", 2, Console(quiet=True))
    assert len(list((tmp_path / "work").glob("*/config.json"))) < 10  # two under way, three handed out
    assert not (tmp_path / "x.json").exists()


def is_training(work):
    """Whether processes train in two folders of `work`."""
    return len([folder for folder in work.glob("*") if (folder / "config.json").exists() and not is_free(folder)]) == 2


def is_free(folder):
    try:
        with held(folder):
            return True
    except ValueError:
        return False


def wait_until(holds, seconds):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_trainings_end_with_the_command(tmp_path):
    """Killed, it leaves no process that goes on training, so that it can be given again at once."""
    work = tmp_path / "work"
    ask = ["steps", "--form", "full", "--jobs", "2", "--work", str(work), "--out", str(tmp_path)]
    endless = "FORMS['full'] = dataclasses.replace(FORMS['short'], name='full', long_steps=10**6)"
    code = f"import dataclasses; from iprm.vqa.experiments.__main__ import FORMS, main; {endless}; main({ask})"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL) as parent:
        try:
            wait_until(lambda: is_training(work), 120)
        finally:
            parent.kill()
    wait_until(lambda: all(map(is_free, work.glob("*"))), 30)


def test_wrong_arguments_and_files_end_in_a_line(tmp_path, capsys):
    assert command.main(["steps", "--jobs", "0"]) == 2
    assert "--jobs: expected at least 1, got 0" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert command.main(["steps", "--work", str(tmp_path / "file"), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


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


def node(function, inputs=(), values=()):
    return {"function": function, "inputs": list(inputs), "value_inputs": list(values)}


PROGRAM = [node("scene"), node("filter_color", [0], ["red"]), node("unique", [1]), node("relate", [2], ["left"])]
OBJECTS = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]]).bool()


def test_attention_on_the_true_objects_is_found():
    """Attention that pays every program step in some slot is matched whole; attention elsewhere is not."""
    slots = torch.zeros(2, 2, 4)
    slots[0, 1] = torch.tensor([0.5, 0.5, 0, 0])
    slots[1, 0] = torch.tensor([0, 1.0, 0, 0])
    slots[1, 1] = torch.tensor([0, 0, 0.25, 0.75])
    slots[0, 0, 0] = 1.0
    question = steps.Question(slots, OBJECTS, PROGRAM, np.random.default_rng(0))
    assert question.kinds == ["filter", "unique", "relate"]
    np.testing.assert_allclose(question.shares, 1.0)
    assert question.chance.mean() < 0.9
    assert question.depths.tolist() == [3, 2, 1]  # of the sets in the order of their bits
    blind = steps.Question(torch.full((2, 2, 4), 0.25), OBJECTS, PROGRAM, np.random.default_rng(0))
    np.testing.assert_allclose(blind.shares, [0.5, 0.25, 0.5])
    np.testing.assert_allclose(blind.chance, blind.shares)  # no permutation changes what a uniform glance sees


def test_order_is_found():
    """Steps that are paid in the order of the program, one a step t."""
    slots = torch.zeros(3, 1, 4)
    slots[0, 0, :2], slots[1, 0, 1], slots[2, 0, 2:] = 0.5, 1.0, 0.5
    question = steps.Question(slots, OBJECTS, PROGRAM, np.random.default_rng(0))
    assert sorted(zip(question.depths.tolist(), question.times.tolist(), strict=True)) == [(1, 0), (2, 1), (3, 2)]
    assert steps.correlation(question.depths.tolist(), question.times.tolist()) == pytest.approx(1.0)


def test_steps_about_the_same_objects_are_matched_once():
    """So that no kind of step gets what others leave over."""
    program = [*PROGRAM[:3], node("query_size", [2])]
    objects = OBJECTS[[0, 2, 2, 2]]
    slots = torch.zeros(1, 2, 4)
    slots[0, 0, 1], slots[0, 1, 3] = 1.0, 1.0
    question = steps.Question(slots, objects, program, np.random.default_rng(0))
    assert question.kinds == ["filter", "unique", "query"]
    np.testing.assert_allclose(question.shares, 1.0)
    assert question.depths.tolist() == [1]


def test_depths_are_of_the_longest_chain():
    program = [node("scene"), node("unique", [0]), node("scene"), node("union", [1, 2])]
    assert steps.depths(program) == [0, 1, 0, 2]


def test_a_slot_is_matched_once():
    slot, share = steps.matched(np.array([[1.0, 0.0]]), np.array([[True, False], [False, True]]))
    assert sorted(slot) == [-1, 0]
    assert share.sum() == 1.0


@pytest.mark.parametrize("mask_self", [True, False])
def test_entropy_of_uniform_and_of_certain_weights(mask_self):
    """Of a window that is not yet full, too."""
    K, W, T = 3, 2, 3
    config = IPRMConfig(dim=4, num_ops=K, num_steps=T, window=W, mask_self=mask_self)
    uniform = torch.zeros(T, 2, K, K * (1 + W))
    for t in range(T):
        uniform[t, :, :, : K * (1 + min(W, t + 1))] = 1.0
        uniform[t, :, :, :K] -= mask_self * torch.eye(K)
    uniform /= uniform.sum(-1, keepdim=True)
    torch.testing.assert_close(signs.entropy(uniform, config), torch.ones(T))
    certain = torch.zeros_like(uniform)
    certain[..., -1] = 1.0
    torch.testing.assert_close(signs.entropy(certain, config), torch.zeros(T))


def test_likeness():
    same = torch.randn(2, 1, 8).expand(2, 4, 8)
    torch.testing.assert_close(signs.likeness(same), torch.tensor(1.0))
    torch.testing.assert_close(signs.likeness(torch.eye(4)[None]), torch.tensor(0.0))


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
