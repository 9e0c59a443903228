"""The replicas of `nn.DataParallel`, on the CPU."""

from __future__ import annotations

import importlib


def replicas(module, factors, monkeypatch):
    """What `nn.DataParallel` computes with, on the CPU: the copies of the tensors differ by these factors."""
    code = importlib.import_module("torch.nn.parallel.replicate")
    monkeypatch.setattr(code, "_get_device_index", lambda device, optional: device)
    monkeypatch.setattr(
        code,
        "_broadcast_coalesced_reshape",
        lambda tensors, devices, detach: [[f * t for t in tensors] for f in factors],
    )
    return code.replicate(module, list(range(len(factors))))
