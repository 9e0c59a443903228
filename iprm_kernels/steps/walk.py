"""All T steps: the walk forward and the walk back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from iprm_kernels.steps import kept
from iprm_kernels.steps.composition import Composition
from iprm_kernels.steps.execution import execution_of
from iprm_kernels.steps.formation import Formation
from iprm_kernels.steps.run import Cores, Run
from iprm_kernels.steps.weights import options_of, unflattened

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, list[Tensor]]
"""The memory after T steps, the attentions over language, picture and operations, and what is kept."""
Gradients = tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]
"""Those of O, E, language, visual and the weights, empty where not asked for."""


def forward(
    cores: Cores, O: Tensor, E: Tensor, language: Tensor, language_mask: Tensor | None, visual: Tensor,
    visual_mask: Tensor | None, weights: Sequence[Tensor], maps: str, seed: Tensor | None, *options_and_keep: Any,
) -> Outputs:  # fmt: skip
    """`iprm::recurrence` over the cores of a backend."""
    *options, keep = options_and_keep
    w, o = unflattened(weights, maps), options_of(*options)
    sizes = kept.sizes_of(O, visual, w.reduced, O.dtype, cores.pair_unit(w.reduced, O.dtype))
    shapes = kept.shapes(maps, o, sizes) if keep else {}
    run = Run(cores, w, o, seed, shapes)
    run.kept |= {name: O.new_empty(shapes[name]) for name in kept.PAIRS if name in shapes}
    formation, execution = Formation(run, language, language_mask), execution_of(run, visual, visual_mask)
    composition = Composition(run)
    attentions: list[tuple[Tensor, Tensor, Tensor]] = []
    for t in range(run.o.steps):
        run.keep(O=O, E=E)
        z, a_language = formation.forward(t, O, E)
        r, a_visual = execution.forward(t, z, E)
        O, E, a_operations = composition.forward(t, z, r, O, E)
        attentions.append((a_language, a_visual, padded(a_operations, a_language, run.o.window)))
    a_language, a_visual, a_operations = (torch.stack(a) for a in zip(*attentions, strict=True))
    return O, E, a_language, a_visual, a_operations, kept.stacked(run.kept, shapes)


def padded(a: Tensor | None, like: Tensor, window: int) -> Tensor:
    """Composition attention widened with zeros to all K·(1+W) columns."""
    B, K, _ = like.shape
    columns = K * (1 + window)
    if a is None:
        return like.new_zeros(B, K, columns)
    return a if a.shape[-1] == columns else F.pad(a, (0, columns - a.shape[-1]))


def backward(
    cores: Cores, dO: Tensor, dE: Tensor, d_language: Tensor | None, d_visual: Tensor | None,
    d_operations: Tensor | None, language: Tensor, visual: Tensor, weights: Sequence[Tensor], maps: str,
    a_language: Tensor, a_visual: Tensor, a_operations: Tensor, tensors: list[Tensor], seed: Tensor | None,
    *options_and_needs: Any,
) -> Gradients:  # fmt: skip
    """`iprm::recurrence_backward`.

    d_language, d_visual, d_operations: the gradients of the attentions, each may be None.
    needs: one flag for each of O, E, language, visual and the flattened weights.
    """
    *options, needs = options_and_needs
    w, o = unflattened(weights, maps), options_of(*options)
    need_language, need_visual = needs[2:4]
    sizes = kept.sizes_of(dO, visual, w.reduced, dO.dtype, cores.pair_unit(w.reduced, dO.dtype))
    names = kept.shapes(maps, o, sizes)
    by_name = dict(zip(names, tensors, strict=True))
    run = Run(cores, w, o, seed, kept=by_name, needs=fields_of(maps.split(","), needs[4:]))
    formation = Formation(run, language, need_tokens=need_language)
    execution = execution_of(run, visual, need_tokens=need_visual)
    composition, K = Composition(run), dO.shape[1]

    def at(d: Tensor | None, t: int) -> Tensor | None:
        return None if d is None else d[t]

    for t in reversed(range(o.steps)):
        columns = K * (1 + min(o.window, t + 1))
        a = a_operations[t, ..., :columns]
        da = None if d_operations is None else d_operations[t, ..., :columns]
        dz, dr, dO, dE = composition.backward(t, a, da, dO, dE)
        dz, dE = execution.backward(t, a_visual[t], at(d_visual, t), dr, dz, dE)
        dO, dE = formation.backward(t, a_language[t], at(d_language, t), dz, dO, dE)
        run.add_up()
    execution.finish()
    gradients = formation.gradients() | execution.gradients() | composition.gradients()
    empty = dO.new_empty(0)
    dX, dV = (run.sums[name] if need else empty for name, need in (("X", need_language), ("V", need_visual)))
    return dO, dE, dX, dV, flat_gradients(maps.split(","), gradients, needs[4:], empty)


def fields_of(maps: list[str], needs: list[bool]) -> frozenset[str]:
    """The maps of which the weight or the bias is asked for."""
    return frozenset(name for name, *either in zip(maps, needs[::2], needs[1::2], strict=True) if any(either))


def flat_gradients(
    maps: list[str], gradients: dict[str, tuple[Any, ...]], needs: list[bool], empty: Tensor
) -> list[Tensor]:
    """In the order of `flattened`, empty where nothing is asked for."""
    F2 = iter(gradients.get("F2", ()))
    pairs = [(next(F2, None) if name == "F2" else gradients.get(name)) or (None, None) for name in maps]
    flat: list[Any] = [d for pair in pairs for d in pair]
    return [d if need else empty for d, need in zip(flat, needs, strict=True)]
