"""What the launch code allocates, counted at sizes of real use: the bytes of every temporary, on the meta device.

The launches themselves are left out; nothing is computed, and neither a device nor the interpreter is needed.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

pytest.importorskip("triton.language")

from iprm_kernels.backends.triton import composition, configs, dropout, execution, formation, launch
from iprm_kernels.backends.triton.configs import ROWS

B, K, N, L, D, R, BLOCKS = 64, 6, 196, 24, 512, 256, 3
PAIR_TENSOR = B * K * N * R * 2  # bytes, bfloat16


class Allocations(TorchDispatchMode):
    """Bytes of every storage made, in order; views and results in place are none."""

    def __init__(self):
        super().__init__()
        self.seen, self.made = [], []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        known = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = function(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor) and t.untyped_storage()._cdata not in known:
                self.seen.append(t)  # kept, so that no storage's address comes twice
                self.made.append(t.untyped_storage().nbytes())
        return out


class Silent:
    """A kernel that does nothing when launched."""

    def __getitem__(self, grid):
        return lambda *args, **options: None


@pytest.fixture(autouse=True)
def no_launch(monkeypatch):
    monkeypatch.setattr(launch, "KERNELS", dict.fromkeys(launch.KERNELS, Silent()))


def meta(*shape, dtype=torch.bfloat16):
    return torch.empty(shape, dtype=dtype, device="meta")


def temporaries(core, *args) -> Counter:
    """Bytes of what a call allocates and does not return, with how often."""
    with Allocations() as allocations:
        outputs = core(*args)
    made = Counter(allocations.made)
    for t in tree_leaves(outputs):
        made[t.untyped_storage().nbytes()] -= 1
    assert min(made.values()) >= 0
    return +made


def pair_inputs():
    keys, small, square, row = meta(B, N, R), meta(B, K, R), meta(R, R), meta(R)
    return keys, keys, small, small, square, square, row, row, meta(B, N, D)


ATTENTION = 4 * B * K * N  # bytes of (B, K, N) float32
OPTIONS = (meta(1, dtype=torch.int64), 2, 0.1, 0.1)


def test_execution_forward():
    """The logits, and nothing else."""
    assert temporaries(execution.execution, *pair_inputs(), None, *OPTIONS, "elu") == {ATTENTION: 1}
    simple_inputs = (meta(B, N, R), meta(B, K, R), meta(R), meta(B, N, D))
    assert temporaries(execution.execution_simple, *simple_inputs, None, *OPTIONS, "elu") == {ATTENTION: 1}


def test_execution_forward_of_a_wide_model():
    """In blocks of columns: a buffer and parts of the logits for some samples, and the logits."""
    R = 2 * configs.WIDEST["logits"]
    keys, small, square, row = meta(B, N, R), meta(B, K, R), meta(R, R), meta(R)
    inputs = (keys, keys, small, small, square, square, row, row, meta(B, N, D))
    got = temporaries(execution.execution, *inputs, None, *OPTIONS, "elu")
    sample, blocks = K * N * R * 2, R // configs.BLOCK
    rounds = -(-B // (execution.BUFFER_BYTES // sample))
    largest = -(-B // rounds)
    want = Counter({ATTENTION: 1, largest * sample: 1})
    want += Counter(4 * blocks * min(largest, B - start) * K * N for start in range(0, B, largest))
    assert got == want
    assert largest * sample <= execution.BUFFER_BYTES


@pytest.mark.parametrize("samples", [64, 27, 1])
def test_execution_backward(samples, monkeypatch):
    """Three buffers for some samples, parts of sums, and the weights' gradients in float32."""
    monkeypatch.setattr(execution, "BUFFER_BYTES", samples * 3 * K * N * R * 2)
    pooled, a = meta(B, K, D), meta(B, K, N, dtype=torch.float32)
    got = temporaries(execution.execution_backward, pooled, a, *pair_inputs(), a, *OPTIONS, "elu", [True] * 9)
    rounds, blocks = -(-B // samples), R // configs.WEIGHT_COLUMNS[2]
    largest = -(-B // rounds)
    each = -(-largest * K // (configs.MULTIPROCESSORS // blocks**2))
    parts, tiles = -(-largest * K // each), -(-largest * K * N // configs.INTERPRETED.BN)
    want = Counter([largest * K * N * R * 2] * 3)  # the buffers
    want += Counter([4 * parts * R * R, 4 * parts * R, 4 * blocks * B * K * R] * 2)  # the parts of both weights' sums
    want += Counter([4 * rounds * tiles * R])  # the parts of dw
    want += Counter([ATTENTION])  # the gradient of the logits
    assert got == want
    if samples < B:
        assert max(got) < PAIR_TENSOR


def test_execution_backward_at_its_default_size():
    """For any batch, the buffers stay within BUFFER_BYTES, and are as full as the fewest rounds allow."""
    for batch in (1, 8, 64, 1024):
        parts = execution.chunks(batch, 3 * K * N * R * 2)
        largest = max(s.stop - s.start for s in parts)
        assert 3 * largest * K * N * R * 2 <= execution.BUFFER_BYTES
        assert len(parts) == -(-batch // (execution.BUFFER_BYTES // (3 * K * N * R * 2)))
        assert largest - (parts[-1].stop - parts[-1].start) < len(parts)
        assert [s.start for s in parts[1:]] == [s.stop for s in parts[:-1]]
        assert parts[-1].stop == batch


def test_execution_simple_backward():
    a = meta(B, K, N, dtype=torch.float32)
    inputs = (meta(B, N, R), meta(B, K, R), meta(R), meta(B, N, D))
    got = temporaries(execution.execution_simple_backward, meta(B, K, D), a, *inputs, a, *OPTIONS, "elu", [True] * 4)
    tiles = -(-N // ROWS)
    assert got == Counter([ATTENTION, 4 * B * tiles * K * R, 4 * B * tiles * R])
    assert max(got) < PAIR_TENSOR / 8


def test_formation():
    query, tokens, gate, a = meta(B, K, D), meta(B, L, D), meta(D), meta(B, K, L, dtype=torch.float32)
    seed = OPTIONS[0]
    assert temporaries(formation.formation, query, tokens, gate, None, seed, 1, 0.1) == {4 * B * K * L: 1}
    got = temporaries(formation.formation_backward, query, a, query, tokens, gate, a, seed, 1, 0.1, [True] * 3)
    assert got == Counter([4 * B * K * L, 4 * B * D])


def test_composition():
    """No copy of the window."""
    state, gate = meta(B, K, D), meta(D)
    window = ([state] * BLOCKS,) * 3
    options = (True, OPTIONS[0], 1, 0.1, 0.1, 0.1)
    a = meta(B, K, K * BLOCKS, dtype=torch.float32)
    assert not temporaries(composition.composition, state, *window, gate, *options)
    got = temporaries(composition.composition_backward, state, state, a, state, *window, gate, a, *options)
    assert got == Counter([4 * B * K * K * BLOCKS, 4 * B * K * D])


def test_dropout():
    assert not temporaries(dropout.dropout, meta(B, N, D), 0.1, OPTIONS[0], 3)
