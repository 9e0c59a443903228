"""torch's `FlopCounterMode` sees the products of the registered ops: as many as it counts in their eager algebra."""

from __future__ import annotations

import dataclasses

import pytest
import test_composition
import test_dropped_execution
import test_execution
import test_formation
import torch
from test_recurrence import OPTIONS, call_of, config_of, leaves_of, outputs_of
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import iprm_kernels
from iprm_kernels.backends import eager

B, K, L, N, R, D, BLOCKS = 2, 3, 4, 7, 5, 6, 3
ATTENTION, PAIRS = 2 * B * K * D, 2 * B * K * N * R * R
"""A product of attention for each column, and one of all pairs."""
RATES = {"seed": torch.tensor([99]), "step": 2, "p_attention": 0.1}
CORES = {
    "formation": (test_formation.make, (B, K, L, D), {}, 2 * L * ATTENTION, 4 * L * ATTENTION),
    "execution": (
        test_execution.make_full, (B, K, N, R, D), {"p_product": 0.2}, 2 * PAIRS + N * ATTENTION,
        6 * PAIRS + 2 * N * ATTENTION,
    ),
    "execution_simple": (
        test_execution.make_simple, (B, K, N, R, D), {"p_product": 0.2}, N * ATTENTION, 2 * N * ATTENTION
    ),
    "composition": (
        test_composition.make, (B, K, D, BLOCKS), {"p_product": 0.2, "p_value": 0.1}, 3 * K * BLOCKS * ATTENTION,
        6 * K * BLOCKS * ATTENTION,
    ),
}  # fmt: skip
"""What makes the inputs, of which sizes, rates of dropout, and the operations forward and backward."""


class Calls(TorchDispatchMode):
    """The registered ops that are called, with their arguments."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "iprm":
            self.made.append((func._overloadpacket.__name__, args))
        return func(*args, **(kwargs or {}))


def count(call) -> dict[str, int]:
    """The operations that torch counts, by op."""
    with FlopCounterMode(display=False) as counter:
        call()
    return {packet.__name__: flops for packet, flops in counter.get_flop_counts().get("Global", {}).items()}


def total(call) -> int:
    return sum(count(call).values())


def flat(inputs) -> list[torch.Tensor]:
    return [t for value in inputs.values() for t in (value if isinstance(value, list) else [value])]


def step(call) -> None:
    """Forward and backward."""
    sum(out.sum() for out in call()).backward()


def check_against_the_eager_algebra(call) -> None:
    """Each op that a step calls is counted as what torch counts where it is run as plain PyTorch."""
    calls = Calls()

    def watched() -> None:
        with calls:  # the inner of two modes does not see what the counter itself calls
            step(call)

    found = count(watched)
    assert calls.made
    for op, (*args, _) in calls.made:
        if op not in ("dropout", "draw_seed"):
            assert found[op] == total(lambda op=op, args=args: getattr(eager, op)(*args)), op


@pytest.mark.parametrize("op", CORES)
def test_cores_are_counted_as_written_down(op, backend):
    make, sizes, rates, forward, backward = CORES[op]
    inputs = make(*sizes)
    for t in flat(inputs):
        t.requires_grad_()
    found = count(lambda: step(lambda: getattr(iprm_kernels, op)(**inputs, **rates, **RATES, backend=backend)))
    assert (found[op], found[f"{op}_backward"]) == (forward, backward)


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("op", CORES)
def test_cores_are_counted_as_the_eager_algebra(op, dropped):
    make, sizes, rates, *_ = CORES[op]
    inputs, options = make(*sizes), rates | RATES if dropped else {}
    for trained in ([True], [True, False], [False, True]):  # in turn: what nobody asks for is not counted
        for i, t in enumerate(flat(inputs)):
            t.requires_grad_(trained[i % len(trained)])
        check_against_the_eager_algebra(lambda: getattr(iprm_kernels, op)(**inputs, **options, backend="eager"))


# With dropout, which makes other products of keys and of values, one of each form: masks take most of the time.
DROPPED = ("defaults", "no window", "keys", "simple, two layers", "one operation, one step")


@pytest.mark.parametrize(
    ("name", "dropped"), [*((name, False) for name in OPTIONS), *((name, True) for name in DROPPED)]
)
def test_recurrence_is_counted_as_the_eager_algebra(name, dropped):
    config = config_of(name, dropped)
    if config.num_ops == 1:  # torch counts less where a factor of its einsum, which drops products, has one row
        config = dataclasses.replace(config, composition_product_dropout=0.0)
    args, options = call_of(config, torch.float32)
    leaves = leaves_of(args)
    for trained in ([True],) if dropped else ([True], [True, False, False]):
        for i, t in enumerate(leaves):
            t.requires_grad_(trained[i % len(trained)])
        check_against_the_eager_algebra(lambda: outputs_of(args, options, "eager"))


def test_recurrence_is_counted_as_written_down(backend):
    """With the default options, each weight meets B·K rows in each step, but those of the keys B·N rows once."""
    config = config_of("defaults", False)
    args, options = call_of(config, torch.float32, B, L, N)
    K, D, T, W = config.num_ops, config.dim, config.num_steps, config.window
    R = D // config.reduction
    keys, row = 2 * B * N * (D * R + R * R), 2 * (12 * D * D + 3 * D * R)
    columns = sum(K * (1 + min(W, t + 1)) for t in range(T))
    attention = 2 * B * K * D * (T * (2 * L + N) + 3 * columns)
    forward = keys + T * (B * K * row + 2 * 2 * B * K * N * R * R) + attention
    assert count(lambda: outputs_of(args, options, backend)) == {"recurrence": forward}


@pytest.mark.parametrize("kind", test_dropped_execution.CORES)
def test_keys_of_dropped_tokens_are_counted_where_they_are_made(kind, backend):
    """Backward they are made again, and have two products of gradients for each of theirs."""
    op, _, make = test_dropped_execution.CORES[kind]
    forward, backward = CORES["execution" if kind == "full" else "execution_simple"][3:]
    keys = 2 * B * N * (D * R + R * R)
    inputs = make(B, K, N, R, D)
    for t in inputs.values():
        t.requires_grad_()
    found = count(lambda: step(lambda: op(**inputs, **test_dropped_execution.RATES, backend=backend)))
    assert (found[op.__name__], found[f"{op.__name__}_backward"]) == (forward + keys, backward + 3 * keys)


def test_arguments_may_come_by_name():
    inputs = test_formation.make(B, K, L, D)
    named = {"mask": None, "seed": None, "step": 0, "p_attention": 0.0, "backend": "eager"}
    assert count(lambda: torch.ops.iprm.formation(**inputs, **named)) == {"formation": 2 * L * ATTENTION}
