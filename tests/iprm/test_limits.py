"""What docs/limits.md says of everything around a call: exporters, tracing, threads, processes, quantisation."""

from __future__ import annotations

import copy
import os
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from pairs import inputs, pair, step
from replicas import replicas

from iprm import IPRMConfig, fast

ROOT = Path(__file__).resolve().parents[2]
CONFIG = IPRMConfig(dim=8, num_ops=2, num_steps=2)
FAST = 1


@pytest.fixture(params=[0, FAST], ids=["reference", "fast"])
def model(request):
    return pair(CONFIG)[request.param].eval()


def arguments(**sizes):
    return tuple(inputs(CONFIG, masked=True, **sizes))


def test_export_with_dynamic_sizes(model, tmp_path):
    """Saved and loaded again, for other numbers of samples and tokens."""
    B, L, N = (torch.export.Dim(name, min=2) for name in "BLN")
    shapes = ({0: B, 1: L}, {0: B}, {0: B, 1: N}, {0: B, 1: L}, {0: B, 1: N})
    torch.export.save(torch.export.export(model, arguments(), dynamic_shapes=shapes), tmp_path / "iprm.pt2")
    loaded = torch.export.load(tmp_path / "iprm.pt2").module()
    args = arguments(B=5, L=9, N=11)
    torch.testing.assert_close(loaded(*args), model(*args))


@pytest.mark.parametrize("config", [CONFIG, CONFIG.without_dropout()], ids=["dropout", "plain"])
@pytest.mark.parametrize("memory", ["auto", "least", "fast"])
def test_training_with_dynamic_sizes(memory, config):
    """At sizes where a call of its own with "auto" keeps pairs, keys alone, or neither: one program for all."""
    model = fast.IPRM(config, memory=memory).double().train()
    N = torch.export.Dim("N", min=2)
    shapes = (None, None, {1: N}, None, {1: N})
    args = arguments(N=20)
    program = torch.export.export(model, args, dynamic_shapes=shapes).module()
    for tokens in (2, 5, 60, 700):
        args = arguments(N=tokens)
        grads = []
        for run in (program, model):
            torch.manual_seed(3)
            grads.append(torch.autograd.grad(run(*args).square().sum(), list(run.parameters())))
        torch.testing.assert_close(*grads)


def test_export_of_training(model):
    """With its dropout: the masks are drawn when the exported program runs."""
    args = arguments()
    exported = torch.export.export(model.train(), args).module()
    torch.manual_seed(3)
    want = model(*args)
    torch.manual_seed(3)
    torch.testing.assert_close(exported(*args), want)


def test_aot_inductor(tmp_path, inductor):
    model, args = pair(CONFIG)[FAST].eval(), arguments()
    package = torch._inductor.aoti_compile_and_package(
        torch.export.export(model, args), package_path=str(tmp_path / "iprm.pt2")
    )
    torch.testing.assert_close(torch._inductor.aoti_load_package(package)(*args), model(*args))


def test_onnx():
    """The reference is exported; the fast module's ops are not ONNX's, and torch names the first of them."""
    pytest.importorskip("onnxscript", reason="torch's ONNX exporter needs onnxscript")
    reference, fast = pair(CONFIG)
    args = arguments()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(reference.eval(), args, dynamo=True)
        with pytest.raises(Exception, match=r"ONNX"):
            torch.onnx.export(fast.eval(), args, dynamo=True)


@pytest.mark.filterwarnings("ignore")
def test_jit(model):
    """Traced it runs, for the sizes that it was traced with; scripted it is refused by torch."""
    args = arguments()
    torch.testing.assert_close(torch.jit.trace(model, args)(*args), model(*args))
    with pytest.raises(torch.jit.frontend.NotSupportedError, match="variable number of arguments"):
        torch.jit.script(model)


@pytest.mark.filterwarnings("ignore")
def test_dynamic_quantisation():
    """Quantised layers are called, as in the reference."""
    reference, fast = (
        torch.ao.quantization.quantize_dynamic(copy.deepcopy(m).float().eval(), {torch.nn.Linear}) for m in pair(CONFIG)
    )
    args = [a.float() if a.is_floating_point() else a for a in arguments()]
    torch.testing.assert_close(fast(*args), reference(*args), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("train", [False, True])
def test_data_parallel(model, train, monkeypatch):
    """Each replica computes with its own copies, here scaled so that they differ."""
    args, found = arguments(), []
    model.train(train)
    state = {name: p.detach() for name, p in model.named_parameters()}
    for factor, replica in zip((0.5, 0.3), replicas(model, (0.5, 0.3), monkeypatch), strict=True):
        torch.manual_seed(3)
        want = torch.func.functional_call(model, {name: factor * p for name, p in state.items()}, args)
        torch.manual_seed(3)
        torch.testing.assert_close(replica(*args), want)
        found.append(want)
    assert not torch.allclose(*found)


@pytest.mark.parametrize("train", [False, True])
def test_threads_share_a_module(model, train):
    """Calls from several threads at once; each forward draws its own dropout seed, so evaluation is compared, and
    training runs."""
    model.train(train)
    calls = [arguments(B=b) for b in (1, 2, 3, 4)] * 8
    with torch.no_grad():
        want = [model(*args) for args in calls]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda args: model(*args), calls))
    for a, b in zip(got, want, strict=True):
        assert a.isfinite().all()
        if not train:
            torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore")
def test_fork(model):
    """In a forked process with one thread, as data loaders' workers are; OpenMP's threads do not survive a fork."""
    args = arguments()
    want = model(*args)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            torch.set_num_threads(1)
            status = 0 if torch.allclose(model(*args), want) else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def test_denormals_are_flushed_by_the_calling_thread_alone(threads):
    """torch.set_flush_denormal sets a flag of the calling thread: with several threads the results of one and the same
    call differ, but by no more than the numbers that are flushed."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormal numbers")
    try:
        model = pair(CONFIG, torch.float32)[FAST]
        args = inputs(CONFIG, B=8, L=11, N=150)
        args[2] = args[2] * 1e-37  # products of the tokens are denormal
        runs = []
        for count in (1, 2):
            threads(count)
            runs.append(step(model, args, False))
    finally:
        torch.set_flush_denormal(False)
    for name, want in runs[0].items():
        scale = want.abs().max().clamp_min(torch.finfo(torch.float32).tiny * 1e4)
        assert (runs[1][name] - want).abs().max() <= 1e-4 * scale, name


def test_every_row_of_the_page_names_a_test_that_exists():
    """docs/limits.md: each row ends with a test, as `file.py::test`."""
    rows = [line for line in (ROOT / "docs" / "limits.md").read_text().splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith(("| | ", "| ---"))]
    sources = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    assert len(rows) >= 20
    for row in rows:
        found = re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", row)
        assert found, row
        for file, test in found:
            assert file in sources, row
            assert not test or f"def {test}(" in sources[file], row
