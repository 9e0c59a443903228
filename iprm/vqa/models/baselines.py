"""What IPRM is compared with: blocks of the same inputs and output, refined over as many steps.

Each keeps K latents, begun as IPRM's operations are (`op_init`), and applies one transformer layer T times, its weights
tied across the steps as IPRM's are, its dropout rate `operation_dropout`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from iprm.config import IPRMConfig

HEADS = 4


class _Latents(nn.Module):
    """K latents, and the layer that refines them."""

    def __init__(self, config: IPRMConfig, layer: type[nn.Module], feedforward: int):
        super().__init__()
        D, K = config.dim, config.num_ops
        heads = HEADS if D % HEADS == 0 else 1
        self.steps = config.num_steps
        self.begin = nn.Linear(D, K * D) if config.op_init == "language" else nn.Parameter(torch.randn(K, D))
        self.layer = layer(D, heads, feedforward, config.operation_dropout, batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(D)

    def latents(self, summary: Tensor) -> Tensor:
        """(B, D) -> (B, K, D)."""
        if isinstance(self.begin, nn.Parameter):
            return self.begin.expand(len(summary), -1, -1)
        return self.begin(summary).unflatten(-1, (-1, summary.shape[-1]))


class CrossAttention(_Latents):
    """The latents attend to each other, then to the language and visual tokens: a transformer decoder."""

    def __init__(self, config: IPRMConfig, feedforward: int):
        super().__init__(config, nn.TransformerDecoderLayer, feedforward)

    def forward(
        self, language: Tensor, summary: Tensor, visual: Tensor, language_mask: Tensor, visual_mask: Tensor
    ) -> Tensor:
        """As `iprm.reference.IPRM`: (B, L, D), (B, D), (B, N, D), masks with true = keep -> (B, D)."""
        tokens, padding = torch.cat([language, visual], 1), ~torch.cat([language_mask, visual_mask], 1)
        latents = self.latents(summary)
        for _ in range(self.steps):
            latents = self.layer(latents, tokens, memory_key_padding_mask=padding)
        return self.norm(latents).mean(1)


class ConcatAttention(_Latents):
    """Latents, language and visual tokens attend to one another as one sequence: a transformer encoder."""

    def __init__(self, config: IPRMConfig, feedforward: int):
        super().__init__(config, nn.TransformerEncoderLayer, feedforward)

    def forward(
        self, language: Tensor, summary: Tensor, visual: Tensor, language_mask: Tensor, visual_mask: Tensor
    ) -> Tensor:
        """As `iprm.reference.IPRM`: (B, L, D), (B, D), (B, N, D), masks with true = keep -> (B, D)."""
        latents = self.latents(summary)
        kept = torch.ones(latents.shape[:2], dtype=torch.bool, device=latents.device)
        tokens, padding = torch.cat([latents, language, visual], 1), ~torch.cat([kept, language_mask, visual_mask], 1)
        for _ in range(self.steps):
            tokens = self.layer(tokens, src_key_padding_mask=padding)
        return self.norm(tokens[:, : latents.shape[1]]).mean(1)


class QuestionOnly(nn.Module):
    """Looks at nothing: what the words alone give away."""

    def __init__(self, config: IPRMConfig, feedforward: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(config.dim, feedforward), nn.ELU(), nn.Linear(feedforward, config.dim))

    def forward(
        self, language: Tensor, summary: Tensor, visual: Tensor, language_mask: Tensor, visual_mask: Tensor
    ) -> Tensor:
        """As `iprm.reference.IPRM`: (B, L, D), (B, D), (B, N, D), masks with true = keep -> (B, D)."""
        return self.layers(summary)


def parameters(module: nn.Module) -> int:
    """Return the number of trained numbers."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def of_equal_size(make: Callable[[int], nn.Module], wanted: int) -> nn.Module:
    """Return `make(feedforward)` with the width that brings its parameters nearest to `wanted`.

    Raises `ValueError` where the rest of the module is larger than that.
    """
    with torch.device("meta"):
        one, two = (parameters(make(feedforward)) for feedforward in (1, 2))
    feedforward = round((wanted - one) / (two - one)) + 1
    if feedforward < 1:
        raise ValueError(f"model: expected a block of {wanted} parameters, and {one} are the fewest it can have")
    return make(feedforward)
