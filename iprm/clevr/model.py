"""The question-answering model: encoders, IPRM, and an answer head on [summary ; result]."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from iprm.clevr.data import PAD, Batch, Vocabularies
from iprm.config import IPRMConfig


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


class ObjectEncoder(nn.Module):
    """Objects as visual tokens: one embedding an attribute, and the place, through one linear map.

    The map is linear so that an attribute is the same direction in every object; a deeper one is learnt far
    slower.

    Args:
        values: size of each attribute's vocabulary.  dim: D.
    """

    def __init__(self, values: list[int], dim: int):
        super().__init__()
        width = dim // 4
        self.embeddings = nn.ModuleList(nn.Embedding(size, width, padding_idx=PAD) for size in values)
        self.project = nn.Linear(len(values) * width + 3, dim)

    def forward(self, attributes: Tensor, places: Tensor) -> Tensor:
        """(B, N, 4), (B, N, 3) -> tokens (B, N, D)."""
        embedded = [embed(attributes[..., i]) for i, embed in enumerate(self.embeddings)]
        return self.project(torch.cat([*embedded, places], -1))


class AnswerHead(nn.Module):
    """A two-layer map of [summary ; result] to the answers."""

    def __init__(self, dim: int, answers: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * dim, dim), nn.ELU(), nn.Linear(dim, answers))

    def forward(self, summary: Tensor, result: Tensor) -> Tensor:
        """(B, D), (B, D) -> logits (B, answers)."""
        return self.layers(torch.cat([summary, result], -1))


class QuestionAnswerer(nn.Module):
    """Answers questions about scenes of objects.

    The encoders and the head have no dropout, so the only chance in a forward pass is that of IPRM.

    Args:
        reasoner: makes the reasoning module from its configuration: `iprm.reference.IPRM` or
        `iprm.fast.IPRM`. config: the configuration of IPRM.  vocabularies: those of the training data.
    """

    def __init__(self, reasoner: Callable[[IPRMConfig], nn.Module], config: IPRMConfig, vocabularies: Vocabularies):
        super().__init__()
        self.language = LanguageEncoder(len(vocabularies.words), config.dim)
        self.objects = ObjectEncoder([len(v) for v in vocabularies.attributes], config.dim)
        self.reasoner = reasoner(config)
        self.answer = AnswerHead(config.dim, len(vocabularies.answers))

    def forward(self, batch: Batch) -> Tensor:
        """Return the logits of the answers (B, answers)."""
        tokens, summary = self.language(batch.words, batch.lengths)
        visual = self.objects(batch.attributes, batch.places)
        result = self.reasoner(tokens, summary, visual, batch.language_mask, batch.visual_mask)
        return self.answer(summary, result)
