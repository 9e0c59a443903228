"""The drop-in: the same module as `iprm.reference`, its recurrence one fused op.

Constructor, parameters and numbers are the reference's; only the order of the algebra differs (mechanism.md, "What
the algebra allows"). Where a layer that the op would read past is not plain (`iprm.layers`), the module runs as the
reference does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from iprm import reference
from iprm.config import RATES, IPRMConfig
from iprm.graphs import Graphs
from iprm.layers import bias_of, first_not_plain, has_hooks, parameter_of, warn_once
from iprm.reference import Attention
from iprm_kernels import MemoryEstimate, memory_estimate, recurrence
from iprm_kernels.backends import BACKENDS
from iprm_kernels.checks import check_choice
from iprm_kernels.dropout import draw_seed
from iprm_kernels.steps.kept import room_of
from iprm_kernels.steps.weights import Activations, Epsilons, Map, Rates, Weights

STAGES: dict[str, type[nn.Module]] = {
    "formation": reference.Formation,
    "execution": reference.Execution,
    "composition": reference.Composition,
}


def map_of(layer: nn.Module) -> Map | None:
    """What the op reads of a layer, None of one that does nothing."""
    if isinstance(layer, nn.Identity):
        return None
    return Map(parameter_of(layer, "weight"), bias_of(layer))  # pyright: ignore[reportArgumentType] - it is plain


STATELESS: set[type[nn.Module]] = {
    nn.Linear,
    nn.LayerNorm,
    nn.Identity,
    nn.ModuleList,
    reference.InitialMemory,
    reference.Readout,
    *STAGES.values(),
}
"""Modules that compute with inputs and parameters alone; another class may have a state that no graph would see."""


class IPRM(reference.IPRM):
    """The iterative and parallel reasoning mechanism on fused kernels: `iprm.reference.IPRM`, faster and smaller.

    Its recurrence is one operator, forward and backward (`iprm_kernels.recurrence`).

    Args:
        config: every option, see `IPRMConfig`.
        backend: "auto" takes the best backend that supports the call; a named one runs or raises with the reason.
            See `iprm_kernels.reasons` for what can run here.
        cuda_graph: replay forwards and training steps as CUDA graphs, with dropout drawn anew. The first call of each
            kind (shapes, dtypes, which masks, attention returned or not, autocast, training or evaluation, which inputs
            and parameters require gradients) runs a few times and is captured, so it is slow; the later ones are one
            launch forward and one backward, on copies of the inputs, and return copies. The last eight kinds are kept,
            each with its memory: of a step, all activations and gradients. Moving or replacing parameters discards
            them, so leave it off where they move in each call (sharded ones); new values in place do not.
        memory: what a training step's forward may keep beyond rows of B·K so that its backward computes less again:
            "least" nothing, "fast" all, "auto" at most as many bytes as those rows take; or a number of bytes. No
            result changes by more than rounding. See `iprm_kernels.recurrence`.

            A call runs as usual on a CPU, which has nothing to capture; on an empty batch; where a stage or a layer has
            a hook or is of another class than here; within activation checkpointing and other hooks of saved tensors,
            torch.func, forward mode, compilers and tracers; with gradients, on torch before 2.8, and while an earlier
            call of its kind waits for its backward (of two forwards before one backward, the first is replayed). A
            second backward of one call, and one with `create_graph` or `is_grads_batched`, runs the forward once more.

    Layers need not be plain: adapters, hooks, pruning, quantised or sharded weights give the reference's numbers. A
    module with such a layer in its stages runs as the reference does, at the reference's cost, and a warning says so
    once.
    """

    def __init__(
        self, config: IPRMConfig, backend: str = "auto", cuda_graph: bool = False, memory: str | int = "auto"
    ) -> None:
        super().__init__(config)
        check_choice("backend", backend, ("auto", *BACKENDS))
        room_of(memory)  # raises
        self.backend, self.memory_policy = backend, memory
        self.graphs: Graphs | None = Graphs() if cuda_graph else None

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

        def forward(module: IPRM, *inputs: Any) -> Tensor | tuple[Tensor, Attention]:
            return super().forward(*inputs, return_attention=return_attention)

        if self.graphs is None or not self._is_capturable():
            return forward(self, *inputs)
        return self.graphs(forward, self, inputs, (return_attention, self.training, self.backend, self.memory_policy))

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
        """`iprm.reference.IPRM._recurrence`, as one op."""
        if self.unfused():
            return super()._recurrence(O, E, language, visual, language_mask, visual_mask, return_attention)
        return recurrence(
            O,
            E,
            language,
            visual,
            self._weights(),
            language_mask=language_mask,
            visual_mask=visual_mask,
            seed=draw_seed(visual.device) if self._drops() else None,
            **self._options(),
        )

    def _options(self) -> dict[str, Any]:
        """Of the op, all but tensors."""
        c = self.config
        φ = (c.formation_activation, c.result_query_activation, c.execution_activation, c.op_activation)
        return {
            "steps": c.num_steps,
            "window": c.window,
            "mask_self": c.mask_self,
            "activations": Activations(*φ, c.result_activation),
            "rates": Rates(*(float(getattr(c, name)) for name in RATES)) if self._drops() else Rates(),
            "epsilons": self._epsilons(),
            "backend": self.backend,
            "memory": self.memory_policy,
        }

    def memory_estimate(
        self, batch: int, language_tokens: int, visual_tokens: int, *, inputs_require_grad: bool = True
    ) -> MemoryEstimate:
        """The memory of a call on that many samples and tokens, without running it: a forward's and a training step's.

        The mode counts, for its dropout, and which parameters require gradients. Parameters may lie on the meta device,
        the backend then being named: `with torch.device("meta"): IPRM(config, backend="triton")`.

        Args:
            inputs_require_grad: whether those of language and visual are asked for.
        Returns: bytes beyond parameters and inputs, see `iprm_kernels.memory_estimate`. All gradients are in it, the
            optimiser and what surrounds the module are not.
        Raises:
            RuntimeError: the module runs as the reference does, whose memory this is not; why.
            ValueError: a parameter is on the meta device, and no backend is named.
        """
        if reason := self.unfused():
            raise RuntimeError(f"memory_estimate: expected a module that runs fused, but {reason}")
        D, like = self.config.dim, self._like(torch.empty(0))

        def shaped(tokens: int, grad: bool = True) -> Tensor:
            return like.new_empty(1, 1, 1).expand(batch, tokens, D).requires_grad_(grad)

        O, E = shaped(self.config.num_ops), shaped(self.config.num_ops)
        language, visual = (shaped(tokens, inputs_require_grad) for tokens in (language_tokens, visual_tokens))
        found = memory_estimate(O, E, language, visual, self._weights(), **self._options())
        around = sum(p.nbytes for part in (self.memory, self.readout) for p in part.parameters() if p.requires_grad)
        return found._replace(training=found.training + around)

    def unfused(self) -> str | None:
        """Why the module runs as the reference does, or None; the first time, a warning says so."""
        found = (first_not_plain(getattr(self, name), name, kind) for name, kind in STAGES.items())
        reason = next((why for why in found if why), None)
        if reason and not torch.compiler.is_compiling():
            warn_once(
                f"iprm.fast: {reason}, so the module runs as iprm.reference does: slower, and in training it stores"
                " (B, K, N, R) tensors"
            )
        return reason

    def _is_capturable(self) -> bool:
        """Whether a graph would do all that a call does inside of this module."""
        return all(
            type(module) in STATELESS and not has_hooks(module) for module in self.modules() if module is not self
        )

    def _norms(self) -> dict[str, nn.Module]:
        """The norms of the stages, under their names in `Weights`."""
        c = self.composition
        norms = {"formation_norm": self.formation.norm, "execution_norm": self.execution.norm}
        if self.config.update:
            norms |= {"update_norm_o": c.update_norm_o, "update_norm_r": c.update_norm_r}
        if self.config.composition:
            norms |= {"composition_norm_o": c.norm_o, "composition_norm_r": c.norm_r}
        return norms

    def _epsilons(self) -> Epsilons:
        return Epsilons(**{name: norm.eps for name, norm in self._norms().items() if isinstance(norm, nn.LayerNorm)})

    def _weights(self) -> Weights:
        """What the op reads."""
        maps: dict[str, Any] = {name: map_of(norm) for name, norm in self._norms().items()}
        for stage in (self.formation, self.execution, self.composition):
            for name, layer in stage._modules.items():
                if layer is None:
                    continue
                if name in ("We", "Wz") and isinstance(layer, nn.ModuleList):
                    maps |= {name: map_of(layer[0]), name + "2": map_of(layer[1])}
                elif name == "F2":
                    maps[name] = tuple(map(map_of, layer if isinstance(layer, nn.ModuleList) else [layer]))
                elif name == "J":
                    maps["J_formation" if stage is self.formation else "J_execution"] = map_of(layer)
                elif "norm" not in name:
                    maps[name] = map_of(layer)
        return Weights(**maps)
