"""Which backend "auto" takes for a call on a card, and what it says of those passed over; the cards are faked."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace

import cuda_figures
import pytest
import torch
from test_registration import CASES
from torch._subclasses.fake_tensor import FakeTensorMode

import iprm_kernels
from iprm import IPRMConfig, fast
from iprm_kernels import backends, info
from iprm_kernels.backends import cuda, devices
from iprm_kernels.backends.calls import Call
from iprm_kernels.backends.triton import ops as triton_ops
from iprm_kernels.recurrence import _fake as recurrence_fake
from iprm_kernels.recurrence import _run as recurrence_op
from iprm_kernels.steps.kept import EVERYTHING
from iprm_kernels.steps.weights import Activations, Epsilons, Rates, flattened, options_of, unflattened

GPU = torch.device("cuda", 0)
FLOAT, HALF = torch.float32, torch.bfloat16
SHARED = {(7, 5): 64, (8, 0): 163, (8, 6): 99, (8, 9): 99, (9, 0): 227, (10, 0): 227, (12, 0): 99}
"""KB of shared memory of a block, by capability."""
SERVED = [capability for capability in SHARED if capability >= (8, 0)]
WIDEST = {99: {FLOAT: 544, HALF: 384}, 163: {FLOAT: 1056, HALF: 1408}, 227: {FLOAT: 1568, HALF: 2432}}
"""R of the CUDA kernels, by that memory."""


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("IPRM_CUDA_ON_HOST", "TRITON_INTERPRET"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def put(monkeypatch):
    """put(capability, triton=version): the card and the version of Triton that this machine seems to have."""

    def put(capability, triton=(3, 8)):
        monkeypatch.setattr(devices, "obstacle", lambda device: None)
        monkeypatch.setattr(devices, "card", lambda device: devices.Card(capability, 1024 * SHARED[capability], 132))
        monkeypatch.setattr(cuda, "load", lambda: (cuda_figures.Extension, None))
        monkeypatch.setattr(triton_ops, "_missing", lambda: None)
        monkeypatch.setattr(triton_ops, "version", lambda: triton)

    return put


def chosen(op: str, dtype: torch.dtype, **sizes) -> str:
    """What "auto" takes; all that stand before it have a reason, and raise with it when they are named."""
    call = Call(op, **sizes)
    taken = backends.select("auto", call, GPU, dtype)
    reasons = iprm_kernels.reasons(GPU, dtype, op, **sizes)
    name = next(name for name, reason in reasons.items() if reason is None)
    assert backends.BACKENDS[name] is taken
    for before in list(reasons)[: list(reasons).index(name)]:
        message = rf"backend '{before}' cannot run {op} for \w+ on cuda:0: {re.escape(reasons[before])}"
        with pytest.raises(RuntimeError, match=message):
            backends.select(before, call, GPU, dtype)
    return name


def test_the_table_of_cards():
    for (major, minor), kilobytes in SHARED.items():
        assert devices.shared_memory(10 * major + minor) == 1024 * kilobytes


@pytest.mark.parametrize("op", ["execution", "execution_backward"])
@pytest.mark.parametrize("dtype", [FLOAT, HALF])
@pytest.mark.parametrize("R", [256, 512, 1024])
@pytest.mark.parametrize("capability", SERVED)
def test_triton_serves_every_width(capability, R, dtype, op, put):
    """Its lists hold what fits on each card (test_ahead_of_time.py)."""
    put(capability)
    assert chosen(op, dtype, B=8, K=6, N=196, D=512, R=R) == "triton"


@pytest.mark.parametrize("op", ["execution", "execution_backward"])
@pytest.mark.parametrize("dtype", [FLOAT, HALF])
@pytest.mark.parametrize("R", [256, 512, 1024])
@pytest.mark.parametrize("capability", SERVED)
def test_without_a_triton_that_serves(capability, R, dtype, op, put):
    put(capability, triton=(3, 3))
    sizes = {"B": 8, "K": 6, "N": 196, "D": 512, "R": R}
    widest = WIDEST[SHARED[capability]][dtype]
    assert chosen(op, dtype, **sizes) == ("cuda" if widest >= R else "eager")
    reasons = iprm_kernels.reasons(GPU, dtype, op, **sizes)
    assert reasons["triton"] == "triton 3.3 is installed, and 3.4 is the least"
    if widest < R:
        name = str(dtype).removeprefix("torch.")
        shared = 1024 * SHARED[capability]
        assert reasons["cuda"] == f"R = {R}, of {widest} at most in {name} with {shared} bytes of shared memory a block"


@pytest.mark.parametrize("triton", [(3, 4), (3, 10), (4, 0)])
def test_later_versions_of_triton_serve(triton, put):
    put((9, 0), triton)
    assert chosen("composition", HALF, B=8, K=6, D=512, blocks=3) == "triton"


@pytest.fixture
def version():
    """The function that asks Triton for its version, with nothing remembered."""
    triton_ops.version.cache_clear()
    yield triton_ops.version
    triton_ops.version.cache_clear()


@pytest.mark.parametrize(("written", "read"), [("3.2.0", (3, 2)), ("3.10.1+git12ab", (3, 10)), ("3.4", (3, 4))])
def test_the_version_of_triton(written, read, version, monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(__version__=written))
    assert version() == read


def test_a_triton_that_does_not_load(version, put, monkeypatch):
    put((9, 0))
    monkeypatch.setattr(triton_ops, "version", version)
    monkeypatch.setitem(sys.modules, "triton", None)
    assert chosen("formation", HALF) == "cuda"
    assert iprm_kernels.reasons(GPU)["triton"].startswith("triton does not load: ")


def test_simple_execution_has_no_widest(put):
    put((8, 6), triton=(3, 2))
    assert chosen("execution_simple", HALF, B=8, K=6, N=196, D=512, R=4096) == "cuda"
    assert chosen("execution_simple_backward", HALF, B=8, K=6, N=196, D=512, R=4096) == "cuda"


@pytest.mark.parametrize("op", ["formation", "execution", "execution_simple", "composition", "dropout"])
def test_an_old_card_is_left_to_pytorch(op, put):
    put((7, 5))
    assert chosen(op, FLOAT) == "eager"
    reasons = iprm_kernels.reasons(GPU, FLOAT)
    assert reasons["triton"] == "the device has compute capability 7.5, and Triton compiles for 8.0 and later"
    assert reasons["cuda"] == "built for sm_80, sm_90, sm_100, compute_100, and the device is sm_75"


def test_float64_is_left_to_pytorch(put):
    put((9, 0))
    assert chosen("execution", torch.float64, R=256) == "eager"


@pytest.fixture
def rocm(monkeypatch, put):
    """rocm(card, triton=version): a torch built for ROCm with this card of AMD's; the CUDA kernels as on any other."""

    def rocm(name, triton=(3, 8)):
        obstacle, card = devices.obstacle, devices.card
        put((9, 0), triton)
        monkeypatch.setattr(devices, "obstacle", obstacle)
        monkeypatch.setattr(devices, "card", card)
        monkeypatch.setattr(torch.version, "hip", "6.4")
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "AMD Instinct")
        properties = SimpleNamespace(major=9, minor=4, multi_processor_count=304, gcnArchName=name)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)

    devices._card.cache_clear()
    yield rocm
    devices._card.cache_clear()


@pytest.mark.parametrize("name", ["gfx942:sramecc+:xnack-", "gfx950", "gfx1250"])
def test_on_rocm_triton_serves(name, rocm):
    rocm(name)
    for op in ("dropout", "formation", "execution", "execution_backward", "execution_simple", "composition_backward"):
        assert chosen(op, HALF, B=8, K=6, N=196, D=512, R=256, blocks=3) == "triton"
    assert chosen("execution", torch.float64) == "eager"
    reasons = iprm_kernels.reasons(GPU)
    assert reasons["cuda"] == "its kernels are for NVIDIA's cards, and torch is built for AMD's, ROCm 6.4"


def test_on_rocm_an_old_triton_is_passed_over(rocm):
    rocm("gfx942", triton=(3, 3))
    assert chosen("execution", HALF, R=256) == "eager"
    assert info.backend_states("cuda:0")["triton"] == "no: triton 3.3 is installed, and 3.4 is the least"


def test_on_rocm_info_says_that_nothing_ran(rocm):
    rocm("gfx942:sramecc+:xnack-")
    assert info.backend_states("cuda:0")["triton"].endswith("; on AMD's cards compiled ahead of time, never run")
    assert info.describe_device("cuda:0") == "cuda:0 (AMD Instinct, gfx942, 64 KB shared)"


@pytest.mark.parametrize(("name", "shared"), [("gfx942:sramecc+:xnack-", 64), ("gfx950", 160), ("gfx1100", 64)])
def test_a_card_of_amds_is_read_from_torch(name, shared, rocm):
    rocm(name)
    card = devices.card(GPU)
    assert (card.architecture, card.shared) == (name.partition(":")[0], 1024 * shared)


def test_without_a_card_nothing_runs_on_rocm(rocm, monkeypatch):
    rocm("gfx942")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert iprm_kernels.reasons(GPU)["triton"] == "torch finds no CUDA device"


def test_more_tokens_than_triton_numbers(put):
    put((9, 0))
    for op in ("execution", "execution_backward", "execution_simple", "execution_simple_backward"):
        assert chosen(op, HALF, B=1, K=1, N=2**24 - 1, R=256) == "triton"
        assert chosen(op, HALF, B=1, K=1, N=2**24, R=256) == "cuda"
    assert iprm_kernels.reasons(GPU, HALF, N=2**24)["triton"] == f"N = {2**24} visual tokens, of {2**24 - 1} at most"


@pytest.mark.parametrize("op", ["composition", "composition_backward"])
def test_a_longer_window_than_any_kernel_takes(op, put):
    put((9, 0))
    most = triton_ops.MOST_BLOCKS
    assert chosen(op, HALF, B=1, K=2, blocks=most) == "triton"
    assert chosen(op, HALF, B=1, K=2, blocks=most + 1) == ("cuda" if most < 64 else "eager")
    assert chosen(op, HALF, B=1, K=2, blocks=65) == "eager"
    reasons = iprm_kernels.reasons(GPU, HALF, op, blocks=65)
    assert reasons["triton"] == f"a window of 65 states, of {most} at most"
    assert reasons["cuda"] == "a window of 65 states, of 64 at most"


def recurrence_of(dtype: torch.dtype, K: int = 6, R: int = 256, window: int = 2) -> tuple:
    """The arguments of the op but for `keep` and the backend, on the card."""
    with torch.device("meta"):
        model = fast.IPRM(IPRMConfig(dim=512, num_ops=K, num_steps=1, window=window, reduction=512 // R))
    flat, maps = flattened(model._weights())
    flat = [torch.empty_like(t, dtype=dtype, device=GPU) for t in flat]
    O, E, X, V = (torch.empty(1, n, 512, dtype=dtype, device=GPU) for n in (K, K, 24, 196))
    options = (None, 1, window, True, ",".join(Activations()), [*Rates()], [*Epsilons()], 0)
    return (O, E, X, None, V, None, flat, maps, *options)


@pytest.fixture
def fake():
    """Tensors have no numbers, and may be on any device."""
    with FakeTensorMode():
        yield


@pytest.fixture
def runs(monkeypatch):
    """runs(arguments, keep, backend): the name of the backend that runs the recurrence."""
    for name, module in backends.BACKENDS.items():
        monkeypatch.setattr(module, "recurrence", lambda *_, name=name: (name,))
    return lambda arguments, keep, backend="auto": recurrence_op(*arguments, keep, backend)[0]


@pytest.mark.parametrize(("B", "name"), [(1, "cuda"), (512, "triton")])
def test_what_is_kept_is_that_of_the_backend_that_runs(B, name, put, fake, runs):
    """A compiler's trace makes as many tensors as the call will: with memory="fast" pairs on `triton` alone."""
    put((9, 0))
    O, E, X, _, V, _, *others, _ = recurrence_of(HALF)
    batch = [t.expand(B, *t.shape[1:]) for t in (O, E, X, V)]
    arguments = (*batch[:3], None, batch[3], None, *others, EVERYTHING)
    assert runs(arguments, True) == name
    traced, named = (recurrence_fake(*arguments, True, backend)[-1] for backend in ("auto", name))
    assert [t.shape for t in traced] == [t.shape for t in named]
    assert any(t.dim() == 5 for t in traced) == (name == "triton")


def not_at_once(arguments: tuple) -> str | None:
    O, _, X, _, _, _, flat, maps, _, *options = arguments
    return cuda.not_at_once(unflattened(flat, maps), options_of(*options), O, X)


@pytest.mark.parametrize("dtype", [FLOAT, HALF])
@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("capability", SHARED)
def test_all_steps_at_once(capability, window, dtype, put, fake, runs):
    """Without gradients, wherever the cuda backend can. K = 6, W = 2 takes 102,144 bytes, more than the 101,376 of the
    smaller cards: then, as with gradients, they are taken one by one."""
    put(capability)
    arguments, reason = recurrence_of(dtype, window=window), None
    if capability < (8, 0):
        reason = "built for sm_80, sm_90, sm_100, compute_100, and the device is sm_75"
    elif SHARED[capability] < 163 and window == 2:
        reason = (
            "all steps at once take 102144 bytes of shared memory a block with 18 columns of the window (K (1 + W)),"
            " and the device has 101376"
        )
    best, other = ("eager", "eager") if capability < (8, 0) else ("cuda", "triton")
    assert not_at_once(arguments) == reason
    assert runs(arguments, False) == runs(arguments, True) == best
    assert runs(arguments, False, other) == other


@pytest.mark.parametrize("op", ["recurrence", "recurrence_backward"])
@pytest.mark.parametrize(("dtype", "B"), [(HALF, 222), (FLOAT, 13)])
def test_the_host_decides_where_there_is_little_to_compute(dtype, B, op, put):
    """The walk in C++ serves small batches, forward and backward; many pairs, and a single core, Triton."""
    put((9, 0))
    sizes = {"K": 6, "N": 196, "R": 256}
    assert chosen(op, dtype, B=B, **sizes) == "cuda"
    assert chosen(op, dtype, B=B + 1, **sizes) == "triton"
    assert chosen("execution", dtype, B=B, **sizes) == "triton"
    put((9, 0), triton=(3, 3))
    assert chosen(op, dtype, B=B + 1, **sizes) == "cuda"


def test_all_steps_at_once_are_a_call_that_the_kernels_take(put, fake, runs):
    """What is too much for one of them is too much for all."""
    put((8, 9))
    for sizes, said in (
        ({"K": 2, "R": 512, "window": 1}, "R = 512, of 384 at most in bfloat16 with 101376 bytes of shared memory"),
        ({"K": 1, "window": 64}, "a window of 65 states, of 64 at most"),
    ):
        arguments = recurrence_of(HALF, **sizes)
        assert said in not_at_once(arguments)
        with pytest.raises(RuntimeError, match=f"'cuda' cannot run recurrence for bfloat16 on cuda:0: {said}"):
            runs(arguments, False, "cuda")
        assert runs(arguments, False) == runs(arguments, True) == ("triton" if "R" in sizes else "eager")


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="sizes: expected one of 'B', 'K', 'L', 'N', 'D', 'R', 'blocks', got 'r'"):
        iprm_kernels.reasons("cpu", r=512)


@pytest.fixture
def asked(monkeypatch):
    """The calls that the eager backend was asked about."""
    found = []
    eager = backends.BACKENDS["eager"]
    monkeypatch.setattr(eager, "unsupported", lambda device, dtype, call: found.append(call))
    return found


SIZES = {
    "formation": {"B": 2, "K": 3, "L": 5, "D": 4},
    "execution": {"B": 2, "K": 3, "N": 7, "R": 5, "D": 4},
    "execution_simple": {"B": 2, "K": 3, "N": 7, "R": 5, "D": 4},
    "composition": {"B": 2, "K": 3, "D": 4, "blocks": 2},
}


@pytest.mark.parametrize("op", CASES)
def test_a_backend_is_asked_about_the_call(op, asked):
    """Forward and backward, by the sizes of the tensors that came."""
    function, make, options = CASES[op]
    inputs = make()
    for value in inputs.values():
        for tensor in value if isinstance(value, list) else [value]:
            if tensor.is_floating_point():
                tensor.requires_grad_()
    out, *_ = function(**inputs, **options, backend="eager")
    out.sum().backward()
    assert asked == [Call(op, **SIZES[op]), Call(f"{op}_backward", **SIZES[op])]


def test_dropout_is_asked_about(asked):
    iprm_kernels.dropout(torch.ones(3), 0.5, torch.tensor([1]), 0, backend="eager")
    assert asked == [Call("dropout")]


def test_the_next_backend_runs_a_call_that_is_too_large(monkeypatch):
    """The cpu backend stands for any that refuses by size."""
    cpu = backends.BACKENDS["cpu"]
    monkeypatch.setattr(cpu, "unsupported", lambda device, dtype, call: f"R = {call.R}" if call.R > 4 else None)
    monkeypatch.setattr(cpu, "execution", lambda *args: pytest.fail("it was passed over"))
    core, make, _ = CASES["execution"]
    inputs = make()
    for got, want in zip(core(**inputs), core(**inputs, backend="eager"), strict=True):
        assert torch.equal(got, want)
    with pytest.raises(RuntimeError, match="backend 'cpu' cannot run execution for float64 on cpu: R = 5"):
        core(**{k: v.double() for k, v in inputs.items()}, backend="cpu")


@pytest.mark.parametrize("capability", SERVED)
def test_info_says_what_is_served(capability, put, monkeypatch):
    put(capability)
    states = info.backend_states("cuda:0")
    widest = WIDEST[SHARED[capability]]
    assert states["triton"].startswith("usable: any R; up to 16777215 visual tokens; windows of up to ")
    assert f"R up to {widest[FLOAT]} in float32, {widest[HALF]} in bfloat16" in states["cuda"]
    assert f"all steps at once with up to {12 if SHARED[capability] == 99 else 256} columns" in states["cuda"]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    major, minor = capability
    assert info.describe_device("cuda:0") == f"cuda:0 (a card, sm_{major}{minor}, {SHARED[capability]} KB shared)"


def test_info_says_why_not(put):
    put((7, 5), triton=(3, 2))
    states = info.backend_states("cuda:0")
    assert states["triton"].startswith("no: the device has compute capability 7.5")
    assert states["cuda"].startswith("no: built for sm_80")
    assert states["eager"] == "usable: any sizes"
    put((9, 0), triton=(3, 3))
    assert info.backend_states("cuda:0")["triton"] == "no: triton 3.3 is installed, and 3.4 is the least"


@pytest.mark.parametrize("tells", [True, False])
def test_a_card_is_read_from_torch(tells, monkeypatch):
    """By the table where torch does not tell the shared memory."""
    told = {"shared_memory_per_block_optin": 1000} if tells else {}
    properties = SimpleNamespace(major=8, minor=9, multi_processor_count=128, **told)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    devices._card.cache_clear()
    assert devices.card(GPU) == devices.Card((8, 9), 1000 if tells else 99 * 1024, 128)
    assert devices.card(GPU).architecture == 89
    devices._card.cache_clear()
