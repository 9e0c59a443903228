"""The drop-in: the same module as `iprm.reference`, its three attentions on fused kernels.

Constructor, parameters and numbers are the reference's; only the order of the algebra differs (mechanism.md, "What
the algebra allows"). Each stage here mirrors the stage of the same name there, and is that stage where a layer that it
would read past is not plain (`iprm.layers`).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iprm import reference
from iprm.config import IPRMConfig
from iprm.graphs import Graphs
from iprm.layers import bias_of, first_not_plain, has_hooks, warn_once
from iprm.reference import Attention
from iprm_kernels import (
    composition,
    execution,
    execution_dropped,
    execution_simple,
    execution_simple_dropped,
    formation,
)
from iprm_kernels.activations import ACTIVATIONS
from iprm_kernels.autocast import autocast_dtype, cast
from iprm_kernels.backends import BACKENDS
from iprm_kernels.checks import check_choice
from iprm_kernels.dropout import Role
from iprm_kernels.steps import MAPS, missing, steps, too_large


def gate(linear: nn.Linear) -> Tensor:
    """The weight (D,) of a map to one logit.

    Its bias shifts a whole row of logits, so it drops out of the softmax; it stays in the graph, with the zero
    gradient that it has, so that optimisers and gradient reducers see every parameter.
    """
    return linear.weight[0] if linear.bias is None else linear.weight[0] + 0.0 * linear.bias


def project(linear: nn.Linear, pooled: Tensor, total: Tensor | None) -> Tensor:
    """Σ_j a_j (W x_j + b) as W (Σ_j a_j x_j) + b Σ_j a_j; `total` is Σ_j a_j, None where it is 1."""
    if total is None or linear.bias is None:
        return linear(pooled)
    return F.linear(pooled, linear.weight) + total.to(pooled.dtype) * linear.bias


class Draw(reference.Draw):
    """`reference.Draw`, and for each stage why it calls its layers in this forward pass, or None where it is fused.

    A stage that is not listed is wrapped (sharded, hooked): what its layers hold is known only within its own forward,
    where it looks.
    """

    def __init__(self, seed: Tensor | None, step: int = 0, backend: str = "auto", unfused: dict | None = None):
        super().__init__(seed, step, backend)
        self.unfused = {} if unfused is None else unfused

    def at(self, step: int) -> Draw:
        """The same seed in another step."""
        return Draw(self.seed, step, self.backend, self.unfused)


def total_weight(a: Tensor, rate: float, role: Role, drop: Draw) -> Tensor | None:
    """Σ_j drop(a_kj) (B, K, 1), or None where nothing is dropped and it is 1."""
    return drop(a, rate, role).sum(-1, keepdim=True) if drop.rate(rate) > 0.0 else None


class Fused:
    """What the fused stages share.

    name: of the stage in the module.  cost: of calling its layers instead.  maps: what `iprm_kernels.steps` reads.
    """

    name: str
    cost: str
    maps: tuple[str, ...]

    def read_past(self) -> list[str]:
        """The layers, by name, whose weights the fused forward reads where the reference calls them."""
        raise NotImplementedError

    def unfused(self) -> str | None:
        """Why the layers must be called, or None; the first time, a warning says so."""
        reason = first_not_plain(self, self.read_past())
        if reason and not torch.compiler.is_compiling():
            calls = f"so {self.name} calls its layers as iprm.reference does"
            warn_once(f"iprm.fast: {self.name}.{reason}, {calls}: {self.cost}")
        return reason

    def calls_layers(self, drop: Draw) -> bool:
        """Whether to run as the reference does in this forward pass."""
        return bool(drop.unfused[self.name] if self.name in drop.unfused else self.unfused())


class Formation(Fused, reference.Formation):
    """1. Operation formation."""

    name, cost = "formation", "slower, and it stores (B, K, L, D) tensors in training"
    maps = ("F1", "F2", "f")

    def read_past(self) -> list[str]:
        return ["f"]

    def prepare(self, X: Tensor, drop: Draw) -> Tensor:
        """The tokens as all steps read them: cast once, and not anew in each step."""
        return X if drop.unfused.get(self.name, "wrapped") else cast(X.device, X)[0]

    def forward(self, O: Tensor, E: Tensor, X: Tensor, mask: Tensor | None, drop: Draw) -> tuple[Tensor, Tensor]:
        if self.calls_layers(drop):
            return super().forward(O, E, X, mask, drop)
        p = drop.rate(self.config.formation_attention_dropout)
        q = self.query(O, E, drop)
        z, a = formation(q, X, gate(self.f), mask, seed=drop.seed, step=drop.step, p_attention=p, backend=drop.backend)
        return self.norm(z), a

    def keys(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """y = F2ᵀ (f ⊙ x) (1 or T, B, L, D) and F2's bias · (f ⊙ x) (1 or T, B, L).

        With them (F2 h_k + bias) · (f ⊙ x_j) = h_k · y_j + bias_j: the logits without the query.
        """
        x = self.f.weight[0] * X
        maps = self.F2 if self.config.per_step_query else [self.F2]
        return torch.stack([x @ F2.weight for F2 in maps]), torch.stack([x @ bias_of(F2) for F2 in maps])


class Look(NamedTuple):
    """What execution looks at: x̃ (B, N, D), and its keys v, u (full) or κ (simple), each (B, N, R)."""

    x: Tensor
    keys: tuple[Tensor, ...]


class Execution(Fused, reference.Execution):
    """2. Operation execution."""

    name, cost = "execution", "slower, and it stores (B, K, N, R) tensors in training"
    maps = ("Wk", "C1", "C2", "We", "Wz", "Wq", "w", "Wv")

    def read_past(self) -> list[str]:
        return ["C1", "C2", "w", "Wv"] if self.config.execution == "simple" else ["Wk", "C1", "C2", "w", "Wv"]

    def prepare(self, V: Tensor, drop: Draw) -> Tensor | Look:
        """Without visual dropout the keys do not depend on the step: they are made once, unless this runs outside of
        a forward that must be run for the weights to be there."""
        if drop.unfused.get(self.name, "wrapped"):
            return V
        V = cast(V.device, V.contiguous())[0]  # once, or every step would copy other strides and dtypes
        return V if drop.rate(self.config.visual_dropout) > 0.0 else self.look(V)

    def look(self, V: Tensor) -> Look:
        """The tokens with their keys."""
        c = self.config
        if c.execution == "simple":
            return Look(V, (self.C2(ACTIVATIONS[c.execution_activation](self.C1(V))),))
        v = self.Wk(V)
        return Look(V, (v, F.linear(v, self.C1.weight[:, c.reduced_dim :], self.C1.bias)))

    def forward(self, z: Tensor, E: Tensor, V: Tensor | Look, mask: Tensor | None, drop: Draw) -> tuple[Tensor, Tensor]:
        if self.calls_layers(drop):
            return super().forward(z, E, V, mask, drop)
        c = self.config
        if isinstance(V, Tensor) and drop.rate(c.visual_dropout) == 0.0:
            V = self.look(V)
        look = self.simple if c.execution == "simple" else self.full
        options = {
            "activation": c.execution_activation,
            "seed": drop.seed,
            "step": drop.step,
            "p_product": drop.rate(c.product_dropout),
            "p_attention": drop.rate(c.execution_attention_dropout),
            "backend": drop.backend,
        }
        pooled, a = look(z, E, V, mask, drop, options)
        total = total_weight(a, c.execution_attention_dropout, Role.EXECUTION_ATTENTION, drop)
        return self.norm(project(self.Wv, pooled, total)), a

    def full(self, z, E, V, mask, drop, options) -> tuple[Tensor, Tensor]:
        """Attention by the two-layer network of each pair."""
        R, w = self.config.reduced_dim, gate(self.w)
        g, l = self.full_query(z, E, drop), self.Wq(z)
        C1a, C2, c2 = self.C1.weight[:, :R], self.C2.weight, bias_of(self.C2)
        if isinstance(V, Look):
            return execution(*V.keys, g, l, C1a, C2, c2, w, V.x, mask, **options)
        C1b, p_visual = self.C1.weight[:, R:], self.config.visual_dropout
        keys = (self.Wk.weight, bias_of(self.Wk), C1b, bias_of(self.C1))
        return execution_dropped(V, *keys, g, l, C1a, C2, c2, w, mask, p_visual=p_visual, **options)

    def simple(self, z, E, V, mask, drop, options) -> tuple[Tensor, Tensor]:
        """Attention by keys that do not depend on the operation."""
        p, w = self.simple_query(z, E, drop), gate(self.w)
        if isinstance(V, Look):
            return execution_simple(*V.keys, p, w, V.x, mask, **options)
        keys = (self.C1.weight, bias_of(self.C1), self.C2.weight, bias_of(self.C2))
        p_visual = self.config.visual_dropout
        return execution_simple_dropped(V, *keys, p, w, mask, p_visual=p_visual, **options)


class Composition(Fused, reference.Composition):
    """3. Operation composition."""

    name, cost = "composition", "slower, and it stores (B, K, columns, D) tensors in training"
    maps = ("Uo", "Ur", "Qo", "c", "Vo", "Vr", "So", "Sr")

    def read_past(self) -> list[str]:
        layers = ["c", "Vo", "Vr"] if self.config.composition else []
        return [*layers, "Ko"] if self.config.key_projection and layers else layers

    def query_and_keys(self, o: Tensor, window: list[Tensor], drop: Draw) -> tuple[Tensor, list[Tensor], Tensor]:
        """The query, the keys of the window and the gate.

        (c ⊙ q) · (Ko ō_j + b) = (Koᵀ (c ⊙ q)) · ō_j + a number that does not depend on j: unless the product is
        dropped, the keys need no projection.
        """
        q, c = self.Qo(o), gate(self.c)
        if not self.config.key_projection:
            return q, window, c
        if drop.rate(self.config.composition_product_dropout) > 0.0:
            return q, [self.Ko(state) for state in window], c
        folded = F.linear(q * c, self.Ko.weight.T)
        folded = folded if self.Ko.bias is None else folded + 0.0 * self.Ko.bias
        return folded, window, torch.ones_like(c)

    def forward(
        self, z: Tensor, r: Tensor, past: list[tuple[Tensor, Tensor]], drop: Draw
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        c = self.config
        if not c.composition or self.calls_layers(drop):
            return super().forward(z, r, past, drop)
        o, e = self.updated(z, r, *past[0])
        operations = [o, *(O for O, _ in past[: c.window])]
        results = [e, *(E for _, E in past[: c.window])]
        query, keys, gate_c = self.query_and_keys(o, operations, drop)
        p_value = drop.rate(c.composition_value_dropout)
        if p_value > 0.0:  # the values themselves are dropped, so they are projected before they are pooled
            operations, results = [self.Vo(s) for s in operations], [self.Vr(s) for s in results]
        pooled_o, pooled_r, a = composition(
            query,
            keys,
            operations,
            results,
            gate_c,
            mask_self=c.mask_self,
            seed=drop.seed,
            step=drop.step,
            p_product=drop.rate(c.composition_product_dropout),
            p_value=p_value,
            p_attention=drop.rate(c.composition_attention_dropout),
            backend=drop.backend,
        )
        if p_value == 0.0:
            total = total_weight(a, c.composition_attention_dropout, Role.COMPOSITION_ATTENTION, drop)
            pooled_o, pooled_r = project(self.Vo, pooled_o, total), project(self.Vr, pooled_r, total)
        return self.norm_o(pooled_o + self.So(o)), self.norm_r(pooled_r + self.Sr(e)), a


class IPRM(reference.IPRM):
    """The iterative and parallel reasoning mechanism on fused kernels: `iprm.reference.IPRM`, faster and smaller.

    Without gradients and dropout, few samples on the CUDA backend take all steps in one launch
    (`iprm_kernels.steps`), where the options allow it (`whole`).

    Args:
        config: every option, see `IPRMConfig`.
        backend: "auto" takes the best backend that supports the call; a named one runs or raises with the reason.
            See `iprm_kernels.reasons` for what can run here.
        cuda_graph: replay forwards without gradients and dropout as CUDA graphs. The first call of each kind (shapes,
            dtypes, which masks, attention returned or not, autocast) runs a few times and is captured, so it is slow;
            the later ones are one launch, on copies of the inputs, and return copies. The last eight kinds are kept,
            each with its memory; moving or replacing parameters discards them, new values in place do not. With
            gradients or dropout the call runs as usual; so it does where a stage or a layer has a hook, and on a CPU,
            which has nothing to capture.

    Layers need not be plain: adapters, hooks, pruning, quantised or sharded weights give the reference's numbers. A
    stage with such a layer among those that the kernels would read past calls its layers, as the reference does, and
    a warning says so once.
    """

    formation_class, execution_class, composition_class = Formation, Execution, Composition

    def __init__(self, config: IPRMConfig, backend: str = "auto", cuda_graph: bool = False):
        super().__init__(config)
        check_choice("backend", backend, ("auto", *BACKENDS))
        self.backend = backend
        self.graphs = Graphs() if cuda_graph else None

    def forward(
        self,
        language: Tensor,
        summary: Tensor,
        visual: Tensor,
        language_mask: Tensor | None = None,
        visual_mask: Tensor | None = None,
        *,
        return_attention: bool = False,
    ) -> Tensor | tuple[Tensor, Attention]:
        """`iprm.reference.IPRM.forward`."""
        inputs = (language, summary, visual, language_mask, visual_mask)
        run = functools.partial(super().forward, return_attention=return_attention)
        if self.graphs is None or self._drops() or not self.graphs.serves(inputs) or self._hooked():
            return run(*inputs)
        return self.graphs(run, inputs, self.parameters(), return_attention)

    def _run(
        self,
        language: Tensor,
        summary: Tensor,
        visual: Tensor,
        language_mask: Tensor | None,
        visual_mask: Tensor | None,
        return_attention: bool,
    ) -> Tensor | tuple[Tensor, Attention]:
        if torch.is_grad_enabled() or self._drops() or self.whole(language, summary, visual) is not None:
            return super()._run(language, summary, visual, language_mask, visual_mask, return_attention)
        c, look = self.config, self.execution.look(visual.contiguous())  # `whole` has looked at the layers
        operations, results, *attention = steps(
            *self.memory(summary, visual),
            language,
            *self.formation.keys(language),
            language_mask,
            look.x,
            *look.keys,
            visual_mask,
            self._weights(),
            steps=c.num_steps,
            window=c.window,
            mask_self=c.mask_self,
            activations=(c.formation_activation, c.execution_activation, c.op_activation, c.result_activation),
            backend=self.backend,
        )
        result, a_readout = self.readout(operations[-1], results[-1], summary)
        return (result, Attention(*attention, a_readout)) if return_attention else result

    def _stages(self) -> tuple[nn.Module, ...]:
        return self.formation, self.execution, self.composition

    def _draw(self, seed: Tensor | None) -> Draw:
        """Looks at the layers once a forward, at those of wrapped stages in their own forwards."""
        unfused = {s.name: s.unfused() for s in self._stages() if isinstance(s, Fused) and not has_hooks(s)}
        return Draw(seed, backend=self.backend, unfused=unfused)

    def _hooked(self) -> bool:
        """Whether a call of anything inside of this module runs a hook, which a graph or a single op would pass by."""
        return any(has_hooks(module) for module in self.modules() if module is not self)

    def _is_plain(self) -> bool:
        """Whether one op may read all weights."""
        keys = {self.composition: ("Ko",)} if self.config.key_projection else {}
        return not self._hooked() and all(
            isinstance(stage, Fused) and not first_not_plain(stage, (*stage.maps, *keys.get(stage, ())))
            for stage in self._stages()
        )

    def whole(self, language: Tensor, summary: Tensor, visual: Tensor, *masks: Tensor | None) -> str | None:
        """Why a call without gradients and dropout cannot take all its steps at once, or None where it can."""
        c = self.config
        if c.execution != "full" or c.query_from_results != "none" or not (c.update and c.composition):
            return "the kernel for all steps has full execution, update and composition, and no results in the query"
        if c.formation_norm or c.execution_norm or c.update_norm or c.composition_norm:
            return "the kernel for all steps has no layer norms"
        mixed = autocast_dtype(visual.device) if visual.dtype != torch.float64 else None
        B, L = language.shape[:2]
        if B == 0:
            return "there are no samples"
        reason = missing(
            self.backend, visual.device, mixed or visual.dtype, c.num_ops, c.reduced_dim, c.window
        ) or too_large(B, c.num_ops, L, c.reduced_dim, c.window)
        return reason or (None if self._is_plain() else "a stage or a layer has a hook or is not plain")

    def _weights(self) -> list[Tensor]:
        """The weights that the kernel for all steps takes, in its order."""
        maps = [next(getattr(stage, name) for stage in self._stages() if hasattr(stage, name)) for name in MAPS]
        execution, composition, R = self.execution, self.composition, self.config.reduced_dim
        of_pairs = [execution.C1.weight[:, :R], execution.C2.weight, bias_of(execution.C2), execution.w.weight[0]]
        keys = [composition.Ko.weight, bias_of(composition.Ko)] if self.config.key_projection else []
        return [*(t for m in maps for t in (m.weight, bias_of(m))), *of_pairs, composition.c.weight[0], *keys]
