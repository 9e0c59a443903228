"""The whole recurrence as one op: all T steps, forward and backward (mechanism.md, "One step").

A registered op and its backward, each one node; what they compute is in `iprm_kernels/steps`, one room per stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from iprm_kernels import backends, transforms
from iprm_kernels.activations import ACTIVATIONS
from iprm_kernels.autocast import cast, without_autocast
from iprm_kernels.backends import cuda, eager
from iprm_kernels.backends.eager import accumulator
from iprm_kernels.checks import (
    STEPS,
    check_choice,
    check_floating,
    check_number,
    check_rate,
    check_tensor,
    check_tokens,
    described,
    is_tensor,
)
from iprm_kernels.library import library
from iprm_kernels.steps import kept
from iprm_kernels.steps.walk import Gradients, Outputs
from iprm_kernels.steps.weights import (
    NEEDS,
    ONLY_SIMPLE,
    Activations,
    Epsilons,
    Map,
    Rates,
    Weights,
    flattened,
    options_of,
    reduced_of,
    unflattened,
)

_OPTIONS = (
    "Tensor? seed, int steps, int window, bool mask_self, str activations, float[] rates, float[] epsilons, int room"
)

library.define(
    "recurrence(Tensor O, Tensor E, Tensor language, Tensor? language_mask, Tensor visual, Tensor? visual_mask,"
    f" Tensor[] weights, str maps, {_OPTIONS}, bool keep, str backend)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor[])"
)
library.define(
    "recurrence_backward(Tensor grad_O, Tensor grad_E, Tensor? grad_language, Tensor? grad_visual,"
    " Tensor? grad_operations, Tensor language, Tensor visual, Tensor[] weights, str maps, Tensor a_language,"
    f" Tensor a_visual, Tensor a_operations, Tensor[] kept, {_OPTIONS}, bool[] needs, str backend)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor[])"
)


class Attentions(NamedTuple):
    """Where each step looked, as probabilities before dropout, in float32 (float64 for float64)."""

    language: Tensor  # (T, B, K, L)
    visual: Tensor  # (T, B, K, N)
    operations: Tensor  # (T, B, K, K·(1+W)), zero where a step has fewer columns and in all of it without composition


def _fake(
    O: Tensor, E: Tensor, language: Tensor, language_mask: Tensor | None, visual: Tensor, visual_mask: Tensor | None,
    weights: list[Tensor], maps: str, seed: Tensor | None, steps: int, window: int, *rest: Any,
) -> Outputs:  # fmt: skip
    *options, keep, backend = rest
    (B, K, D), L, N = O.shape, language.shape[1], visual.shape[1]
    o = options_of(steps, window, *options)
    wide = accumulator(O.dtype)
    a_language, a_visual, a_operations = (
        O.new_empty(steps, B, K, columns, dtype=wide) for columns in (L, N, K * (1 + window))
    )
    tensors: list[Tensor] = []
    if keep:
        given = (O, E, language, language_mask, visual, visual_mask, weights, maps, seed, steps, window)
        module = backends.of_recurrence(backend, O, given)
        dtype = module.working_dtype(O.dtype)
        R = reduced_of(weights, maps)
        sizes = kept.sizes_of(O, visual, R, dtype, module.pair_unit(R, dtype))
        tensors = [O.new_empty(shape, dtype=dtype) for shape in kept.shapes(maps, o, sizes).values()]
    return O.new_empty(B, K, D), O.new_empty(B, K, D), a_language, a_visual, a_operations, tensors


def _fake_backward(
    grad_O: Tensor, grad_E: Tensor, grad_language: Tensor | None, grad_visual: Tensor | None,
    grad_operations: Tensor | None, language: Tensor, visual: Tensor, weights: list[Tensor], *rest: Any,
) -> Gradients:  # fmt: skip
    needs = rest[-2]
    dX, dV = (x.new_empty(x.shape if need else 0) for x, need in zip((language, visual), needs[2:4], strict=True))
    grads = [t.new_empty(t.shape if need else 0) for t, need in zip(weights, needs[4:], strict=True)]
    return grad_O.new_empty(grad_O.shape), grad_O.new_empty(grad_O.shape), dX, dV, grads


class _Recurrence(torch.autograd.Function):
    """The op in a graph. That of `torch.library` makes trees of its arguments: where there are some fifty weights, at
    a third of what all the rest costs in Python."""

    @staticmethod
    def forward(
        ctx: Any, keys: Any, masks: tuple[Tensor | None, Tensor | None], options: tuple[Any, ...], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        O, E, language, visual, *weights = tensors
        language_mask, visual_mask = masks
        ctx.maps, seed, *ctx.options, _, ctx.backend = options
        outputs = _below_autograd(keys, O, E, language, language_mask, visual, visual_mask, weights, *options)
        ctx.save_for_backward(language_mask, visual_mask, seed, *tensors, *outputs[2:5], *outputs[5])
        ctx.mark_non_differentiable(*outputs[5])
        ctx.set_materialize_grads(False)
        return *outputs[:5], *outputs[5]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        _, _, _, *needs = ctx.needs_input_grad
        return None, None, None, *_gradients(ctx, grads[:5], needs)


def _below_autograd(keys: Any, *args: Any) -> Outputs:
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.iprm.recurrence.default.redispatch(keys & torch._C._after_autograd_keyset, *args)


def _in_graph(
    keys: Any, O: Tensor, E: Tensor, language: Tensor, language_mask: Tensor | None, visual: Tensor,
    visual_mask: Tensor | None, weights: list[Tensor], *options: Any,
) -> Outputs:  # fmt: skip
    tensors = (O, E, language, visual, *weights)
    if not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)):
        return _below_autograd(keys, O, E, language, language_mask, visual, visual_mask, weights, *options)
    outputs = _Recurrence.apply(keys, (language_mask, visual_mask), options, *tensors)
    memory_O, memory_E, a_language, a_visual, a_operations, *rows = outputs
    return memory_O, memory_E, a_language, a_visual, a_operations, rows


def _gradients(ctx: Any, grads: Sequence[Tensor | None], needs: list[bool]) -> list[Tensor | None]:
    """Those of O, E, language, visual and the weights, from those of what the op returned, each may be None."""
    language_mask, visual_mask, seed, O, E, language, visual, *rest = ctx.saved_tensors
    weights, attentions, kept = rest[: len(needs) - 4], rest[len(needs) - 4 :][:3], rest[len(needs) - 1 :]
    if torch.is_grad_enabled() or transforms.transformed():  # a graph of the backward, or a batch of it
        inputs = (O, E, language, language_mask, visual, visual_mask, weights)
        found = _replayed(inputs, [ctx.maps, seed, *ctx.options], grads, needs)
    else:
        memory = [O.new_zeros(O.shape) if grad is None else grad for grad in grads[:2]]
        *first, of_weights = torch.ops.iprm.recurrence_backward(
            *memory, *grads[2:], language, visual, weights, ctx.maps, *attentions, kept, seed, *ctx.options, needs,
            ctx.backend,
        )  # fmt: skip
        found = transforms.needed([*first, *of_weights], needs)
    if grads[0] is None and (unused := _without_path(ctx.maps, ctx.options[0])):
        names = [name for name in ctx.maps.split(",") for _ in range(2)]
        of_weights = [None if name in unused else d for name, d in zip(names, found[4:], strict=True)]
        found = [*found[:4], *of_weights]
    return found


def _replayed(
    inputs: tuple[Any, ...], options: list[Any], grads: Sequence[Tensor | None], needs: list[bool]
) -> list[Tensor | None]:
    """The gradients by autograd through the eager algebra of the forward, which is run again."""
    O, E, language, language_mask, visual, visual_mask, weights = inputs
    with torch.enable_grad(), without_autocast(O.device):
        # Views: where one tensor stands in two places, each place has a gradient of its own.
        O, E, language, visual, *weights = leaves = [t.view_as(t) for t in (O, E, language, visual, *weights)]
        outputs = eager.recurrence(
            O, E, language, language_mask, visual, visual_mask, weights, *options, False
        )  # fmt: skip
        pairs = [(y, dy) for y, dy in zip(outputs[:5], grads, strict=True) if dy is not None and y.requires_grad]
        wanted = [t for t, need in zip(leaves, needs, strict=True) if need]
        found = torch.autograd.grad(
            [y for y, _ in pairs], wanted, [dy for _, dy in pairs], create_graph=True, allow_unused=True
        )
    found = (torch.zeros_like(t) if d is None else d for t, d in zip(wanted, found, strict=True))
    return [next(found) if need else None for need in needs]


def _without_path(maps: str, steps: int) -> set[str]:
    """The maps that nothing depends on when nobody asks for O after the last step: autograd gives them no gradient."""
    if steps > 1:
        return set()
    return {"Vo", "So", "composition_norm_o"} if "Qo" in maps.split(",") else {"Uo", "update_norm_o"}


def _run(
    O: Tensor, E: Tensor, language: Tensor, language_mask: Tensor | None, visual: Tensor, visual_mask: Tensor | None,
    weights: list[Tensor], maps: str, seed: Tensor | None, *rest: Any,
) -> Outputs:  # fmt: skip
    *options, keep, backend = rest
    if backend == "auto" and not keep and cuda.takes_all_steps(O, language, weights, maps, options):
        backend = "cuda"  # one launch, whichever backend is best for many
    inputs = (E, language, language_mask, visual, visual_mask, weights, maps, seed)
    memory, *others = backends.run(backend, "recurrence", O, *inputs, *options, keep)
    return memory.clone() if memory is O else memory, *others  # without update and composition O stays what it was


library.impl("recurrence", _run, "CompositeExplicitAutograd")
library.impl("recurrence_backward", backends.implementation("recurrence_backward"), "CompositeExplicitAutograd")
torch.library.register_fake("iprm::recurrence", _fake, lib=library)
torch.library.register_fake("iprm::recurrence_backward", _fake_backward, lib=library)
library.impl("recurrence", _in_graph, "Autograd", with_keyset=True)


def recurrence(
    O: Tensor,  # (B, K, D)
    E: Tensor,  # (B, K, D)
    language: Tensor,  # (B, L, D)
    visual: Tensor,  # (B, N, D)
    weights: Weights,
    *,
    steps: int,
    window: int = 2,
    mask_self: bool = True,
    activations: Activations = Activations(),  # noqa: B008 - immutable
    rates: Rates = Rates(),  # noqa: B008
    epsilons: Epsilons = Epsilons(),  # noqa: B008
    language_mask: Tensor | None = None,  # (B, L) bool
    visual_mask: Tensor | None = None,  # (B, N) bool
    seed: Tensor | None = None,  # (1,) int64
    backend: str = "auto",
    memory: str | int = "auto",
) -> tuple[Tensor, Tensor, Attentions]:
    """All T steps of the mechanism, with every option (mechanism.md, "One step").

    Args:
        O, E: the initial memory (B, K, D).
        language: X (B, L, D).  visual: V (B, N, D).  Their masks: bool, true = keep; a fully masked row attends
            uniformly. All tensors but masks and seed are of one floating dtype, with any strides.
        weights: of all maps and norms; those that are None switch their option off, see `Weights`.
        steps: T, at least 1.  window: W.  mask_self: an operation does not attend to itself in its own step.
        activations: φ of each stage.  rates: of dropout.  epsilons: of the layer norms.
        seed: (1,) int64, needed when a rate is positive.
        backend: "auto", or the backend that must run it.
        memory: what a forward may keep for its backward beyond rows of B·K, so that less is computed again (see
            `iprm_kernels.steps.kept`): "least" nothing of it, "fast" all, "auto" at most the bytes of the rows,
            in an exported program nothing; or a number of bytes.
    Returns:
        O and E after T steps (B, K, D) in the inputs' dtype, and where each step looked. All are differentiable.
        Where a gradient will be asked for, the forward keeps what `iprm_kernels.steps.kept` lists.
    Raises:
        ValueError: a wrong shape, dtype, device, number, rate or activation, or maps that make no form.
        RuntimeError: the named backend cannot run here.
    """
    check_floating("O", O)
    check_form(weights)
    flat, maps = flattened(weights)
    O, E, language, visual, used = cast(O.device, O, E, language, visual, flat)
    if used is not flat:
        flat, weights = used, unflattened(used, maps)
    check_arguments(O, E, language, visual, weights, language_mask, visual_mask, steps)
    check_options(O, steps, window, activations, rates, seed)
    room = kept.room_of(memory)
    # A traced call is checked by one without gradients, which must look the same.
    graph = torch.is_grad_enabled() or torch.jit.is_tracing()
    keep = graph and any(t.requires_grad for t in (O, E, language, visual, *flat))
    memory_O, memory_E, *attentions, _ = transforms.call(
        "recurrence", eager.recurrence, backend, O, E, language, language_mask, visual, visual_mask, flat, maps, seed,
        steps, window, mask_self, ",".join(activations), list(rates), list(epsilons), room, keep,
    )  # fmt: skip
    return memory_O, memory_E, Attentions(*attentions)


def check_arguments(
    O: Tensor, E: Tensor, language: Tensor, visual: Tensor, weights: Weights, language_mask: Tensor | None,
    visual_mask: Tensor | None, steps: int,
) -> None:  # fmt: skip
    """Raise unless all tensors fit together."""
    like = (O.dtype, O.device)
    check_tensor("O", O, ("B", "K", "D"), *like)
    B, _, D = O.shape
    check_tensor("E", E, O.shape, *like)
    check_tensor("language", language, (B, "L", D), *like)
    check_tensor("visual", visual, (B, "N", D), *like)
    check_tokens("language", language)
    check_tokens("visual", visual)
    for name, mask, tokens in (("language_mask", language_mask, language), ("visual_mask", visual_mask, visual)):
        if mask is not None:
            check_tensor(name, mask, tokens.shape[:2], torch.bool, O.device)
    check_tensor("weights.C2.weight", weights.C2.weight, ("R", "R"), *like)  # by which the others' R is known
    shapes = weights.shapes(D)
    for name, m in zip(weights._fields, weights, strict=True):
        shape = shapes[name]
        for i, one in enumerate((m,) if isinstance(m, Map) else m or ()):
            if not (is_tensor(one.weight, shape, *like) and is_tensor(one.bias, shape[:1], *like)):
                label = f"weights.F2[{i}]" if name == "F2" else f"weights.{name}"
                check_tensor(f"{label}.weight", one.weight, shape, *like)
                check_tensor(f"{label}.bias", one.bias, shape[:1], *like)
    if len(weights.F2) not in (1, steps):
        raise ValueError(f"weights.F2: expected one map, or one for each of {steps} steps, got {len(weights.F2)}")


def check_form(weights: Weights) -> None:
    """Raise unless the maps that are given make one form, see `Weights`."""
    if not isinstance(weights, Weights):
        raise ValueError(f"weights: expected Weights, got {described(weights)}")
    given = {name: m for name, m in zip(weights._fields, weights, strict=True) if m is not None}
    for name in weights._fields:
        if name not in given and name not in weights._field_defaults:
            raise ValueError(f"weights.{name}: expected {_what(name)}, got None")
    for name, m in given.items():
        if not all(isinstance(one, Map) for one in m) if name == "F2" else not isinstance(m, Map):
            raise ValueError(f"weights.{name}: expected {_what(name)}, got {described(m)}")
        for other in NEEDS.get(name, ()):
            if other not in given:
                raise ValueError(f"weights.{other}: expected a map because there is {name}, got None")
        if name in ONLY_SIMPLE and "Wk" in given:
            raise ValueError(f"weights.{name}: expected None because there is Wk, got a map")


def _what(field: str) -> str:
    return "a tuple of maps" if field == "F2" else "a map"


def check_options(
    O: Tensor, steps: int, window: int, activations: Activations, rates: Rates, seed: Tensor | None
) -> None:
    """Raise unless the options are in their ranges."""
    check_number("steps", steps, STEPS, least=1)
    check_number("window", window, STEPS)
    for field, name in zip(Activations._fields, activations, strict=True):
        check_choice(f"activations.{field}", name, tuple(ACTIVATIONS))
    for field, p in zip(Rates._fields, rates, strict=True):
        check_rate(f"rates.{field}", p, seed, O.device)
