"""CUDA graphs on the CPU, in the place of what `iprm.graphs` uses of torch.cuda.

They record the operators of a capture and run the same ones on the same tensors again, as a device would: nothing is
computed at the capture, nothing may be read by the host, and memory is used again.
"""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch
from pairs import pair
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from iprm import IPRMConfig, fast, graphs

CONFIG = IPRMConfig(dim=12, num_ops=3, num_steps=2)
aten = torch.ops.aten
WAITS = (aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal)
"""What cannot be captured: it brings numbers to the host."""


def storages(*values) -> dict:
    """The memory of all tensors in there, by address."""
    found = [x.untyped_storage() for x in tree_leaves(values) if isinstance(x, torch.Tensor)]
    return {storage.data_ptr(): storage for storage in found}


class Recorder(TorchDispatchMode):
    """Keeps every operator with its arguments and results, and the memory that was allocated for them."""

    def __init__(self):
        super().__init__()
        self.calls, self.given, self.made = [], {}, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function.overloadpacket not in WAITS, f"{function} waits for the device"
        args, kwargs = tree_map(lambda x: x, (args, kwargs or {}))
        self.given |= {at: s for at, s in storages(args, kwargs).items() if at not in self.made}
        result = function(*args, **kwargs)
        self.made |= {at: s for at, s in storages(result).items() if at not in self.given}
        self.calls.append((function, args, kwargs, result))
        return result

    def scribble(self):
        """NaN wherever floats are: the memory holds something else now."""
        for storage in self.made.values():
            storage.fill_(255)


class FakeGraph:
    captures = replays = 0
    before = None

    def pool(self):
        return self

    def replay(self):
        FakeGraph.replays += 1
        for function, args, kwargs, result in self.recorder.calls:
            with torch._C._DisableAutocast():  # which had its say before the operators were recorded
                again = function(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)
        if self.before is not None:
            self.before.recorder.scribble()


@contextlib.contextmanager
def capture(graph, pool, capture_error_mode):
    """`pool`: that of the graph whose memory this one takes as it is freed."""
    assert SIDE.waited, "the warm-up comes first, on another stream"
    FakeGraph.captures += 1
    graph.before = pool
    generator = torch.get_rng_state()
    with Recorder() as graph.recorder:
        yield
    torch.set_rng_state(generator)
    graph.recorder.scribble()


class FakeStream:
    def __init__(self):
        self.waited = []

    def wait_stream(self, other):
        self.waited.append(other)

    def wait_event(self, event):
        pass


SIDE = FakeStream()


@pytest.fixture
def device(monkeypatch):
    """The CPU in the place of a CUDA device."""
    current = FakeStream()
    SIDE.waited.clear()
    FakeGraph.captures = FakeGraph.replays = 0
    monkeypatch.setattr(graphs, "DEVICE", "cpu")
    for name, fake in {
        "CUDAGraph": FakeGraph,
        "graph": capture,
        "Stream": lambda: SIDE,
        "Event": lambda: SimpleNamespace(record=lambda: None),
        "stream": contextlib.nullcontext,
        "device": contextlib.nullcontext,
        "current_stream": lambda: current,
        "is_current_stream_capturing": lambda: False,
        "get_rng_state": lambda device: torch.get_rng_state(),
        "set_rng_state": lambda state, device: torch.set_rng_state(state),
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)


def models(config=CONFIG, **options):
    """A module without the switch and one with it, with the same weights."""
    _, plain = pair(config, **options)
    switched = fast.IPRM(config, cuda_graph=True).to(next(plain.parameters()).dtype)
    switched.load_state_dict(plain.state_dict())
    return plain.eval(), switched.eval()


def check(plain, switched, args, **options):
    with torch.no_grad():
        want, got = plain(*args, **options), switched(*args, **options)
    for a, b in zip(tree_leaves(got), tree_leaves(want), strict=True):
        torch.testing.assert_close(a, b)
    return got
