"""Two processes train as one does: see `trained_together.py`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from iprm.vqa.training.config import configuration
from iprm.vqa.training.distributed import Ranks
from iprm.vqa.training.run import _shared_out, train

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
CASES = {
    "fast": [],
    "more pieces than processes": ["training.pieces=4", "training.dtype=bfloat16"],
    "weights without gradients": ["model.reasoner=question_only", "training.weight_decay=0.1"],
}


@pytest.fixture(scope="module")
def configs(clevr, tmp_path_factory):
    """The configurations that are trained in two processes, each in a folder of its own below `together`."""
    folder = tmp_path_factory.mktemp("together")
    sizes = ["model.iprm.dim=8", "model.iprm.num_ops=2", "model.iprm.num_steps=2", "training.batch_size=9"]
    steps = ["training.steps=12", "training.evaluate_every=5", "training.checkpoint_every=6", "training.device=cpu"]
    shared = [*sizes, *steps, "data.source=clevr", f"data.folder={clevr}", "training.pieces=2"]
    return {name: configuration(None, [*shared, f"folder={folder / name}", *case]) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def together(configs, tmp_path_factory):
    """Train every configuration in two processes."""
    folder = tmp_path_factory.mktemp("meeting")
    paths = []
    for name, config in configs.items():
        paths.append(folder / f"{name}.yaml")
        OmegaConf.save(OmegaConf.structured(config), paths[-1])
    loopback = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | loopback | {"PYTHONPATH": path}
    program, rest = [sys.executable, str(HERE / "trained_together.py")], [str(folder / "file"), *map(str, paths)]
    said = (folder / "said.txt").open("w")
    ranks = []
    try:
        for rank in ("0", "1"):
            ranks.append(subprocess.Popen([*program, rank, *rest], env=environment, stdout=said, stderr=said))
        codes = ended(ranks, seconds=300)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
        said.close()
    assert codes == [0, 0], (folder / "said.txt").read_text()[-6000:]


def ended(ranks, seconds):
    """Return the exit codes once all have ended or one has failed, as it leaves the other waiting."""
    until = time.monotonic() + seconds
    while True:
        codes = [rank.poll() for rank in ranks]
        if None not in codes or any(codes) or time.monotonic() > until:
            return codes
        time.sleep(0.05)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one(configs, together, tmp_path, name):
    """Dropout included: the same pieces with the same seeds."""
    config = configs[name]
    alone = train(replace(config, folder=str(tmp_path)))
    found = train(config)  # finished: read from its folder
    assert found.result["conditions"]["processes"] == 2
    one, other = (load_file(Path(folder) / "checkpoint-00000012.safetensors") for folder in (tmp_path, config.folder))
    assert one.keys() == other.keys()
    torch.testing.assert_close(other["losses"], one["losses"], rtol=1e-5, atol=0)
    assert found.result["accuracy"] == pytest.approx(alone.result["accuracy"], abs=0.11)  # two questions of twenty
    assert len(list((Path(config.folder) / "tensorboard").iterdir())) == 1  # the leader's


def test_pieces_are_shared_out_evenly():
    config = configuration(None, ["training.pieces=3"])
    with pytest.raises(ValueError, match="pieces: expected a multiple of the 2 processes, got 3"):
        _shared_out(config, Ranks(1, 2))
    assert _shared_out(configuration(), Ranks(1, 2)).training.pieces == 2
