"""3. Operation composition: write to memory, compare with the recent past."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

import torch
from torch import Tensor

from iprm_kernels.activations import ACTIVATIONS, gradient, kept_of
from iprm_kernels.philox import Role
from iprm_kernels.steps.run import Run, Site


class Columns(NamedTuple):
    """What the K states of one step are as columns of a window, (B, K, D) each: keys, and the values of O and of E."""

    key: Tensor
    operation: Tensor
    result: Tensor


class Composition:
    """o_k = LN?( Uo [ φ_o(z_k) ; O_k ] ), likewise e_k; then O_k <- LN?( Σ_j a_kj drop_upd(Vo ō_j) + So o_k ).

    A memory stands in the windows of up to W steps. What its columns are is made once, when it first stands in one, and
    kept; their gradients are summed over those steps, and carried to the memory at the first of them.
    """

    def __init__(self, run: Run) -> None:
        rates, w = run.o.rates, run.w
        self.run = run
        self.past: list[Columns] = []  # of the memories before this step, most recent first
        self.composes = w.Qo is not None
        self.drops_values = rates.composition_value > 0.0  # then they are projected before they are pooled
        self.drops_products = rates.composition_product > 0.0
        self.projects_keys = w.Ko is not None and self.drops_products
        self.d_past: dict[int, Columns] = {}  # by step, the gradients of the columns of the memory before it
        self.d_projected: dict[str, list[Any]] = defaultdict(lambda: [None] * 2 * run.o.steps)
        if self.composes:
            self.c = w.c.weight[0]
            self.gate = torch.ones_like(self.c) if w.Ko is not None and not self.drops_products else self.c

    def forward(self, t: int, z: Tensor, r: Tensor, O: Tensor, E: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """-> O, E of the next step (B, K, D), attention (B, K, columns), None without composition."""
        run, W = self.run, self.run.o.window
        o, e = self.update(z, r, O, E)
        if not self.composes:
            return o, e, None
        if W > 0:
            self.past = [self.columns(O, E), *self.past][:W]
        window = [self.columns(o, e), *self.past]
        pooled_o, pooled_r, a = run.cores.composition(
            self.query(o), *self.lists(window), self.gate, *self.core_options(t)
        )
        run.keep(o=o, e=e)
        if not self.drops_values:
            run.keep(pooled_o=pooled_o, pooled_r=pooled_r)
        O, E = self.write("Vo", "So", pooled_o, a, o, t), self.write("Vr", "Sr", pooled_r, a, e, t)
        return run.norm("composition_norm_o", O), run.norm("composition_norm_r", E), a

    def backward(
        self, t: int, a: Tensor, da: Tensor | None, dO: Tensor, dE: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """From the gradients of the attention and of the next step's memory: those of z, r, O and E."""
        run, kept = self.run, self.run.kept
        if not self.composes:
            return self.update_back(t, dO, dE)
        dO, dE = run.norm_back("composition_norm_o", t, dO), run.norm_back("composition_norm_r", t, dE)
        d_pooled_o, da, do = self.write_back("Vo", "So", t, dO, a, da)
        d_pooled_r, da, de = self.write_back("Vr", "Sr", t, dE, a, da)
        window = [self.kept_columns("now", t), *(self.kept_columns("past", s) for s in self.steps_of_window(t))]
        query = kept["folded" if "folded" in kept else "Qo"][t]
        d_query, *d_lists, d_gate = run.cores.composition_backward(
            d_pooled_o, d_pooled_r, da, query, *self.lists(window), self.gate, a, *self.core_options(t)
        )
        d_now, *d_past = map(Columns._make, zip(*d_lists, strict=True))
        do, de = self.columns_back("now", t, d_now, self.query_back(t, d_query, d_gate, do), de)
        for s, d in zip(self.steps_of_window(t), d_past, strict=True):
            if s in self.d_past:
                torch._foreach_add_(list(self.d_past[s]), list(d))
            else:
                self.d_past[s] = d
        dz, dr, dO, dE = self.update_back(t, do, de)
        if run.o.window > 0:  # the memory before this step was in no earlier window
            dO, dE = self.columns_back("past", t, self.d_past.pop(t), dO, dE)
        return dz, dr, dO, dE

    # o = LN?( Uo [ φ_o(z) ; O ] ), e = LN?( Ur [ E ; φ_r(r) ] ); without update o = O, e = r.

    def update(self, z: Tensor, r: Tensor, O: Tensor, E: Tensor) -> tuple[Tensor, Tensor]:
        run, w, φ = self.run, self.run.w, self.run.o.activations
        if w.Uo is None:
            return O, r
        run.keep(r=r)
        o = self.join("Uo", ACTIVATIONS[φ.op](z), O)
        e = self.join("Ur", E, ACTIVATIONS[φ.result](r))
        return run.norm("update_norm_o", o), run.norm("update_norm_r", e)

    def update_back(self, t: int, do: Tensor, de: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        run, kept, φ = self.run, self.run.kept, self.run.o.activations
        if run.w.Uo is None:
            return torch.zeros_like(do), de, do, torch.zeros_like(de)
        do, de = run.norm_back("update_norm_o", t, do), run.norm_back("update_norm_r", t, de)
        dz, dO = self.join_back("Uo", t, do)
        dE, dr = self.join_back("Ur", t, de)
        return self.through(φ.op, dz, kept["z"][t]), self.through(φ.result, dr, kept["r"][t]), dO, dE

    def join(self, name: str, left: Tensor, right: Tensor) -> Tensor:
        """W [left ; right], without a joined copy."""
        cores, (weight, bias), D = self.run.cores, getattr(self.run.w, name), left.shape[-1]
        return cores.linear(right, weight[:, D:], cores.linear(left, weight[:, :D], bias))

    def join_back(self, name: str, t: int, dy: Tensor) -> tuple[Tensor, Tensor]:
        self.run.row(name, t, dy)
        cores, weight, D = self.run.cores, getattr(self.run.w, name).weight, dy.shape[-1]
        return cores.linear_back(dy, weight[:, :D], None), cores.linear_back(dy, weight[:, D:], None)

    @staticmethod
    def through(φ: str, dy: Tensor, x: Tensor) -> Tensor:
        """The gradient of x from that of φ(x)."""
        return dy if φ == "identity" else gradient(φ, dy, kept_of(φ, x, ACTIVATIONS[φ](x)))

    # The query. (c ⊙ q) · (Ko ō_j + b) = (Koᵀ (c ⊙ q)) · ō_j + a number that does not depend on j: unless the product
    # is dropped, the keys need no projection.

    def query(self, o: Tensor) -> Tensor:
        run, w = self.run, self.run.w
        q = run.linear(w.Qo, o)
        run.keep(Qo=q)
        if w.Ko is None or self.projects_keys:
            return q
        folded = run.linear_back(w.Ko, q * self.c)
        run.keep(folded=folded)
        return folded

    def query_back(self, t: int, d_query: Tensor, d_gate: Tensor, do: Tensor) -> Tensor:
        """-> do with what comes through the query."""
        run, w = self.run, self.run.w
        if w.Ko is None or self.projects_keys:
            run.add("c", d_gate)
        else:
            run.row("folded", t, d_query)
            d_gated = run.cores.linear(d_query, w.Ko.weight, torch.zeros_like(self.c))
            run.add("c", (d_gated * run.kept["Qo"][t]).sum((0, 1)))
            d_query = d_gated * self.c
        run.row("Qo", t, d_query)
        return run.linear_back(w.Qo, d_query, do)

    # Columns.

    def columns(self, O: Tensor, E: Tensor) -> Columns:
        run, w = self.run, self.run.w
        key, operation, result = O, O, E
        if self.projects_keys:
            key = run.linear(w.Ko, O)
            run.keep(key=key)
        if self.drops_values:
            operation, result = run.linear(w.Vo, O), run.linear(w.Vr, E)
            run.keep(operation=operation, result=result)
        return Columns(key, operation, result)

    def place(self, which: str, t: int) -> int:
        """Where the columns of step t are kept: with a window, those of the memory stand before those of the states."""
        return t if self.run.o.window == 0 else 2 * t + (which == "now")

    def kept_columns(self, which: str, t: int) -> Columns:
        """Of the states o, e of step t ("now"), or of the memory before it ("past")."""
        kept, i = self.run.kept, self.place(which, t)
        O, E = (kept["o"][t], kept["e"][t]) if which == "now" else (kept["O"][t], kept["E"][t])
        return Columns(
            kept["key"][i] if self.projects_keys else O,
            kept["operation"][i] if self.drops_values else O,
            kept["result"][i] if self.drops_values else E,
        )

    def columns_back(self, which: str, t: int, d: Columns, dO: Tensor, dE: Tensor) -> tuple[Tensor, Tensor]:
        """-> the gradients of the states with what comes through their columns."""
        return (
            self.column_back("Ko", which, t, d.key, self.column_back("Vo", which, t, d.operation, dO)),
            self.column_back("Vr", which, t, d.result, dE),
        )

    def column_back(self, name: str, which: str, t: int, d: Tensor, dx: Tensor) -> Tensor:
        if not (self.projects_keys if name == "Ko" else self.drops_values):
            return dx + d
        self.d_projected[name][self.place(which, t)] = d
        return self.run.linear_back(getattr(self.run.w, name), d, dx)

    def steps_of_window(self, t: int) -> range:
        """The memories before these steps stand in the window of step t, most recent first."""
        return range(t, max(-1, t - self.run.o.window), -1)

    def core_options(self, t: int) -> tuple[bool, Tensor | None, int, float, float, float]:
        o = self.run.o
        rates = o.rates.composition_product, o.rates.composition_value, o.rates.composition_attention
        return o.mask_self, self.run.seed, t, *rates

    @staticmethod
    def lists(window: list[Columns]) -> tuple[list[Tensor], ...]:
        """Keys, operations and results of a window."""
        return tuple(map(list, zip(*window, strict=True)))

    # The new memory: Σ_j a_kj drop_upd(V ō_j) + S o_k.

    def write(self, V: str, S: str, pooled: Tensor, a: Tensor, state: Tensor, t: int) -> Tensor:
        run, residual = self.run, getattr(self.run.w, S)
        if self.drops_values:
            return pooled + run.linear(residual, state)
        return run.project(V, pooled, a, self.attention_site(t), run.linear(residual, state))

    def write_back(
        self, V: str, S: str, t: int, dy: Tensor, a: Tensor, da: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """-> the gradients of pooled, of the attention, and of o or e."""
        run = self.run
        d_pooled = dy
        if not self.drops_values:
            d_pooled, da = run.project_back(V, t, dy, a, da, self.attention_site(t))
        run.row(S, t, dy)
        return d_pooled, da, run.linear_back(getattr(run.w, S), dy)

    def attention_site(self, t: int) -> Site:
        return self.run.o.rates.composition_attention, Role.COMPOSITION_ATTENTION, t

    # Weight gradients.

    def gradients(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Weight and bias gradients by field."""
        run, kept = self.run, self.run.kept
        grads: dict[str, tuple[Tensor, Tensor]] = {}
        if "Uo" in run.needs:
            grads["Uo"] = run.map_gradient("Uo", ACTIVATIONS[run.o.activations.op](kept["z"]), kept["O"])
        if "Ur" in run.needs:
            grads["Ur"] = run.map_gradient("Ur", kept["E"], ACTIVATIONS[run.o.activations.result](kept["r"]))
        grads |= {
            name: run.summed_gradient(name) for name in run.needs if name.startswith(("update_n", "composition_n"))
        }
        if not self.composes:
            return grads
        grads["c"] = run.gate_gradient("c")
        for name, x in (("Qo", "o"), ("So", "o"), ("Sr", "e")):
            if name in run.needs:
                grads[name] = run.map_gradient(name, kept[x])
        for name, pooled, now, past in (("Vo", "pooled_o", "o", "O"), ("Vr", "pooled_r", "e", "E")):
            if name in run.needs:
                projected = self.drops_values
                x, x_past = kept[now], kept[past]
                grads[name] = (
                    self.projected_gradient(name, x, x_past) if projected else run.map_gradient(name, kept[pooled])
                )
        if "Ko" in run.needs:
            grads["Ko"] = (
                self.projected_gradient("Ko", kept["o"], kept["O"]) if self.projects_keys else self.folded_gradient()
            )
        return grads

    def projected_gradient(self, name: str, now: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Of a map that the columns were projected by, from all states that were: (T, B, K, D) of each kind."""
        rows = self.d_projected[name]
        dy = torch.stack(rows[1::2] if self.run.o.window > 0 else rows[: self.run.o.steps]).flatten(0, 2)
        grad, bias = dy.mT @ now.flatten(0, 2), dy.sum(0)
        if self.run.o.window > 0:
            dy = torch.stack(rows[::2]).flatten(0, 2)
            grad, bias = torch.addmm(grad, dy.mT, past.flatten(0, 2)), bias + dy.sum(0)
        return grad, bias

    def folded_gradient(self) -> tuple[Tensor, Tensor]:
        """Of Ko in Koᵀ (c ⊙ q); its bias drops out of the softmax."""
        gated = self.run.kept["Qo"] * self.c
        (grad,), _ = self.run.products("folded", gated)
        return grad.mT.contiguous(), torch.zeros_like(self.c)
