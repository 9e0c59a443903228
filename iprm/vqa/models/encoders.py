"""Questions and scenes as tokens of the model's width."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from iprm.vqa.data.tensors import PAD


class LanguageEncoder(nn.Module):
    """Question words through embeddings and a bidirectional LSTM.

    Args:
        words: size of the vocabulary.  dim: D, even.
    """

    def __init__(self, words: int, dim: int):
        super().__init__()
        if dim % 2:
            raise ValueError(f"dim: expected an even number, as the LSTM runs in two directions, got {dim}")
        self.embedding = nn.Embedding(words, dim, padding_idx=PAD)
        self.lstm = nn.LSTM(dim, dim // 2, batch_first=True, bidirectional=True)

    def forward(self, words: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L), (B,) on the CPU -> tokens (B, L, D), summary (B, D)."""
        packed = pack_padded_sequence(self.embedding(words), lengths, batch_first=True, enforce_sorted=False)
        outputs, (last, _) = self.lstm(packed)
        tokens, _ = pad_packed_sequence(outputs, batch_first=True, total_length=words.shape[1])
        return tokens, torch.cat([last[0], last[1]], -1)


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
