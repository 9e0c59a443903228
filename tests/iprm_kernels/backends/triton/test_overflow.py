"""Offsets beyond 2^31 elements: the last programs of launches over tensors that are that large, but never touched
elsewhere, so that their memory is only promised. What they compute is compared with the same in a small call.
"""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.usefixtures("interpreted")

BEYOND = 2**31 + 2**16
SEED = torch.tensor([77])


@pytest.fixture
def last_only(monkeypatch):
    """Launches run only the programs whose first index is the last; sums over millions of parts go fast."""
    from triton.runtime import interpreter

    from iprm_kernels.backends.triton import configs

    wide = configs.Entry((("BP", 2**14), ("BW", 64)), 4, 1)
    monkeypatch.setattr(configs, "INTERPRETED_SUMS", wide)
    monkeypatch.setattr(configs, "entries", configs.entries.__wrapped__)
    builder = interpreter.interpreter_builder
    executor = interpreter.GridExecutor
    launch = executor.__call__

    def only_last(self, *args, **options):
        grid = self.grid(options | dict(zip(self.arg_names, args, strict=False))) if callable(self.grid) else self.grid
        self.grid, last = (1, *grid[1:]), grid[0] - 1
        monkeypatch.setattr(builder, "set_grid_idx", lambda x, y, z: setattr(builder, "grid_idx", (last, y, z)))
        launch(self, *args, **options)

    monkeypatch.setattr(executor, "__call__", only_last)
    monkeypatch.setattr(executor, "_restore_args_dev", lambda *args: None)  # would copy all of it onto itself


def promised(B, n, D, last):
    """(B, n, D) whose last sample alone is written."""
    x = torch.empty(B, n, D, dtype=last.dtype)
    x[-1] = last
    return x


def samples_for(*sizes) -> int:
    """So many that a tensor with these sizes a sample has more than 2^31 elements."""
    size = 1
    for n in sizes:
        size *= n
    return BEYOND // size + 1


@pytest.mark.parametrize("kind", ["full", "simple"])
def test_execution(kind, last_only):
    """A sample's N·K pairs are one tile, so that the last tile is the last sample."""
    from iprm_kernels.backends.triton import configs, execution

    N, R, D = 32, 64, 64
    K = (configs.INTERPRETED.BN if kind == "full" else configs.ROWS) // N
    B = samples_for(N, R)
    torch.manual_seed(0)
    keys, others, tokens = (torch.randn(1, N, width).half() for width in (R, R, D))
    g, l = (torch.randn(1, K, R).half() for _ in range(2))
    C1a, C2 = (torch.randn(R, R).half() / 8 for _ in range(2))
    row = torch.randn(R).half()

    def run(v, u, x, g, l):
        rest = (x, None, None, 0, 0.0, 0.0, "elu")
        if kind == "full":
            return execution.execution(v, u, g, l, C1a, C2, row, row, *rest)
        return execution.execution_simple(v, g, row, *rest)

    large = run(*(promised(B, t.shape[1], t.shape[2], t[0]) for t in (keys, others, tokens, g, l)))
    small = run(keys, others, tokens, g, l)
    assert all(torch.equal(big[-1], one[0]) for big, one in zip(large, small, strict=True))


def test_formation(last_only):
    from iprm_kernels.backends.triton import formation

    K, L, D = 3, 16, 64
    B = samples_for(L, D)
    torch.manual_seed(0)
    q, x, f = torch.randn(1, K, D).half(), torch.randn(1, L, D).half(), torch.randn(D).half()
    large = formation.formation(promised(B, K, D, q[0]), promised(B, L, D, x[0]), f, None, None, 0, 0.0)
    small = formation.formation(q, x, f, None, None, 0, 0.0)
    assert all(torch.equal(big[-1], one[0]) for big, one in zip(large, small, strict=True))


def test_formation_backward(last_only):
    from iprm_kernels.backends.triton import formation

    K, L, D = 3, 16, 64
    B = samples_for(L, D)
    torch.manual_seed(0)
    grad, q, x, f = torch.randn(1, K, D).half(), torch.randn(1, K, D).half(), torch.randn(1, L, D).half(), torch.ones(D)
    a = torch.rand(1, K, L)

    def run(grad, q, x, a):
        return formation.formation_backward(grad, a, q, x, f.half(), a, None, 0, 0.0, [True] * 3)

    d_query, d_tokens, _ = run(*(promised(B, t.shape[1], t.shape[2], t[0]) for t in (grad, q, x, a)))
    want_query, want_tokens, _ = run(grad, q, x, a)
    assert torch.equal(d_query[-1], want_query[0])
    assert torch.equal(d_tokens[-1], want_tokens[0])


def test_composition(last_only):
    from iprm_kernels.backends.triton import composition

    K, D = 1, 256
    B = samples_for(K, D)
    torch.manual_seed(0)
    q, f = torch.randn(1, K, D).half(), torch.randn(D).half()
    large_q = promised(B, K, D, q[0])
    args = (f, False, None, 0, 0.0, 0.0, 0.0)
    large = composition.composition(large_q, *([large_q, large_q],) * 3, *args)
    small = composition.composition(q, *([q, q],) * 3, *args)
    assert all(torch.equal(big[-1], one[0]) for big, one in zip(large, small, strict=True))


def test_the_simple_gradients(last_only):
    from iprm_kernels.backends.triton import simple

    N, R = 32, 64
    samples = samples_for(N, R)
    torch.manual_seed(0)
    keys, query = torch.randn(N, R).half(), torch.randn(1, R).half()
    ds, row = torch.randn(1, N), torch.randn(R).half()

    def run(B, keys, query, ds):
        d_keys, parts = torch.empty(B, N, R, dtype=torch.float16), torch.empty(2, B, R)
        simple.simple_backward_kernel[(B, 1)](
            keys, query, row, ds, d_keys, *parts, None, 0, 0, 1.0, N, 1, R=R, BN=N, BR=64, ACTIVATION="elu", DROP=False
        )
        return [t[-1] for t in (d_keys, *parts)]

    small = run(1, keys[None], query[None], ds[None])
    large = run(samples, *(promised(samples, *t.shape, t) for t in (keys, query, ds)))
    assert all(torch.equal(one, other) for one, other in zip(large, small, strict=True))


def test_dropout_bits(last_only):
    """The element's number, too, is of 64 bits."""
    from iprm_kernels.backends.triton import configs, dropout
    from iprm_kernels.philox import scaled_mask

    tail = configs.entries("dropout", None, torch.float16, None, 1, 1)[0].arguments["BLOCK"]
    assert BEYOND % tail == 0
    x = torch.empty(BEYOND, dtype=torch.float16)
    x[-tail:] = 1.0
    y = dropout.dropout(x, 0.3, SEED, 5)
    want = scaled_mask((tail,), 0.3, SEED, 5, torch.float32, BEYOND - tail)
    assert torch.equal(y[-tail:], want.half())


@pytest.mark.parametrize("BD", [64, 32])
def test_the_gradients_chains(BD, last_only):
    """One sample of more than 2^31 elements in the buffers, its last tile; in one piece, where pairs may be kept, and
    in blocks of columns. Dropout goes by the number in the whole batch, so the small call begins at that of the large
    call's last tile."""
    from iprm_kernels.backends.triton import pairs

    R, BN = 64, 32
    N, whole = BEYOND // R // BN * BN, BD == R
    torch.manual_seed(0)
    C1a, C2 = (torch.randn(R, R).half() / 8 for _ in range(2))
    row, g = torch.randn(R).half(), torch.randn(1, 1, R).half()
    ends = [torch.randn(BN, R).half() for _ in range(2)]

    def big(tokens, end):
        x = torch.empty(tokens, *end.shape[1:], dtype=end.dtype)
        x[-BN:] = end
        return x

    def run(tokens):
        v, u = (big(tokens, end) for end in ends)
        ds = big(tokens, torch.linspace(-1, 1, BN))
        hidden, h, d_product, d_pre, dv, du = (big(tokens, torch.zeros(BN, R).half()) for _ in range(6))
        tiles, blocks = tokens // BN, R // BD
        logits, sum_w = torch.empty(blocks, tokens), torch.empty(tiles, R)
        made = []
        sizes = {"R": R, "BN": BN, "BC": 32, "PRECISION": "ieee"}
        chain = sizes | {"BD": BD, "BR": 0, "ACTIVATION": "elu"}
        half = sizes | {"BR": 32, "ACTIVATION": "elu"}
        drop = {"seed": SEED, "draw": 5, "threshold": 2**23, "scale": 2.0, "DROP": True, "first": N - tokens}
        forward = {"pairs": tokens, "N": tokens, "K": 1}
        backward = {"count": tokens, "N": tokens, "K": 1, "grouped": 1, "GROUP": 1}

        def keep(*tensors):
            made.extend(t[-BN:].clone() for t in tensors)

        pairs.hidden_kernel[(tiles, blocks)](v, u, g, C1a, hidden, **half, **forward)
        keep(hidden)
        pairs.logits_kernel[(tiles, blocks)](
            v, u, g, g, C1a, C2, row, row, hidden, h, logits, PARTS=1, KEEP=whole, **chain, **drop, **forward
        )
        keep(logits[-1], h)
        pairs.recompute_kernel[(tiles, blocks)](
            v, u, g, g, C1a, C2, row, row, ds, hidden, d_product, sum_w, PARTS=1, **chain, **drop, **forward
        )
        keep(hidden, d_product)
        made.append(sum_w[-1])
        pairs.d_pre_kernel[(tiles, 1, blocks)](g, C2, hidden, d_product, d_pre, du, **half, **backward)
        keep(d_pre, du)
        for kept in {False, whole}:
            pairs.chain_backward_kernel[(tiles, 1, blocks)](
                g, g, C1a, C2, hidden, d_product, d_pre, dv, du, h, ds, row, row, sum_w, PARTS=1, KEPT=kept,
                **chain, **drop, **backward,
            )  # fmt: skip
            keep(d_product, d_pre, dv, du)
            made.append(sum_w[-1])
        return made

    assert all(torch.equal(one, other) for one, other in zip(run(N), run(BN), strict=True))


@pytest.mark.parametrize("of_tokens", [False, True])
def test_the_weights_gradients(of_tokens, monkeypatch):
    """The second part's only operation, whose rows lie beyond 2^31 elements."""
    from triton.runtime import interpreter

    from iprm_kernels.backends.triton import pairs

    builder = interpreter.interpreter_builder
    monkeypatch.setattr(builder, "set_grid_idx", lambda x, y, z: setattr(builder, "grid_idx", (x, 1, z)))
    monkeypatch.setattr(interpreter.GridExecutor, "_restore_args_dev", lambda *args: None)
    N, R = 16, 64
    torch.manual_seed(0)
    rows, gate = torch.randn(2, N, R).half(), torch.randn(R).half()
    weight, bias = torch.randn(R, R).half(), torch.randn(R).half()

    def run(each):
        left, right = (promised(each + 1, N, R, t) for t in rows)
        gates = torch.empty(each + 1, R, dtype=torch.float16)
        gates[-1] = gate
        d_gate, found, of_bias = torch.empty(each + 1, R), torch.zeros(2, R, R), torch.zeros(2, R)
        pairs.weights_kernel[(1, 1)](
            left, right, gates, weight, bias, found, d_gate, of_bias, each + 1, each, (each + 1) * R, 0, N, 1, R=R,
            BD=64, BM=64, BN=16, HELD=0, ACTIVATION="elu", PRECISION="ieee", OF_TOKENS=of_tokens,
        )  # fmt: skip
        return d_gate[-1], found[1], of_bias[1]

    large, small = run(samples_for(N, R)), run(1)
    assert all(torch.equal(one, other) for one, other in zip(large, small, strict=True))
    assert small[1].any()


def test_composition_backward(last_only):
    from iprm_kernels.backends.triton import composition

    K, D = 1, 256
    B = samples_for(K, D)
    torch.manual_seed(0)
    q, f, a = torch.randn(1, K, D).half(), torch.randn(D).half(), torch.rand(1, K, 2 * K)
    options = (f, False, None, 0, 0.0, 0.0, 0.0)

    def run(q, a):
        d_query, *lists, _ = composition.composition_backward(q, q, a, q, *([q, q],) * 3, options[0], a, *options[1:])
        return [d_query, *(t for found in lists for t in found)]

    large = run(promised(B, K, D, q[0]), promised(B, K, 2 * K, a[0]))
    assert all(torch.equal(big[-1], one[0]) for big, one in zip(large, run(q, a), strict=True))
