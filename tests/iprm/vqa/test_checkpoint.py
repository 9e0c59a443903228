"""Checkpoints are whole or not there, and a training that is killed at any moment ends in the same bits."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from iprm.vqa.training import checkpoint
from iprm.vqa.training.checkpoint import newest_checkpoint, save_checkpoint
from iprm.vqa.training.config import configuration
from iprm.vqa.training.run import train
from iprm.vqa.training.trainer import Trainer

TENSORS = {"weight": torch.arange(6.0).view(2, 3).T, "step": torch.tensor(3)}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_loaded(tmp_path):
    save_checkpoint(tmp_path, 7, TENSORS, {"words": ["é", "b"], "loss": 0.1}, keep=1)
    tensors, record = newest_checkpoint(tmp_path)
    assert record == {"words": ["é", "b"], "loss": 0.1}
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_the_newest_are_kept(tmp_path):
    (tmp_path / "notes.safetensors").write_text("not ours")
    for step in (90, 100, 110):
        save_checkpoint(tmp_path, step, TENSORS, {"step": step}, keep=2)
    assert names(tmp_path) == [
        "checkpoint-00000100.safetensors",
        "checkpoint-00000110.safetensors",
        "notes.safetensors",
    ]
    assert newest_checkpoint(tmp_path)[1] == {"step": 110}


@pytest.mark.parametrize("size", [0, 7, 40, -1])
def test_a_torn_checkpoint_is_passed_over(tmp_path, size):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, TENSORS, {"step": step}, keep=2)
    newest = tmp_path / "checkpoint-00000002.safetensors"
    newest.write_bytes(newest.read_bytes()[:size])
    assert newest_checkpoint(tmp_path)[1] == {"step": 1}


def test_no_checkpoint(tmp_path):
    assert newest_checkpoint(tmp_path) is None


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, TENSORS, {"step": 1}, keep=1)

    def full(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(tmp_path, 2, TENSORS, {"step": 2}, keep=1)
    assert newest_checkpoint(tmp_path)[1] == {"step": 1}


def settings(data, out):
    sizes = ["model.iprm.dim=8", "model.iprm.num_ops=2", "model.iprm.num_steps=2", "training.batch_size=8"]
    often = ["training.steps=50", "training.evaluate_every=20", "training.checkpoint_every=2", "training.device=cpu"]
    return [*sizes, *often, "data.source=clevr", f"data.folder={data}", f"folder={out}"]


def child(overrides, made, dies_at_call, dies_at_write):
    """Train in a process of its own; leave in `made` how many calls and returns of functions the steps took.

    Where given, it dies with one of these, or where it would write to the disk for the `dies_at_write`th time.
    """
    calls, writes = itertools.count(), itertools.count(1)

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def fsync(descriptor, real=os.fsync):
        if next(writes) == dies_at_write:
            die()
        real(descriptor)

    def update(*args, real=Trainer.update):
        sys.setprofile(lambda *_: next(calls) == dies_at_call and die())
        real(*args)

    checkpoint.os.fsync, Trainer.update = fsync, update
    train(configuration(None, overrides))
    sys.setprofile(None)
    made.value = next(calls)


@pytest.fixture(scope="module")
def forks():
    """Processes forked from one that has loaded what training needs and computed nothing."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("needs fork")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["iprm.vqa.training.run", "torch._dynamo", "torch.utils.tensorboard"])
    return context


@pytest.fixture(scope="module")
def whole(forks, clevr, tmp_path_factory):
    """The last checkpoint of a training that nothing stopped, and how many calls its steps took."""
    folder = tmp_path_factory.mktemp("whole")
    made = forks.Value("q")
    assert run(forks, clevr, folder, made) == 0
    return last(folder), made.value


def run(forks, data, folder, made=None, dies_at_call=None, dies_at_write=None):
    """Train in a process and return its exit code."""
    made = made or forks.Value("q")
    process = forks.Process(target=child, args=(settings(data, folder), made, dies_at_call, dies_at_write))
    process.start()
    process.join(120)
    hangs = process.is_alive()
    process.kill()
    process.join()
    assert not hangs
    return process.exitcode


def last(folder):
    found = load_file(folder / "checkpoint-00000050.safetensors")
    return {name: tensor for name, tensor in found.items() if name != "seconds"}


def test_killed_at_ten_random_moments(forks, clevr, whole, tmp_path):
    """Anywhere in Python's code; no life takes more than an eighth of the steps, and all ten together not all."""
    expected, calls = whole
    draw = random.Random(0).random
    for _ in range(10):
        assert run(forks, clevr, tmp_path, dies_at_call=int(draw() * calls / 8)) == -signal.SIGKILL
    assert len(newest_checkpoint(tmp_path)[0]["losses"]) > 10
    assert run(forks, clevr, tmp_path) == 0
    assert_close(last(tmp_path), expected, rtol=0, atol=0)


def test_killed_while_writing(forks, clevr, whole, tmp_path):
    """Each file reaches the disk, is renamed, and then its name reaches the disk; the first file is `config.json`."""
    for dies_at_write in (1, 2, 1, 2, 6, 5):
        assert run(forks, clevr, tmp_path, dies_at_write=dies_at_write) == -signal.SIGKILL
    assert any(name.endswith(".partial") for name in names(tmp_path))
    assert run(forks, clevr, tmp_path) == 0
    assert_close(last(tmp_path), whole[0], rtol=0, atol=0)
