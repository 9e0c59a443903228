"""Questions and scenes as tokens of the model's width."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from iprm.vqa.data.tensors import PAD


def reversed_words(x: Tensor, lengths: Tensor) -> Tensor:
    """(B, L, ...), (B,) -> each row's first `lengths` entries in reverse order, the rest where they are."""
    at = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
    at = torch.where(at < lengths[:, None], lengths[:, None] - 1 - at, at)
    return x.gather(1, at if x.dim() == 2 else at[:, :, None].expand_as(x))


class LanguageEncoder(nn.Module):
    """Question words through embeddings and an LSTM in either direction.

    Each direction is an LSTM of its own over padded words: packed sequences, which one of both directions would need,
    are not what CPUs have fast kernels for (5 times slower).

    Args:
        words: size of the vocabulary.  dim: D, even.
    """

    def __init__(self, words: int, dim: int):
        super().__init__()
        if dim % 2:
            raise ValueError(f"dim: expected an even number, as the LSTM runs in two directions, got {dim}")
        self.embedding = nn.Embedding(words, dim, padding_idx=PAD)
        self.forward_lstm = nn.LSTM(dim, dim // 2, batch_first=True)
        self.backward_lstm = nn.LSTM(dim, dim // 2, batch_first=True)

    def forward(self, words: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L), (B,) -> tokens (B, L, D), 0 behind a question's end, and the summary (B, D)."""
        onward, _ = self.forward_lstm(self.embedding(words))
        backward, _ = self.backward_lstm(self.embedding(reversed_words(words, lengths)))
        tokens = torch.cat([onward, reversed_words(backward, lengths)], -1)
        asked = torch.arange(words.shape[1], device=words.device) < lengths[:, None]
        last = (torch.arange(len(words), device=words.device), lengths - 1)
        return tokens * asked[:, :, None], torch.cat([onward[last], backward[last]], -1)


class TokenEncoder(nn.Module):
    """Visual tokens: one embedding a label, and the numbers, through one linear map.

    The map is linear so that a label is the same direction in every token; a deeper one is learnt far slower.

    Args:
        labels: size of each label's vocabulary.  numbers: P.  dim: D.
    """

    def __init__(self, labels: Sequence[int], numbers: int, dim: int):
        super().__init__()
        width = max(dim // 4, 1)
        self.embeddings = nn.ModuleList(nn.Embedding(size, width, padding_idx=PAD) for size in labels)
        self.project = nn.Linear(len(labels) * width + numbers, dim)

    def forward(self, labels: Tensor, numbers: Tensor) -> Tensor:
        """(B, N, A), (B, N, P) -> tokens (B, N, D)."""
        embedded = [embed(labels[..., i]) for i, embed in enumerate(self.embeddings)]
        return self.project(torch.cat([*embedded, numbers], -1))
