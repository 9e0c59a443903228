"""The precision of float32 products is read under the older and the newer switches of PyTorch, whichever was set."""

from __future__ import annotations

import pytest
import torch

from iprm_kernels.precision import float32_products

MATMUL = torch.backends.cuda.matmul
NEWER = hasattr(MATMUL, "fp32_precision")
newer = pytest.mark.skipif(not NEWER, reason="this torch has the older switches alone")


@pytest.fixture(autouse=True)
def restored():
    """The older switches first: setting them sets the newer ones."""
    places = (torch.backends, MATMUL, torch.backends.mkldnn.matmul) if NEWER else ()
    before, older = [place.fp32_precision for place in places], torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(older)
    for place, precision in zip(places, before, strict=True):
        place.fp32_precision = precision
    assert torch.get_float32_matmul_precision() == older


def test_nothing_is_rounded_by_default():
    assert float32_products("cuda") == float32_products("cpu") == "ieee"


@pytest.mark.parametrize(("allowed", "want"), [(True, "tf32"), (False, "ieee")])
def test_the_older_switch(allowed, want):
    MATMUL.allow_tf32 = allowed
    assert float32_products("cuda") == want


@pytest.mark.parametrize(
    ("name", "cuda", "cpu"), [("highest", "ieee", "ieee"), ("high", "tf32", "tf32"), ("medium", "tf32", "bf16")]
)
def test_the_older_name(name, cuda, cpu):
    torch.set_float32_matmul_precision(name)
    assert (float32_products("cuda"), float32_products("cpu")) == (cuda, cpu)


@newer
@pytest.mark.parametrize("precision", ["tf32", "ieee"])
def test_the_newer_switch(precision):
    MATMUL.fp32_precision = precision
    assert float32_products("cuda") == precision
    assert float32_products("cpu") == "ieee"


@newer
def test_the_newer_switch_of_everything():
    torch.backends.fp32_precision = "tf32"
    assert float32_products("cuda") == "tf32"


@newer
def test_the_newer_switch_after_the_older():
    torch.set_float32_matmul_precision("high")
    MATMUL.fp32_precision = "ieee"
    assert float32_products("cuda") == "ieee"


@newer
@pytest.mark.parametrize("precision", ["tf32", "ieee"])
def test_the_triton_kernels_follow(precision):
    pytest.importorskip("triton.language")
    from iprm_kernels.backends.triton import launch

    MATMUL.fp32_precision = precision
    assert launch.precision(torch.float32) == precision
    assert launch.precision(torch.bfloat16) == "ieee"


@newer
def test_on_rocm_they_round_nothing(monkeypatch):
    pytest.importorskip("triton.language")
    from iprm_kernels.backends.triton import launch

    MATMUL.fp32_precision = "tf32"
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert launch.precision(torch.float32) == "ieee"


def test_older_versions_of_torch(monkeypatch):
    """Which have no newer switches at all."""

    class Older:
        allow_tf32 = True

    monkeypatch.setattr(torch.backends.cuda, "matmul", Older)
    assert float32_products("cuda") == "tf32"
    for name, want in {"highest": "ieee", "high": "tf32", "medium": "bf16"}.items():
        monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda name=name: name)
        assert float32_products("cpu") == want
    monkeypatch.undo()
