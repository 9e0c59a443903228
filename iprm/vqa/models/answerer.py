"""The question-answering model: encoders, a reasoning module, and an answer head."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from iprm.vqa.data.examples import Source
from iprm.vqa.data.tensors import Batch, Vocabularies
from iprm.vqa.models.encoders import LanguageEncoder, TokenEncoder


class AnswerHead(nn.Module):
    """A two-layer map of [summary ; result ; summary ⊙ result] to the answers.

    The product lets the head tell whether what was found is what was asked for: without it, families that are answered
    by yes or no are learnt far slower.
    """

    def __init__(self, dim: int, answers: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3 * dim, dim), nn.ELU(), nn.Linear(dim, answers))

    def forward(self, summary: Tensor, result: Tensor) -> Tensor:
        """(B, D), (B, D) -> logits (B, answers)."""
        return self.layers(torch.cat([summary, result, summary * result], -1))


class Encoded(NamedTuple):
    """A batch as the reasoning module takes it."""

    language: Tensor  # (B, L, D)
    summary: Tensor  # (B, D)
    visual: Tensor  # (B, N, D)
    language_mask: Tensor  # (B, L)
    visual_mask: Tensor  # (B, N)


class InputSizes(NamedTuple):
    """What the encoders and the head are made for."""

    words: int
    labels: tuple[int, ...]
    numbers: int
    answers: int

    @classmethod
    def of(cls, source: Source, known: Vocabularies) -> InputSizes:
        """Return the sizes of a data set and the texts of its training split."""
        labels = tuple(len(known.labels[name]) for name in source.label_columns)
        return cls(len(known.words), labels, len(source.number_columns), len(known.answers))


class QuestionAnswerer(nn.Module):
    """Answers questions about scenes.

    The encoders and the head have no dropout, so the only chance in a forward pass is that of the reasoning module.

    Args:
        reasoner: takes `Encoded`, returns the result (B, D): one of `iprm.vqa.models.reasoners`.
        dim: D, even.
        sizes: those of the training data.
    """

    def __init__(self, reasoner: nn.Module, dim: int, sizes: InputSizes):
        super().__init__()
        self.language = LanguageEncoder(sizes.words, dim)
        self.visual = TokenEncoder(sizes.labels, sizes.numbers, dim)
        self.reasoner = reasoner
        self.answer = AnswerHead(dim, sizes.answers)

    def encode(self, batch: Batch) -> Encoded:
        """Return the tokens of a batch."""
        tokens, summary = self.language(batch.words, batch.lengths)
        visual = self.visual(batch.labels, batch.numbers)
        return Encoded(tokens, summary, visual, batch.language_mask, batch.visual_mask)

    def forward(self, batch: Batch) -> Tensor:
        """Return the logits of the answers (B, answers)."""
        encoded = self.encode(batch)
        return self.answer(encoded.summary, self.reasoner(*encoded))

    def look(self, batch: Batch) -> tuple[Tensor, Any]:
        """Return the logits, and the attention record (`iprm.Attention`) of an IPRM module."""
        encoded = self.encode(batch)
        result, attention = self.reasoner(*encoded, return_attention=True)
        return self.answer(encoded.summary, result), attention
