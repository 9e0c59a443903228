"""What a model does with questions, as plain data that JSON can hold: the answers, and where each step looked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from iprm.reference import IPRM, Attention
from iprm.vqa.data.examples import Scene
from iprm.vqa.data.tensors import Batch, Split, words
from iprm.vqa.look.layout import HEIGHT, WIDTH, layout
from iprm.vqa.models.answerer import QuestionAnswerer

DIGITS = 4
GUESSES = 3


def _plain(numbers: Tensor) -> list:
    return numbers.double().round(decimals=DIGITS).tolist()


@torch.no_grad()
def _look(model: QuestionAnswerer, batch: Batch) -> tuple[Tensor, Attention]:
    """Return the probabilities of the answers and the attention record, both on the CPU, without dropout."""
    if not isinstance(model.reasoner, IPRM):
        raise ValueError(f"model: expected IPRM, whose attention is recorded, got {type(model.reasoner).__name__}")
    first = next(model.parameters())
    training = model.training
    logits, attention = model.eval().look(batch.to(first.device, first.dtype))
    model.train(training)
    if not all(found.isfinite().all() for found in (logits, *attention) if found is not None):
        raise ValueError("model: expected finite logits and attention, got NaN or infinity")
    found = (None if part is None else part.cpu() for part in attention)
    return logits.float().softmax(-1).cpu(), Attention(*found)  # pyright: ignore[reportArgumentType] - None as it was


def _scene(scene: Scene, labels: Sequence[str], numbers: Sequence[str]) -> dict[str, Any]:
    places, scale, cells = layout(scene, numbers)
    image = scene.record.get("image_filename") if isinstance(scene.record, dict) else None
    tokens = [
        {"x": x, "y": y, "name": " ".join(filter(None, texts)), "labels": dict(zip(labels, texts, strict=True))}
        for (x, y), texts in zip(places, scene.labels, strict=True)
    ]
    return {"width": WIDTH, "height": HEIGHT, "scale": scale, "cells": cells, "image": image, "tokens": tokens}


def _program(split: Split, row: int) -> list[dict[str, Any]] | None:
    """Return the nodes of the true program, each with the visual tokens that show what it is about."""
    program = split.questions[row].program
    if program is None:
        return None
    true = split.true_tokens(row)
    return [
        {
            "function": node["function"],
            "inputs": node.get("inputs", []),
            "values": node.get("value_inputs", []),
            "tokens": None if true is None else true[position].nonzero().flatten().tolist(),
        }
        for position, node in enumerate(program)
    ]


def _guesses(probabilities: Tensor, answers: Sequence[str]) -> list[dict[str, Any]]:
    best = probabilities.topk(min(GUESSES, len(answers)))
    return [
        {"answer": answers[i], "probability": p}
        for i, p in zip(best.indices.tolist(), _plain(best.values), strict=True)
    ]


def _attention(attention: Attention, sample: int, tokens: int, length: int) -> dict[str, list | None]:
    """Return one sample's attention as nested lists, without the padding."""
    return {
        "language": _plain(attention.language[:, sample, :, :length]),
        "visual": _plain(attention.visual[:, sample, :, :tokens]),
        "operations": _plain(attention.operations[:, sample]),
        "readout": None if attention.readout is None else _plain(attention.readout[sample]),
    }


def record(model: QuestionAnswerer, split: Split, rows: Sequence[int], answers: Sequence[str]) -> list[dict[str, Any]]:
    """Return what a model does with some questions of a split, one dictionary a question:

    words: L texts.  answer, family: texts.
    guesses: the most probable answers, `{"answer", "probability"}`, best first.
    scene: `{"width", "height", "scale", "cells", "image", "tokens"}`, the lengths in pixels, scale being the size of
        the objects, cells (rows, columns) where the N tokens tile the picture, else None, and image the picture's file
        name; a token is `{"x", "y", "name", "labels"}`.
    attention: language [T][K][L], visual [T][K][N], operations [T][K][K·(1+W)] (those of the step, then of the steps
        before, the most recent first, the initial memory as step 0) and readout [K] or None.
    program: nodes `{"function", "inputs", "values", "tokens"}`, tokens being the indices of the visual tokens that the
        node is about, or None where unknown; None without a program.

    Args:
        model: with an IPRM module.  split: read whole, so that programs and places are known.
        rows: which of its questions.  answers: the texts of the model's answers (`Vocabularies.answers.texts`).
    Raises:
        ValueError: no rows, or one that is not in the split; a baseline, which records no attention; numbers that are
            not finite.
    """
    if not rows or not all(0 <= row < len(split) for row in rows):
        raise ValueError(f"rows: expected one at least, each of 0 to {len(split) - 1}, got {list(rows)}")
    batch = split.batch(torch.tensor(rows))
    probabilities, attention = _look(model, batch)
    found = []
    for sample, row in enumerate(rows):
        question, scene = split.questions[row], split.scenes[int(split.scene_rows[row])]
        found.append(
            {
                "words": words(question.text),
                "answer": question.answer,
                "family": question.family,
                "guesses": _guesses(probabilities[sample], answers),
                "scene": _scene(scene, split.source.label_columns, split.source.number_columns),
                "attention": _attention(attention, sample, len(scene.numbers), int(batch.lengths[sample])),
                "program": _program(split, row),
            }
        )
    return found
