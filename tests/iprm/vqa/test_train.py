"""The training command end to end, tiny: what it writes, how it goes on, how it refuses."""

import json
import math
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.testing import assert_close

from iprm import train as command
from iprm.config import RATES
from iprm.vqa.data.generate.files import Settings, write
from iprm.vqa.models.reasoners import REASONERS
from iprm.vqa.training import config as configurations
from iprm.vqa.training.checkpoint import held, newest_checkpoint, save_checkpoint
from iprm.vqa.training.config import configuration
from iprm.vqa.training.run import accuracy, load_trained, open_split, train, untrained
from iprm.vqa.training.trainer import Schedule, Trainer

TINY = [
    "model.iprm.dim=8",
    "model.iprm.num_ops=2",
    "model.iprm.num_steps=2",
    "training.steps=12",
    "training.batch_size=8",
    "training.evaluate_every=5",
    "training.checkpoint_every=4",
    "training.device=cpu",
    "data.source=clevr",
]


@pytest.fixture
def arguments(clevr, tmp_path):
    return [*TINY, f"data.folder={clevr}", f"folder={tmp_path / 'out'}"]


def weights(folder, step=12):
    """All that a checkpoint holds but the times."""
    return {k: v for k, v in load_file(folder / f"checkpoint-{step:08}.safetensors").items() if k != "seconds"}


def points(folder, tag):
    """What TensorBoard shows; it sorts files by name, and of one second the tenth before the ninth."""
    files = sorted((folder / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    for number, path in enumerate(files):
        path.rename(path.with_name(f"events.out.tfevents.{number:010}"))
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


class Killed(Exception):
    pass


def stop_at(monkeypatch, step, stop):
    """Have `stop` called in the middle of a step, once."""
    update = Trainer.update

    def stopping(trainer, *args):
        if trainer.steps == step:
            monkeypatch.setattr(Trainer, "update", update)
            stop()
        update(trainer, *args)

    monkeypatch.setattr(Trainer, "update", stopping)


def kill():
    raise Killed


@pytest.mark.parametrize("reasoner", REASONERS)
def test_every_reasoner_trains_and_is_loaded(arguments, tmp_path, reasoner, capsys):
    assert command.main([*arguments, f"model.reasoner={reasoner}"]) == 0
    out = capsys.readouterr().out
    assert "step 5: validation accuracy" in out
    assert "prior" in out
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert [evaluation["step"] for evaluation in result["history"]] == [5, 10, 12]
    assert result["steps"] == 12
    assert result["conditions"]["threads"] == 1
    assert (result["conditions"]["kernels"] is not None) == (reasoner == "fast")
    assert {"overall", *result["priors"]["kind"]} == set(result["accuracy"])
    trained = load_trained(tmp_path / "out")
    assert trained.result == result
    split = open_split(trained.config, "val", trained.vocabularies)
    assert accuracy(trained, split) == result["accuracy"]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    kept = {"checkpoint-00000008.safetensors", "checkpoint-00000012.safetensors"}
    assert names == {"config.json", "lock", "result.json", "tensorboard"} | kept


def test_a_training_that_broke_off_goes_on_with_the_same_bits(arguments, tmp_path, monkeypatch):
    config = configuration(None, arguments)
    whole = train(replace(config, folder=str(tmp_path / "whole")))
    for step in (2, 6, 11):  # before the first checkpoint, and after later ones
        stop_at(monkeypatch, step, kill)
        with pytest.raises(Killed):
            train(config)
    broken = train(config)
    assert_close(weights(whole.folder), weights(broken.folder), rtol=0, atol=0)
    for key in ("accuracy", "history", "final_loss"):
        assert broken.result[key] == whole.result[key]
    for tag in ("training/loss", "training/lr", "training/gradient_norm", "accuracy/overall"):
        assert points(broken.folder, tag) == points(whole.folder, tag)
    assert [step for step, _ in points(whole.folder, "training/loss")] == [4, 5, 8, 10, 12]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_goes_on(arguments, tmp_path, monkeypatch, capsys, number):
    whole = train(configuration(None, [*arguments, f"folder={tmp_path / 'whole'}"]))
    handler = signal.getsignal(number)
    stop_at(monkeypatch, 6, lambda: signal.raise_signal(number))
    assert command.main(arguments) == 130
    assert capsys.readouterr().err == (
        f"interrupted: stopped after step 7; the same command goes on from {tmp_path / 'out'}\n"
    )
    assert signal.getsignal(number) is handler
    assert (tmp_path / "out" / "checkpoint-00000007.safetensors").exists()
    assert command.main(arguments) == 0
    assert_close(weights(whole.folder), weights(tmp_path / "out"), rtol=0, atol=0)


def test_a_finished_training_is_not_made_again(arguments, tmp_path, monkeypatch):
    first = train(configuration(None, arguments))
    stop_at(monkeypatch, 0, kill)
    assert train(configuration(None, arguments)).result == first.result


def test_another_configurations_folder_is_refused(arguments, tmp_path, capsys):
    train(configuration(None, arguments))
    assert command.main([*arguments, "training.lr=0.5"]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'out'}: holds a training with training.lr = 0.001, not 0.5; choose another folder\n"
    )


def test_two_trainings_in_one_folder(arguments, tmp_path, monkeypatch):
    stop_at(monkeypatch, 3, lambda: train(configuration(None, arguments)))
    with pytest.raises(ValueError, match="out: another process is training in it"):
        train(configuration(None, arguments))


def test_a_folder_is_claimed_by_who_holds_it(arguments, tmp_path):
    with held(tmp_path / "out"), pytest.raises(ValueError, match="out: another process is training in it"):
        train(configuration(None, arguments))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["lock"]


def test_a_checkpoint_of_another_configuration_is_refused(arguments, tmp_path, monkeypatch):
    """The configuration's own file was lost."""
    stop_at(monkeypatch, 6, kill)
    with pytest.raises(Killed):
        train(configuration(None, arguments))
    (tmp_path / "out" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"out: holds a training with training.lr = 0.001, not 0.5"):
        train(configuration(None, [*arguments, "training.lr=0.5"]))


def test_a_model_of_other_kernels_is_loaded_for_those_that_are_here(arguments, tmp_path):
    """A folder that was trained on a GPU."""
    trained = train(configuration(None, arguments))
    state, record = newest_checkpoint(tmp_path / "out")
    record["config"]["model"]["backend"] = "cuda"
    save_checkpoint(tmp_path / "out", 13, state, record, keep=1)
    there = load_trained(tmp_path / "out")
    assert there.config.model.backend == "cuda"
    split = open_split(there.config, "val", there.vocabularies)
    assert accuracy(there, split) == trained.result["accuracy"]
    assert accuracy(replace(there, model=untrained(there)), split)


def test_kernels_that_cannot_run_are_refused_before_data_are_read(arguments, tmp_path, capsys):
    assert command.main([*arguments, "model.backend=cuda", "data.folder=nowhere"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: model.backend: backend 'cuda' cannot run recurrence for float32 on cpu: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_other_data_than_before(arguments, tmp_path, monkeypatch):
    """The folder's files were changed under a training."""
    clevr = tmp_path / "clevr"
    there = [*arguments, f"data.folder={clevr}"]
    write(clevr, Settings(train_scenes=8, val_scenes=4, questions_per_scene=5))
    stop_at(monkeypatch, 6, kill)
    with pytest.raises(Killed):
        train(configuration(None, there))
    write(clevr, Settings(seed=1, train_scenes=2, val_scenes=4, questions_per_scene=5))
    with pytest.raises(ValueError, match=r"clevr: holds other data than .*out was trained on"):
        train(configuration(None, there))


def test_training_ends_when_accuracy_stays(arguments, monkeypatch):
    patient = [*arguments, "training.lr=1e-12", "training.patience=1", "training.evaluate_every=2"]
    stop_at(monkeypatch, 3, kill)  # the second evaluation is told from the first across a break
    with pytest.raises(Killed):
        train(configuration(None, patient))
    trained = train(configuration(None, patient))
    assert trained.result["steps"] == 4
    assert len(trained.result["history"]) == 2


def test_bfloat16(arguments, tmp_path):
    plain = train(configuration(None, [*arguments, f"folder={tmp_path / 'plain'}"]))
    short = train(configuration(None, [*arguments, "training.dtype=bfloat16"]))
    assert short.result["conditions"]["dtype"] == "bfloat16"
    one, other = weights(plain.folder), weights(short.folder)
    assert {name: tensor.dtype for name, tensor in one.items()} == {name: t.dtype for name, t in other.items()}
    assert not torch.equal(one["losses"], other["losses"])
    assert_close(one["losses"], other["losses"], rtol=2e-2, atol=0)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_pieces_of_a_batch_make_its_gradient(arguments, tmp_path, rate):
    """Each piece has dropout of its own; without dropout the cut changes nothing but rounding."""
    rates = [f"model.iprm.{name}={rate}" for name in RATES if "attention" not in name]
    losses = []
    for pieces in (1, 3):
        cut = [f"training.pieces={pieces}", f"folder={tmp_path / str(pieces)}"]
        losses.append(weights(train(configuration(None, [*arguments, *rates, *cut])).folder)["losses"])
    largest = ((losses[0] - losses[1]) / losses[0]).abs().max()
    assert largest < 1e-5 if rate == 0 else largest > 1e-3


def test_what_is_zeroed_stays_zero(arguments):
    trained = train(configuration(None, [*arguments, "model.zeroed=[execution.We]"]))
    state = trained.model.reasoner.state_dict()
    assert not state["execution.We.weight"].any()
    assert not state["execution.We.bias"].any()
    assert state["execution.Wz.weight"].any()


def test_the_untrained_model_is_the_one_that_training_began_with(arguments, monkeypatch):
    begun = {}
    step = Trainer.update

    def look(trainer, *args):
        begun.update({name: value.clone() for name, value in trainer.model.state_dict().items() if not trainer.steps})
        step(trainer, *args)

    monkeypatch.setattr(Trainer, "update", look)
    assert_close(untrained(train(configuration(None, arguments))).state_dict(), begun, rtol=0, atol=0)


def test_accuracy_of_families(arguments):
    trained = train(configuration(None, arguments))
    split = open_split(trained.config, "val", trained.vocabularies)
    asked = Counter(question.family for question in split.questions)
    found = accuracy(trained, replace(split, families=[*split.families, "never asked"]))
    assert found == trained.result["accuracy"]
    assert set(found) == {"overall", *asked}
    assert sum(found[name] * count for name, count in asked.items()) / len(split) == pytest.approx(found["overall"])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["training.steps=0"], "training.steps: expected at least 1, got 0"),
        (["training.steps=many"], "training.steps: Value 'many' of type 'str' could not be converted to Integer"),
        (["training.step=3"], "training.step: Key 'step' not in 'TrainingConfig'"),
        (["training.lr=nan"], "training.lr: expected more than 0, got nan"),
        (["training.steps"], "training.steps: expected key=value"),
        (["training.seed=-1"], "training.seed: expected an integer from 0 to "),
        (["data.options=[1]"], "expected mappings and lists where the defaults have them"),
        (["training.warmup=2"], "training.warmup: expected a share of the steps, at most 1, got 2.0"),
        (["model.reasoner=quick"], "model.reasoner: expected one of 'reference', 'fast', "),
        (["model.backend=abacus"], "backend: expected one of 'auto', "),
        (["model.iprm.dim=big"], "model.iprm.dim: expected int, got 'big' (str)"),
        (["model.iprm.depth=3"], "model.iprm: expected one of 'dim', "),
        (["model.iprm.dim=9", "model.iprm.reduction=1"], "dim: expected an even number"),
        (["model.zeroed=[execution.Wx]"], "model.zeroed: execution.Wx: "),
        (["training.batch_size=999"], "batch size: expected at most the 40 training questions, got 999"),
        (["training.pieces=9"], "training.pieces: expected at most training.batch_size = 8, got 9"),
        (["data.source=atlas"], "source: expected one of "),
        (["data.folder=nowhere"], "nowhere: expected a folder"),
        (["data.val=test"], "CLEVR_test_questions.json"),
        (["data.options.colour=red"], "source clevr: got an unexpected keyword argument 'colour'"),
        (["nothing.yaml"], "nothing.yaml: expected a configuration in YAML: "),
        (["training.lr=1e30", "training.warmup=0"], "expected a finite loss, got "),
    ],
)
def test_bad_input_ends_in_one_line(arguments, tmp_path, monkeypatch, capsys, wrong, said):
    monkeypatch.chdir(tmp_path)
    files = [argument for argument in wrong if argument.endswith(".yaml")]
    assert command.main([*files, *arguments, *(argument for argument in wrong if argument not in files)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training: {steps: 3", "expected YAML, got "),
        ("- training", "expected the sections folder, data, model, training, got a list"),
        ("training: {speed: 3}", "training.speed: Key 'speed' not in 'TrainingConfig'"),
        ("training: {steps: -1}", "training.steps: expected at least 1, got -1"),
        ("training: 3", "Merge error"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, text, said):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"wrong\.yaml: ") as error:
        configuration(path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_overrides_come_before_the_file_and_the_file_before_defaults(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text("training: {steps: 5, lr: 1e-4}\nmodel: {iprm: {dim: 32}}\n")
    config = configuration(path, ["training.steps=6"])
    assert config.training.steps == 6
    assert config.training.lr == 1e-4
    assert config.training.batch_size == configuration().training.batch_size
    assert config.model.mechanism().dim == 32
    assert config.model.mechanism().num_ops == 4  # a default beside what the file says


def test_the_examples_are_configurations():
    folder = Path(configurations.__file__).parent / "configs"
    found = {path.name: configuration(path) for path in folder.glob("*.yaml")}
    assert found["clevr.yaml"].data.source == "clevr"


def test_the_rate_rises_and_falls():
    schedule = Schedule(steps=100, lr=2.0, warmup=0.1)
    rates = [schedule.rate(step) for step in range(100)]
    assert rates[9] == max(rates) == 2.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.01
    assert all(math.isfinite(Schedule(steps=n, lr=1.0, warmup=w).rate(0)) for n in (1, 10) for w in (0.0, 0.1, 1.0))
