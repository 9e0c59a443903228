"""Checkpoints are whole or not there, and a training that is killed at any moment ends in the same bits."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from iprm.vqa.data.generate.files import Settings, write
from iprm.vqa.training import checkpoint
from iprm.vqa.training.checkpoint import newest_checkpoint, save_checkpoint
from iprm.vqa.training.config import configuration
from iprm.vqa.training.run import train

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


def child(overrides, begun, dies_at):
    """Train in a process of its own; it dies where it would write to the disk for the `dies_at`th time, if given."""
    writes = itertools.count(1)

    def fsync(descriptor, real=os.fsync):
        if next(writes) == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        real(descriptor)

    checkpoint.os.fsync = fsync
    begun.set()
    train(configuration(None, overrides))


@pytest.fixture(scope="module")
def forks():
    """Processes forked from one that has loaded what training needs and computed nothing."""
    if sys.platform == "win32":
        pytest.skip("needs fork")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["iprm.vqa.training.run", "torch._dynamo", "torch.utils.tensorboard"])
    return context


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clevr")
    write(folder, Settings(train_scenes=8, val_scenes=4, questions_per_scene=5))
    return folder


@pytest.fixture(scope="module")
def whole(forks, data, tmp_path_factory):
    """The last checkpoint of a training that nothing stopped, and how many seconds it took."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(forks, data, folder / "first") == 0  # starts the server
    start = time.perf_counter()
    assert run(forks, data, folder) == 0
    return last(folder), time.perf_counter() - start


def run(forks, data, folder, kill=None, dies_at=None):
    """Train in a process and return its exit code; `kill`: after so many seconds."""
    begun = forks.Event()
    process = forks.Process(target=child, args=(settings(data, folder), begun, dies_at))
    process.start()
    begun.wait()
    if kill is not None:
        time.sleep(kill)
        process.kill()
    process.join()
    return process.exitcode


def last(folder):
    found = load_file(folder / "checkpoint-00000050.safetensors")
    return {name: tensor for name, tensor in found.items() if name != "seconds"}


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_killed_at_ten_random_moments(forks, data, whole, tmp_path):
    expected, seconds = whole
    moments = random.Random(0)
    for _ in range(10):
        assert run(forks, data, tmp_path, kill=moments.uniform(0, seconds / 8)) == -signal.SIGKILL
    assert run(forks, data, tmp_path) == 0
    assert_same_bits(last(tmp_path), expected)


def test_killed_while_writing(forks, data, whole, tmp_path):
    """Each file reaches the disk, is renamed, and then its name reaches the disk; the first file is `config.json`."""
    for dies_at in (1, 2, 1, 2, 6, 5):
        assert run(forks, data, tmp_path, dies_at=dies_at) == -signal.SIGKILL
    assert any(name.endswith(".partial") for name in names(tmp_path))
    assert run(forks, data, tmp_path) == 0
    assert_same_bits(last(tmp_path), whole[0])
