"""1. Operation formation: what to look for, from language."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from iprm_kernels.philox import Role
from iprm_kernels.steps.run import Run, Site
from iprm_kernels.steps.weights import Map


class Formation:
    """q_k = F2 drop(φ_l(F1 O_k)),  z_k = LN?( Σ_j a_kj x_j ).

    X: language tokens (B, L, D).  mask: (B, L) bool, which the backward does not need.
    """

    def __init__(self, run: Run, X: Tensor, mask: Tensor | None = None, need_tokens: bool = False) -> None:
        self.run, self.X, self.mask, self.need_tokens = run, X, mask, need_tokens
        self.f = run.w.f.weight[0]

    def forward(self, t: int, O: Tensor, E: Tensor) -> tuple[Tensor, Tensor]:
        """-> z (B, K, D), attention (B, K, L)."""
        run, p = self.run, self.run.o.rates.formation_attention
        q = self.query(t, O, E)
        z, a = run.cores.formation(q, self.X, self.f, self.mask, run.seed, t, p)
        z = run.norm("formation_norm", z)
        run.keep(q=q, z=z)
        return z, a

    def backward(
        self, t: int, a: Tensor, da: Tensor | None, dz: Tensor, dO: Tensor, dE: Tensor
    ) -> tuple[Tensor, Tensor]:
        """From the gradients of the attention and of z, and what is known of O's and E's: those of O and E."""
        run, p = self.run, self.run.o.rates.formation_attention
        dz, q = run.norm_back("formation_norm", t, dz), run.kept["q"][t]
        needs = [True, self.need_tokens, True]
        dq, dX, df = run.cores.formation_backward(dz, da, q, self.X, self.f, a, run.seed, t, p, needs)
        run.add("f", df)
        if self.need_tokens:
            run.add("X", dX)
        return self.query_back(t, dq, dO, dE)

    # The query. With results in it G2 drop(φ_g(G1 E_k)) is added, or joined through J.

    def query(self, t: int, O: Tensor, E: Tensor) -> Tensor:
        run, w = self.run, self.run.w
        q = run.two_layers(("F1", "F2"), self.F2(t), O, *self.of_operation(t))
        if w.G1 is None:
            return q
        from_results = run.two_layers(("G1", "G2"), w.G2, E, *self.of_result(t))
        if w.J_formation is None:
            return q + from_results
        joined = torch.cat([q, from_results], -1)
        run.keep(J_formation=joined)
        return run.linear(w.J_formation, joined)

    def query_back(self, t: int, dq: Tensor, dO: Tensor, dE: Tensor) -> tuple[Tensor, Tensor]:
        run, w = self.run, self.run.w
        d_from_results = dq
        if w.J_formation is not None:
            run.row("J_formation", t, dq)
            dq, d_from_results = run.linear_back(w.J_formation, dq).chunk(2, -1)
        if w.G1 is not None:
            d_before = run.two_layers_back(("G1", "G2"), w.G2, t, d_from_results, *self.of_result(t))
            dE = run.linear_back(w.G1, d_before, dE)
        d_before = run.two_layers_back(("F1", "F2"), self.F2(t), t, dq, *self.of_operation(t))
        return run.linear_back(w.F1, d_before, dO), dE

    def F2(self, t: int) -> Map:
        """The F2 of step t."""
        return self.run.w.F2[t if len(self.run.w.F2) > 1 else 0]

    def of_operation(self, t: int) -> tuple[str, Site]:
        """φ_l and the dropout after it."""
        o = self.run.o
        return o.activations.formation, (o.rates.formation, Role.FORMATION_HIDDEN, t)

    def of_result(self, t: int) -> tuple[str, Site]:
        """φ_g and the dropout after it."""
        o = self.run.o
        return o.activations.result_query, (o.rates.formation, Role.FORMATION_RESULT, t)

    def gradients(self) -> dict[str, tuple[Any, ...]]:
        """Weight and bias gradients by field; those of F2 in a tuple."""
        run, kept = self.run, self.run.kept
        grads: dict[str, tuple[Any, ...]] = {"f": run.gate_gradient("f")}
        for name, x in (("F1", "O"), ("G1", "E"), ("G2", "G2"), ("J_formation", "J_formation")):
            if name in run.needs:
                grads[name] = run.map_gradient(name, kept[x])
        if "F2" in run.needs:
            grads["F2"] = self.F2_gradients()
        if "formation_norm" in run.needs:
            grads["formation_norm"] = run.summed_gradient("formation_norm")
        return grads

    def F2_gradients(self) -> tuple[tuple[Tensor, Tensor], ...]:
        run, x = self.run, self.run.kept["F2"]
        if len(run.w.F2) == 1:
            return (run.map_gradient("F2", x),)
        flat = ((dy.flatten(0, 1), x.flatten(0, 1)) for dy, x in zip(run.rows["F2"], x, strict=True))
        return tuple((dy.mT @ x, dy.sum(0)) for dy, x in flat)
