"""Every option is validated with a message that names the field, the value and what is allowed."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
import torch

from iprm import IPRMConfig


def test_defaults_are_the_papers():
    c = IPRMConfig()
    assert (c.dim, c.num_ops, c.num_steps, c.window, c.reduction, c.reduced_dim) == (512, 6, 9, 2, 2, 256)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_ops": 0}, "num_ops: expected an integer of at least 1, got 0"),
        ({"window": -1}, "window: expected an integer of at least 0, got -1"),
        ({"reduction": 3}, "reduction: expected a divisor of dim = 512, got 3"),
        ({"op_init": "random"}, "op_init: expected one of 'learned', 'language', got 'random'"),
        ({"execution_activation": "swish"}, "execution_activation: expected one of 'identity', .*, got 'swish'"),
        ({"visual_dropout": 1.0}, r"visual_dropout: expected a rate in \[0, 1\), got 1.0"),
        ({"visual_dropout": float("nan")}, r"visual_dropout: expected a rate in \[0, 1\), got nan"),
        ({"operation_mlp": True}, "operation_mlp: expected False unless execution = 'simple', got True"),
    ],
)
def test_bad_value(changes, message):
    with pytest.raises(ValueError, match=message):
        IPRMConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 512.0}, r"dim: expected int, got 512.0 \(float\)"),
        ({"num_ops": True}, r"num_ops: expected int, got True \(bool\)"),
        ({"update": 1}, r"update: expected bool, got 1 \(int\)"),
        ({"readout": None}, r"readout: expected str, got None \(NoneType\)"),
        ({"visual_dropout": "0.1"}, r"visual_dropout: expected float, got '0.1' \(str\)"),
    ],
)
def test_bad_type(changes, message):
    with pytest.raises(TypeError, match=message):
        IPRMConfig(**changes)


def test_frozen_and_hashable():
    config = IPRMConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.dim = 3
    assert hash(config) == hash(IPRMConfig())


def test_without_dropout():
    config = IPRMConfig().without_dropout()
    assert not any(getattr(config, f.name) for f in dataclasses.fields(config) if f.name.endswith("dropout"))
    assert config.dim == 512


@pytest.mark.parametrize("options", [{}, {"execution": "simple", "operation_mlp": True, "dim": 64}])
def test_a_checkpoint_that_holds_one_loads_with_weights_only(options, tmp_path):
    config = IPRMConfig(**options)
    torch.save({"config": config, "model": {"weight": torch.ones(2)}}, tmp_path / "checkpoint.pt")
    loaded = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert loaded["config"] == config
    fresh = f"import torch, iprm; print(torch.load({str(tmp_path / 'checkpoint.pt')!r}, weights_only=True)['config'])"
    printed = subprocess.run([sys.executable, "-c", fresh], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == repr(config)
