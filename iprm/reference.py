"""The mechanism as it is written: plain PyTorch, one line per equation. This module defines correctness.

Symbols are those of mechanism.md: O, E are the operation and result states, X the language tokens, V the visual
tokens, and every linear map carries its letter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from iprm.config import IPRMConfig
from iprm_kernels.activations import ACTIVATIONS
from iprm_kernels.autocast import is_cast
from iprm_kernels.checks import check_floating, check_tensor, check_tokens
from iprm_kernels.dropout import Role, draw_seed, dropout, stream_of

MASK_BIAS = -1e30


class Attention(NamedTuple):
    """Where each step looked, as probabilities before dropout.

    language: (T, B, K, L).  visual: (T, B, K, N).
    operations: (T, B, K, K·(1+W)), zero where a step has fewer columns and in all of it without composition.
    readout: (B, K), or None where the read-out is no attention.
    """

    language: Tensor
    visual: Tensor
    operations: Tensor
    readout: Tensor | None


class Draw:
    """drop(·) of one forward pass: applies the mask of a site and a step, or nothing when `seed` is None."""

    def __init__(self, seed: Tensor | None, step: int = 0, backend: str = "auto") -> None:
        self.seed, self.step, self.backend = seed, step, backend

    def at(self, step: int) -> Draw:
        """The same seed in another step."""
        return Draw(self.seed, step, self.backend)

    def rate(self, rate: float) -> float:
        """The rate that is in force: zero when nothing is dropped."""
        return 0.0 if self.seed is None else rate

    def __call__(self, x: Tensor, rate: float, role: Role) -> Tensor:
        return dropout(x, self.rate(rate), self.seed, stream_of(self.step, role), backend=self.backend)


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear map that starts Xavier-uniform with zero bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def norm(enabled: bool, dim: int) -> nn.Module:
    """LN? of mechanism.md."""
    return nn.LayerNorm(dim) if enabled else nn.Identity()


def masked_softmax(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax over the last dimension in float32 (float64 for float64), -1e30 added where `mask` is false."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if mask is not None:
        logits = logits + (~mask).to(logits.dtype) * MASK_BIAS
    return torch.softmax(logits, -1)


def weighted_sum(a: Tensor, values: Tensor) -> Tensor:
    """Σ_j a_kj values_j: (B, K, columns), (B, columns, D) -> (B, K, D)."""
    return (a.to(values.dtype)[..., None] * values[:, None]).sum(2)


class InitialMemory(nn.Module):
    """The operation and result states before the first step (mechanism.md, "Initial memory")."""

    def __init__(self, config: IPRMConfig) -> None:
        super().__init__()
        D, K = config.dim, config.num_ops
        self.config = config
        if config.op_init == "learned":
            self.O = nn.Parameter(torch.randn(K, D))
        else:
            self.op_maps = nn.ModuleList(linear(D, D) for _ in range(K))
        if config.result_init == "learned":
            self.E = nn.Parameter(torch.randn(K, D))
        else:
            self.result_maps = nn.ModuleList(linear(D, D) for _ in range(K))

    def forward(self, summary: Tensor, visual: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D), (B, N, D) -> O, E, each (B, K, D): no views of the parameters, which may be gone after this call
        where they are sharded."""
        B = summary.shape[0]
        if self.config.op_init == "learned":
            O = self.O.to(visual.dtype).expand(B, -1, -1).clone(memory_format=torch.contiguous_format)
        else:
            O = torch.stack([project(summary) for project in self.op_maps], 1)
        if self.config.result_init == "learned":
            E = self.E.to(visual.dtype).expand(B, -1, -1).clone(memory_format=torch.contiguous_format)
        else:
            source = summary if self.config.result_init == "language" else visual.mean(1)
            E = torch.stack([project(source) for project in self.result_maps], 1)
        return O, E


class Formation(nn.Module):
    """1. Operation formation: what to look for, from language."""

    def __init__(self, config: IPRMConfig) -> None:
        super().__init__()
        D = config.dim
        self.config = config
        self.F1 = linear(D, D)
        if config.per_step_query:
            self.F2 = nn.ModuleList(linear(D, D) for _ in range(config.num_steps))
        else:
            self.F2 = linear(D, D)
        self.f = linear(D, 1)
        if config.query_from_results != "none":
            self.G1, self.G2 = linear(D, D), linear(D, D)
        if config.query_from_results == "concat":
            self.J = linear(2 * D, D)
        self.norm = norm(config.formation_norm, D)

    def query(self, O: Tensor, E: Tensor, drop: Draw) -> Tensor:
        """q (B, K, D)."""
        c = self.config
        F2: Any = self.F2  # one map, or one for each step
        F2 = F2[drop.step] if c.per_step_query else F2
        φ_l, φ_g = ACTIVATIONS[c.formation_activation], ACTIVATIONS[c.result_query_activation]
        q = F2(drop(φ_l(self.F1(O)), c.formation_dropout, Role.FORMATION_HIDDEN))
        if c.query_from_results == "none":
            return q
        from_results = self.G2(drop(φ_g(self.G1(E)), c.formation_dropout, Role.FORMATION_RESULT))
        return q + from_results if c.query_from_results == "sum" else self.J(torch.cat([q, from_results], -1))

    def forward(self, O: Tensor, E: Tensor, X: Tensor, mask: Tensor | None, drop: Draw) -> tuple[Tensor, Tensor]:
        """-> z (B, K, D), attention (B, K, L)."""
        q = self.query(O, E, drop)
        s = self.f(q[:, :, None] * X[:, None]).squeeze(-1)
        a = masked_softmax(s, None if mask is None else mask[:, None])
        dropped = drop(a, self.config.formation_attention_dropout, Role.FORMATION_ATTENTION)
        return self.norm(weighted_sum(dropped, X)), a


class Execution(nn.Module):
    """2. Operation execution: look at the picture, guided by the new operation and the prior result."""

    def __init__(self, config: IPRMConfig) -> None:
        super().__init__()
        D, R = config.dim, config.reduced_dim
        self.config = config
        self.We: Any  # one map, or a list of two
        self.Wz: Any
        if config.execution == "full":
            self.Wk = linear(D, R)
            self.C1, self.C2 = linear(2 * R, R), linear(R, R)
            self.We, self.Wz, self.Wq = linear(D, R), linear(D, R), linear(D, R)
        else:
            self.C1, self.C2 = linear(D, R), linear(R, R)
            self.We = self._projection(config.result_mlp)
            self.Wz = self._projection(config.operation_mlp)
            if config.execution_query == "concat":
                self.J = linear(2 * R, R)
        self.w = linear(R, 1)
        self.Wv = linear(D, D)
        self.norm = norm(config.execution_norm, D)

    def _projection(self, two_layers: bool) -> nn.Module:
        D, R = self.config.dim, self.config.reduced_dim
        return nn.ModuleList([linear(D, R), linear(R, R)]) if two_layers else linear(D, R)

    def prior_result(self, E: Tensor, drop: Draw) -> Tensor:
        """vdrop ⊙ E: one mask per forward, shared by all steps."""
        return drop.at(0)(E, self.config.variational_dropout, Role.VARIATIONAL)

    def full_query(self, z: Tensor, E: Tensor, drop: Draw) -> Tensor:
        """g (B, K, R)."""
        c = self.config
        ê = drop(self.prior_result(E, drop), c.result_dropout, Role.RESULT)
        return self.We(ê) + self.Wz(drop(z, c.operation_dropout, Role.OPERATION))

    def simple_query(self, z: Tensor, E: Tensor, drop: Draw) -> Tensor:
        """p (B, K, R)."""
        c = self.config
        ê = self.prior_result(E, drop)
        if c.result_mlp:
            from_result = self.We[1](drop(torch.tanh(self.We[0](ê)), c.result_dropout, Role.RESULT_HIDDEN))
        else:
            from_result = self.We(drop(ê, c.result_dropout, Role.RESULT))
        if c.operation_mlp:
            hidden = drop(torch.tanh(self.Wz[0](z)), c.operation_dropout, Role.OPERATION_HIDDEN)
            from_operation = self.Wz[1](hidden)
        else:
            from_operation = self.Wz(drop(z, c.operation_dropout, Role.OPERATION))
        if c.execution_query == "sum":
            return from_operation + from_result
        return self.J(torch.cat([from_operation, from_result], -1))

    def full_product(self, z: Tensor, E: Tensor, x: Tensor, drop: Draw) -> Tensor:
        """h ⊙ (Wq z): (B, K, N, R)."""
        φ_v = ACTIVATIONS[self.config.execution_activation]
        v = self.Wk(x)[:, None]
        g = self.full_query(z, E, drop)[:, :, None]
        h = self.C2(φ_v(self.C1(torch.cat([g * v, v.expand(-1, g.shape[1], -1, -1)], -1))))
        return h * self.Wq(z)[:, :, None]

    def simple_product(self, z: Tensor, E: Tensor, x: Tensor, drop: Draw) -> Tensor:
        """p ⊙ κ: (B, K, N, R)."""
        φ_v = ACTIVATIONS[self.config.execution_activation]
        κ = self.C2(φ_v(self.C1(x)))
        return self.simple_query(z, E, drop)[:, :, None] * κ[:, None]

    def forward(self, z: Tensor, E: Tensor, V: Tensor, mask: Tensor | None, drop: Draw) -> tuple[Tensor, Tensor]:
        """-> r (B, K, D), attention (B, K, N)."""
        c = self.config
        φ_v = ACTIVATIONS[c.execution_activation]
        x = drop(V, c.visual_dropout, Role.VISUAL)
        product = self.full_product if c.execution == "full" else self.simple_product
        y = drop(φ_v(product(z, E, x, drop)), c.product_dropout, Role.PRODUCT)
        s = self.w(y).squeeze(-1)
        a = masked_softmax(s, None if mask is None else mask[:, None])
        dropped = drop(a, c.execution_attention_dropout, Role.EXECUTION_ATTENTION)
        return self.norm(weighted_sum(dropped, self.Wv(x))), a


class Composition(nn.Module):
    """3. Operation composition: write to memory, compare with the recent past."""

    def __init__(self, config: IPRMConfig) -> None:
        super().__init__()
        D = config.dim
        self.config = config
        if config.update:
            self.Uo, self.Ur = linear(2 * D, D), linear(2 * D, D)
            self.update_norm_o, self.update_norm_r = norm(config.update_norm, D), norm(config.update_norm, D)
        if config.composition:
            self.Qo, self.c = linear(D, D), linear(D, 1)
            if config.key_projection:
                self.Ko = linear(D, D)
            self.Vo, self.Vr, self.So, self.Sr = (linear(D, D) for _ in range(4))
            self.norm_o, self.norm_r = norm(config.composition_norm, D), norm(config.composition_norm, D)

    def updated(self, z: Tensor, r: Tensor, O: Tensor, E: Tensor) -> tuple[Tensor, Tensor]:
        """o, e, each (B, K, D)."""
        c = self.config
        if not c.update:
            return O, r
        φ_o, φ_r = ACTIVATIONS[c.op_activation], ACTIVATIONS[c.result_activation]
        o = self.update_norm_o(self.Uo(torch.cat([φ_o(z), O], -1)))
        e = self.update_norm_r(self.Ur(torch.cat([E, φ_r(r)], -1)))
        return o, e

    def forward(
        self, z: Tensor, r: Tensor, past: list[tuple[Tensor, Tensor]], drop: Draw
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """past: (O, E) of the previous steps, most recent first, the initial memory included.

        -> O, E, each (B, K, D), attention (B, K, columns) or None without composition.
        """
        c = self.config
        o, e = self.updated(z, r, *past[0])
        if not c.composition:
            return o, e, None
        ō = torch.cat([o, *(O for O, _ in past[: c.window])], 1)
        ē = torch.cat([e, *(E for _, E in past[: c.window])], 1)
        k = self.Ko(ō) if c.key_projection else ō
        product = drop(self.Qo(o)[:, :, None] * k[:, None], c.composition_product_dropout, Role.COMPOSITION_PRODUCT)
        s = self.c(product).squeeze(-1)
        other = ~torch.eye(*s.shape[1:], dtype=torch.bool, device=s.device)
        a = masked_softmax(s, other[None] if c.mask_self else None)
        dropped = drop(a, c.composition_attention_dropout, Role.COMPOSITION_ATTENTION)
        values_o = drop(self.Vo(ō), c.composition_value_dropout, Role.COMPOSITION_OPERATION)
        values_r = drop(self.Vr(ē), c.composition_value_dropout, Role.COMPOSITION_RESULT)
        O = self.norm_o(weighted_sum(dropped, values_o) + self.So(o))
        E = self.norm_r(weighted_sum(dropped, values_r) + self.Sr(e))
        return O, E, a


class Readout(nn.Module):
    """The result after T steps (mechanism.md, "Read-out after T steps")."""

    def __init__(self, config: IPRMConfig) -> None:
        super().__init__()
        D = config.dim
        self.config = config
        if config.readout == "language":
            self.Pq = linear(D, D)
        if config.readout == "learned":
            self.query = nn.Parameter(torch.randn(D))
        if config.readout in ("language", "learned"):
            self.Pk, self.p = linear(D, D), linear(D, 1)

    def forward(self, O: Tensor, E: Tensor, summary: Tensor) -> tuple[Tensor, Tensor | None]:
        """-> result (B, D), attention (B, K) or None."""
        kind = self.config.readout
        if kind == "mean":
            return E.mean(1), None
        if kind == "first":
            return E[:, 0], None
        q = self.Pq(summary)[:, None] if kind == "language" else self.query.to(O.dtype)
        a = masked_softmax(self.p(q * self.Pk(O)).squeeze(-1), None)
        return (a.to(E.dtype)[..., None] * E).sum(1), a


class IPRM(nn.Module):
    """The iterative and parallel reasoning mechanism (Jaiswal et al., NeurIPS 2024), written plainly.

    Args:
        config: every option, see `IPRMConfig`.
    """

    backend = "auto"

    def __init__(self, config: IPRMConfig) -> None:
        super().__init__()
        if not isinstance(config, IPRMConfig):
            raise TypeError(f"config: expected IPRMConfig, got {type(config).__name__}")
        self.config = config
        self.memory = InitialMemory(config)
        self.formation = Formation(config)
        self.execution = Execution(config)
        self.composition = Composition(config)
        self.readout = Readout(config)

    def _like(self, visual: Tensor) -> Tensor:
        """What settles the inputs' dtype and device: a weight, if there is one."""
        layer = self.execution.w
        found = getattr(layer, "weight", None)
        if not (isinstance(found, Tensor) and found.is_floating_point()):
            found = next((p for p in layer.parameters() if p.is_floating_point()), visual)
        return found

    def _check(
        self,
        language: Tensor,
        summary: Tensor,
        visual: Tensor,
        language_mask: Tensor | None,
        visual_mask: Tensor | None,
    ) -> None:
        D, like = self.config.dim, self._like(visual)
        for name, value, sizes in (
            ("visual", visual, ("B", "N", D)),
            ("language", language, ("B", "L", D)),
            ("summary", summary, ("B", D)),
        ):
            check_floating(name, value)
            check_tensor(name, value, sizes, value.dtype if is_cast(value.dtype, like) else like.dtype, like.device)
        (B, N), L = visual.shape[:2], language.shape[1]
        check_tensor("language", language, (B, L, D), language.dtype, language.device)
        check_tensor("summary", summary, (B, D), summary.dtype, summary.device)
        check_tokens("language", language)
        check_tokens("visual", visual)
        if language_mask is not None:
            check_tensor("language_mask", language_mask, (B, L), torch.bool, visual.device)
        if visual_mask is not None:
            check_tensor("visual_mask", visual_mask, (B, N), torch.bool, visual.device)

    def _drops(self) -> bool:
        return self.training and self.config.drops

    def _pad(self, attention: Tensor | None, like: Tensor) -> Tensor:
        """Composition attention widened with zeros to all K·(1+W) columns."""
        B, K = like.shape[:2]
        columns = K * (1 + self.config.window)
        if attention is None:
            return like.new_zeros(B, K, columns)
        return nn.functional.pad(attention, (0, columns - attention.shape[-1]))

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
        """Reason for T steps.

        Args:
            language: X (B, L, D).  summary: x̄ (B, D).  visual: V (B, N, D). On the parameters' device, and of their
                dtype unless autocast is on.
            language_mask: (B, L) bool, true = keep; None keeps all.  visual_mask: (B, N) bool likewise. What is
                masked must be finite all the same: it gets the weight 0, and 0 times NaN is NaN.
            return_attention: also return where each step looked.
        Returns:
            the result (B, D), or (result, `Attention`).
        Raises:
            ValueError: a wrong shape, dtype or device; names the argument, what was expected and what came.
        """
        self._check(language, summary, visual, language_mask, visual_mask)
        O, E = self.memory(summary, visual)
        O, E, attention = self._recurrence(O, E, language, visual, language_mask, visual_mask, return_attention)
        result, a_readout = self.readout(O, E, summary)
        if not return_attention:
            return result
        return result, Attention(*attention, a_readout)  # pyright: ignore[reportCallIssue] - the three are there

    def _recurrence(
        self,
        O: Tensor,
        E: Tensor,
        language: Tensor,
        visual: Tensor,
        language_mask: Tensor | None,
        visual_mask: Tensor | None,
        return_attention: bool,
    ) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        """All T steps, from the initial memory: O and E after them, and where each step looked, if that is asked for.

        The attention over words (T, B, K, L), over the picture (T, B, K, N) and over operations (T, B, K, K·(1+W)).
        """
        c = self.config
        draw = Draw(draw_seed(visual.device) if self._drops() else None, backend=self.backend)
        past = [(O, E)]
        looked: list[tuple[Tensor, Tensor, Tensor]] = []
        for step in range(c.num_steps):
            drop = draw.at(step)
            z, a_language = self.formation(O, E, language, language_mask, drop)
            r, a_visual = self.execution(z, E, visual, visual_mask, drop)
            O, E, a_operations = self.composition(z, r, past, drop)
            past = [(O, E), *past][: max(1, c.window)]
            if return_attention:
                looked.append((a_language, a_visual, self._pad(a_operations, a_visual)))
        return O, E, [torch.stack(a) for a in zip(*looked, strict=True)]
