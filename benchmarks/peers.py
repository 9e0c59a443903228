"""What one might take in IPRM's place, of `torch.nn`'s layers: blocks of the same inputs, outputs and width.

K latents attend to the words and the picture through transformer layers, whose attention is PyTorch's fused
scaled-dot-product attention. The feed-forward width brings the parameters as near to IPRM's as it can; four decoder
layers have more even without one. What they compute is another thing, so that only finite numbers are asked of them.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from iprm import IPRMConfig, reference
from iprm.vqa.models.baselines import of_equal_size, parameters

HEADS = 8


class _Peer(nn.Module):
    """K learned latents, and the layers."""

    def __init__(self, config: IPRMConfig, layers: int, layer: type[nn.Module], feedforward: int):
        super().__init__()
        D = config.dim
        heads = HEADS if D % HEADS == 0 else 1
        self.latents = nn.Parameter(torch.randn(config.num_ops, D))
        made = functools.partial(layer, D, heads, feedforward, batch_first=True, norm_first=True)
        self.layers = nn.ModuleList(made(dropout=config.operation_dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(D)


class CrossAttention(_Peer):
    """The latents attend to each other, then to words and picture."""

    def __init__(self, config: IPRMConfig, layers: int, feedforward: int):
        super().__init__(config, layers, nn.TransformerDecoderLayer, feedforward)

    def forward(self, language: Tensor, summary: Tensor, visual: Tensor) -> Tensor:
        """(B, L, D), (B, D), (B, N, D) -> (B, D)."""
        tokens, x = torch.cat([language, visual], 1), self.latents + summary[:, None]
        for layer in self.layers:
            x = layer(x, tokens)
        return self.norm(x).mean(1)


class ConcatAttention(_Peer):
    """Latents, words and picture attend to one another as one sequence."""

    def __init__(self, config: IPRMConfig, layers: int, feedforward: int):
        super().__init__(config, layers, nn.TransformerEncoderLayer, feedforward)

    def forward(self, language: Tensor, summary: Tensor, visual: Tensor) -> Tensor:
        """(B, L, D), (B, D), (B, N, D) -> (B, D)."""
        x = torch.cat([self.latents + summary[:, None], language, visual], 1)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x[:, : self.latents.shape[0]]).mean(1)


def peer(kind: type[nn.Module], layers: int, config: IPRMConfig) -> nn.Module:
    """The block whose parameters are nearest to IPRM's."""
    make = functools.partial(kind, config, layers)
    with torch.device("meta"):
        wanted = parameters(reference.IPRM(config))
    try:
        return of_equal_size(make, wanted)
    except ValueError:  # it has more with the narrowest
        return make(1)


PEERS = {
    f"{name}-{layers}": functools.partial(peer, kind, layers)
    for name, kind in (("cross-attention", CrossAttention), ("concat-attention", ConcatAttention))
    for layers in (2, 4)
}
