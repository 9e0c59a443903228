"""2. Operation execution: look at the picture, guided by the new operation and the prior result."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from iprm_kernels.activations import ACTIVATIONS, gradient, kept_of
from iprm_kernels.philox import Role
from iprm_kernels.steps.kept import PAIRS
from iprm_kernels.steps.run import Run, Site, Sites
from iprm_kernels.steps.weights import Map


class Look(NamedTuple):
    """What a step looks at: x̃ (B, N, D) and its keys, (B, N, R) each: v and u = C1b v + c1, or κ of the simple form."""

    x: Tensor
    keys: tuple[Tensor, ...]


class Execution:
    """r_k = LN?( Σ_n a_kn (Wv x̃_n) ): what both forms of execution share; `Full` and `Simple` have keys and logits.

    V: visual tokens (B, N, D).  mask: (B, N) bool, which the backward does not need.
    Without visual dropout the keys do not depend on the step: they are made once, and kept. With it every step makes
    its own; its backward makes x̃ again, and the keys too unless all steps' are kept.
    """

    KEYS: tuple[str, ...]
    """Under these names the keys are kept."""
    OF_KEYS: frozenset[str]
    """The maps that they are made by."""

    def __init__(self, run: Run, V: Tensor, mask: Tensor | None = None, need_tokens: bool = False) -> None:
        self.run, self.V, self.mask, self.need_tokens = run, V, mask, need_tokens
        self.w = run.w.w.weight[0]
        self.need_keys = need_tokens or bool(run.needs & self.OF_KEYS)
        self.once = None if run.o.rates.visual > 0.0 else self.kept_look(V, 0)

    def kept_look(self, x: Tensor, place: int) -> Look:
        """With the keys of that place, if they were kept; otherwise they are made, and kept if a backward follows."""
        run = self.run
        if run.returning and self.KEYS[0] in run.kept:
            return Look(x, tuple(run.kept[name][place] for name in self.KEYS))
        look = self.look(x)
        run.keep(**dict(zip(self.KEYS, look.keys, strict=True)))
        return look

    def tokens(self, t: int) -> Look:
        """x̃ of step t with its keys."""
        return self.once or self.kept_look(self.run.drop(self.V, self.visual_site(t)), t)

    def forward(self, t: int, z: Tensor, E: Tensor) -> tuple[Tensor, Tensor]:
        """-> r (B, K, D), attention (B, K, N)."""
        run = self.run
        pooled, a = self.attend(t, self.tokens(t), z, E)
        r = run.norm("execution_norm", run.project("Wv", pooled, a, self.attention_site(t)))
        run.keep(Wv=pooled)
        return r, a

    def backward(
        self, t: int, a: Tensor, da: Tensor | None, dr: Tensor, dz: Tensor, dE: Tensor
    ) -> tuple[Tensor, Tensor]:
        """From the gradients of the attention and of r, and what is known of z's and E's: those of z and E."""
        run, look = self.run, self.tokens(t)
        dr = run.norm_back("execution_norm", t, dr)
        d_pooled, da = run.project_back("Wv", t, dr, a, da, self.attention_site(t))
        dz, dE, d_look = self.attend_back(t, look, a, d_pooled, da, dz, dE)
        if self.once is None:
            self.look_back(look, d_look, self.visual_site(t))
        else:  # all steps look at the same, and `finish` meets the sum
            self.sum_up(d_look)
        return dz, dE

    def sum_up(self, d_look: Look) -> None:
        if self.need_tokens:
            self.run.add("x", d_look.x)
        if self.need_keys:
            for name, d in zip(self.KEYS, d_look.keys, strict=True):
                self.run.add(name, d)

    def finish(self) -> None:
        """What is left to do when all steps are through."""
        if self.once is not None and self.need_keys:
            sums = self.run.sums
            d_x: Any = sums.get("x")  # None where no gradient of the tokens is asked for
            self.look_back(self.once, Look(d_x, tuple(sums[name] for name in self.KEYS)), None)

    def tokens_back(self, first: Map, d: Tensor, dx: Tensor, site: Site | None) -> None:
        """The gradient of V from those of first x̃ and of x̃."""
        dx = self.run.linear_back(first, d, dx)
        self.run.add("V", dx if site is None else self.run.drop(dx, site))

    # Dropout sites.

    def visual_site(self, t: int) -> Site:
        return self.run.o.rates.visual, Role.VISUAL, t

    def attention_site(self, t: int) -> Site:
        return self.run.o.rates.execution_attention, Role.EXECUTION_ATTENTION, t

    def result_sites(self, t: int) -> Sites:
        """vdrop has one mask for all steps."""
        rates = self.run.o.rates
        return (rates.variational, Role.VARIATIONAL, 0), (rates.result, Role.RESULT, t)

    def operation_sites(self, t: int) -> Sites:
        return ((self.run.o.rates.operation, Role.OPERATION, t),)

    def core_options(self, t: int) -> tuple[Tensor | None, int, float, float, str]:
        rates, φ = self.run.o.rates, self.run.o.activations.execution
        return self.run.seed, t, rates.product, rates.execution_attention, φ

    # The forms.

    def look(self, x: Tensor) -> Look:
        """x̃ with its keys."""
        raise NotImplementedError

    def look_back(self, look: Look, d: Look, site: Site | None) -> None:
        """Adds up the gradients of V and of the maps that make the keys."""
        raise NotImplementedError

    def attend(self, t: int, look: Look, z: Tensor, E: Tensor) -> tuple[Tensor, Tensor]:
        """-> Σ_n a_kn x̃_n (B, K, D), attention (B, K, N)."""
        raise NotImplementedError

    def attend_back(
        self, t: int, look: Look, a: Tensor, d_pooled: Tensor, da: Tensor | None, dz: Tensor, dE: Tensor
    ) -> tuple[Tensor, Tensor, Look]:
        """-> the gradients of z, of E and of what was looked at."""
        raise NotImplementedError

    def gradients(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Weight and bias gradients of the maps that both forms have, by field."""
        run = self.run
        grads = {"w": run.gate_gradient("w")}
        if "Wv" in run.needs:
            grads["Wv"] = run.map_gradient("Wv", run.kept["Wv"])
        if "execution_norm" in run.needs:
            grads["execution_norm"] = run.summed_gradient("execution_norm")
        return grads


class Full(Execution):
    """h_kn = C2 φ_v( C1a (g_k ⊙ v_n) + u_n ),  s_kn = w · drop(φ_v( h_kn ⊙ (Wq z_k) ))."""

    KEYS = ("v", "u")
    OF_KEYS = frozenset({"Wk", "C1"})

    def __init__(self, run: Run, V: Tensor, mask: Tensor | None = None, need_tokens: bool = False) -> None:
        R, C1, C2 = run.w.reduced, run.w.C1, run.w.C2
        self.C1a, self.C1b = C1.weight[:, :R], Map(C1.weight[:, R:], C1.bias)
        self.bias_g = run.w.We.bias + run.w.Wz.bias
        self.packed = run.cores.pack(self.C1a, C2.weight, V.shape[1], run.returning)
        super().__init__(run, V, mask, need_tokens)

    def look(self, x: Tensor) -> Look:
        v = self.run.linear(self.run.w.Wk, x)
        return Look(x, (v, self.run.linear(self.C1b, v)))

    def look_back(self, look: Look, d: Look, site: Site | None) -> None:
        run, (v, _), (dv, du) = self.run, look.keys, d.keys
        if "C1" in run.needs:
            run.add_product("C1b", du, v)
            run.add("C1.bias", du.sum((0, 1)))
        if not (self.need_tokens or "Wk" in run.needs):
            return
        dv = run.linear_back(self.C1b, du, dv)
        if "Wk" in run.needs:
            run.add_product("Wk", dv, look.x)
            run.add("Wk.bias", dv.sum((0, 1)))
        if self.need_tokens:
            self.tokens_back(run.w.Wk, dv, d.x, site)

    def pairs(self, t: int) -> tuple[Tensor, ...]:
        """What is kept of the pairs of a step, each (B, K, N, R); nothing where none are."""
        return tuple(self.run.kept[name][t] for name in PAIRS if name in self.run.kept)

    def attend(self, t: int, look: Look, z: Tensor, E: Tensor) -> tuple[Tensor, Tensor]:
        run, w = self.run, self.run.w
        g = run.dropped_linear("We", E, self.result_sites(t), self.bias_g)
        g = run.dropped_linear("Wz", z, self.operation_sites(t), g)
        l = run.linear(w.Wq, z)
        run.keep(g=g, l=l)
        weights = self.C1a, w.C2.weight, w.C2.bias, self.w
        options = self.core_options(t)
        pairs = self.pairs(t)
        return run.cores.execution(*look.keys, g, l, *weights, look.x, self.mask, *options, *self.packed, *pairs)

    def attend_back(
        self, t: int, look: Look, a: Tensor, d_pooled: Tensor, da: Tensor | None, dz: Tensor, dE: Tensor
    ) -> tuple[Tensor, Tensor, Look]:
        run, w, g, l = self.run, self.run.w, self.run.kept["g"][t], self.run.kept["l"][t]
        keys = self.need_keys
        needs = [keys, keys, True, True, "C1" in run.needs, "C2" in run.needs, True, True, self.need_tokens]
        weights = self.C1a, w.C2.weight, w.C2.bias, self.w
        dv, du, dg, dl, dC1a, dC2, dc2, dw, dx = run.cores.execution_backward(
            d_pooled, da, *look.keys, g, l, *weights, look.x, a, *self.core_options(t), needs, *self.packed,
            *self.pairs(t),
        )  # fmt: skip
        run.add("w", dw)
        if "C1" in run.needs:
            run.add("C1a", dC1a)
        if "C2" in run.needs:
            run.add("C2", dC2)
            run.add("C2.bias", dc2)
        run.row("Wq", t, dl)
        run.row("g", t, dg)
        dz = run.linear_back(w.Wq, dl, dz)
        dz = run.dropped_linear_back("Wz", dg, self.operation_sites(t), dz)
        dE = run.dropped_linear_back("We", dg, self.result_sites(t), dE)
        return dz, dE, Look(dx, (dv, du))

    def gradients(self) -> dict[str, tuple[Tensor, Tensor]]:
        run, sums, grads = self.run, self.run.sums, super().gradients()
        sides = [("We", "E"), ("Wz", "z")]
        wanted = [(name, run.inputs(name, otherwise)) for name, otherwise in sides if name in run.needs]
        if wanted:  # both meet the gradient of g
            parts, bias = run.products("g", *(x for _, x in wanted))
            grads |= {name: (part, bias.clone()) for (name, _), part in zip(wanted, parts, strict=True)}
        if "Wq" in run.needs:
            grads["Wq"] = run.map_gradient("Wq", run.kept["z"])
        if "C1" in run.needs:
            grads["C1"] = torch.cat([sums["C1a"], sums["C1b"]], 1), sums["C1.bias"]
        return grads | {name: run.summed_gradient(name) for name in {"Wk", "C2"} & run.needs}


class Simple(Execution):
    """κ_n = C2 φ_v(C1 x̃_n),  s_kn = w · drop(φ_v( p_k ⊙ κ_n ))."""

    KEYS = ("κ",)
    OF_KEYS = frozenset({"C1", "C2"})

    def look(self, x: Tensor) -> Look:
        hidden = ACTIVATIONS[self.run.o.activations.execution](self.run.linear(self.run.w.C1, x))
        return Look(x, (self.run.linear(self.run.w.C2, hidden),))

    def look_back(self, look: Look, d: Look, site: Site | None) -> None:
        run, φ, (dκ,) = self.run, self.run.o.activations.execution, d.keys
        before = run.linear(run.w.C1, look.x)  # made again, as the pairs of the full form are
        hidden = ACTIVATIONS[φ](before)
        if "C2" in run.needs:
            run.add_product("C2", dκ, hidden)
            run.add("C2.bias", dκ.sum((0, 1)))
        if not (self.need_tokens or "C1" in run.needs):
            return
        d_before = gradient(φ, run.linear_back(run.w.C2, dκ), kept_of(φ, before, hidden))
        if "C1" in run.needs:
            run.add_product("C1", d_before, look.x)
            run.add("C1.bias", d_before.sum((0, 1)))
        if self.need_tokens:
            self.tokens_back(run.w.C1, d_before, d.x, site)

    def attend(self, t: int, look: Look, z: Tensor, E: Tensor) -> tuple[Tensor, Tensor]:
        p = self.query(t, z, E)
        self.run.keep(p=p)
        return self.run.cores.execution_simple(*look.keys, p, self.w, look.x, self.mask, *self.core_options(t))

    def attend_back(
        self, t: int, look: Look, a: Tensor, d_pooled: Tensor, da: Tensor | None, dz: Tensor, dE: Tensor
    ) -> tuple[Tensor, Tensor, Look]:
        run, needs = self.run, [self.need_keys, True, True, self.need_tokens]
        dκ, dp, dw, dx = run.cores.execution_simple_backward(
            d_pooled, da, *look.keys, run.kept["p"][t], self.w, look.x, a, *self.core_options(t), needs
        )
        run.add("w", dw)
        return *self.query_back(t, dp, dz, dE), Look(dx, (dκ,))

    # p = Wz drop(z) + We ê, or J of the two; each map may be one of two layers, whose input is then not dropped.

    def query(self, t: int, z: Tensor, E: Tensor) -> Tensor:
        run, J = self.run, self.run.w.J_execution
        of_operation, of_result = self.side("Wz", z, t), self.side("We", E, t)
        if J is None:
            return of_operation + of_result
        joined = torch.cat([of_operation, of_result], -1)
        run.keep(J_execution=joined)
        return run.linear(J, joined)

    def query_back(self, t: int, dp: Tensor, dz: Tensor, dE: Tensor) -> tuple[Tensor, Tensor]:
        run, J = self.run, self.run.w.J_execution
        d_operation = d_result = dp
        if J is not None:
            run.row("J_execution", t, dp)
            d_operation, d_result = run.linear_back(J, dp).chunk(2, -1)
        return self.side_back("Wz", d_operation, t, dz), self.side_back("We", d_result, t, dE)

    def side(self, name: str, x: Tensor, t: int) -> Tensor:
        run, second, (inner, sites) = self.run, getattr(self.run.w, name + "2"), self.sites(name, t)
        if second is None:
            return run.dropped_linear(name, x, sites)
        return run.two_layers((name, name + "2"), second, run.dropped_input(name, x, sites), "tanh", inner)

    def side_back(self, name: str, dy: Tensor, t: int, dx: Tensor) -> Tensor:
        run, second, (inner, sites) = self.run, getattr(self.run.w, name + "2"), self.sites(name, t)
        if second is None:
            run.row(name, t, dy)
        else:
            dy = run.two_layers_back((name, name + "2"), second, t, dy, "tanh", inner)
        return run.dropped_linear_back(name, dy, sites, dx)

    def sites(self, name: str, t: int) -> tuple[Site, Sites]:
        """The dropout between two layers, if there are two, and the dropout of the input."""
        rates, two = self.run.o.rates, getattr(self.run.w, name + "2") is not None
        if name == "Wz":
            return (rates.operation, Role.OPERATION_HIDDEN, t), () if two else self.operation_sites(t)
        sites = self.result_sites(t)
        return (rates.result, Role.RESULT_HIDDEN, t), sites[:1] if two else sites

    def gradients(self) -> dict[str, tuple[Tensor, Tensor]]:
        run, grads = self.run, super().gradients()
        inputs = {"We": "E", "Wz": "z", "We2": "We2", "Wz2": "Wz2", "J_execution": "J_execution"}
        for name, otherwise in inputs.items():
            if name in run.needs:
                grads[name] = run.map_gradient(name, run.inputs(name, otherwise))
        return grads | {name: run.summed_gradient(name) for name in self.OF_KEYS & run.needs}


def execution_of(run: Run, V: Tensor, mask: Tensor | None = None, need_tokens: bool = False) -> Execution:
    """The form that the weights are for."""
    return (Simple if run.w.Wk is None else Full)(run, V, mask, need_tokens)
