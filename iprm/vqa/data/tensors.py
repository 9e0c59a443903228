"""Questions and scenes as padded tensors: vocabularies, masks, deterministic batches.

Index 0 pads, in words and in labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from iprm.vqa.data.examples import Key, Question, Scene, Source

PAD, UNKNOWN = 0, 1
WORD = re.compile(r"\w+|[;,]")


def words(question: str) -> list[str]:
    """Return the words of a question in lower case, one at least; `;` and `,` are words, as they part clauses."""
    return WORD.findall(question.lower()) or ["<unknown>"]


class Vocabulary:
    """Text to index and back. Index 0 pads and index 1 stands for what training never saw."""

    def __init__(self, texts: set[str]):
        self.texts = ["<pad>", "<unknown>", *sorted(texts - {"", "<pad>", "<unknown>"})]
        self.index = {"": PAD} | {text: i for i, text in enumerate(self.texts)}

    def __len__(self) -> int:
        return len(self.texts)

    def __call__(self, text: str) -> int:
        return self.index.get(text, UNKNOWN)


@dataclass(frozen=True)
class Vocabularies:
    """The texts of the training split."""

    words: Vocabulary
    answers: Vocabulary
    labels: dict[str, Vocabulary]
    """By the name of the column; columns of one name share it."""


class Tokens(NamedTuple):
    """A scene's visual tokens, labels as indices."""

    labels: Tensor  # (N, A) int64
    numbers: Tensor  # (N, P) float32


class EncodedScenes(Sequence[Tokens]):
    """Scenes as `Tokens`, each made when it is taken."""

    def __init__(self, scenes: Sequence[Scene], columns: Sequence[str], vocabularies: dict[str, Vocabulary]):
        self.scenes, self.columns = scenes, [vocabularies[name] for name in columns]

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, row: int) -> Tokens:  # pyright: ignore[reportIncompatibleMethodOverride] - no slices
        scene = self.scenes[row]
        codes = [[code(text) for code, text in zip(self.columns, texts, strict=True)] for texts in scene.labels]
        numbers = torch.from_numpy(np.asarray(scene.numbers, np.float32))
        return Tokens(torch.tensor(codes, dtype=torch.int64).view(len(numbers), len(self.columns)), numbers)


@dataclass(frozen=True)
class Batch:
    """Questions with their scenes, padded to the longest of the batch. Masks: true = keep."""

    words: Tensor  # (B, L) int64
    language_mask: Tensor  # (B, L) bool
    lengths: Tensor  # (B,) int64
    labels: Tensor  # (B, N, A) int64
    numbers: Tensor  # (B, N, P) float32
    visual_mask: Tensor  # (B, N) bool
    answers: Tensor  # (B,) int64
    families: Tensor  # (B,) int64, into Split.families
    rows: Tensor  # (B,) int64, which questions of the split

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Batch:
        """Return the batch on `device`, numbers in `dtype`."""
        moved = {f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)}
        return Batch(**moved | {"numbers": moved["numbers"].to(dtype)})


def _padded(rows: list[Tensor], value: float = 0) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


@dataclass(frozen=True)
class Split:
    """All questions of a split and the scenes they ask about."""

    source: Source
    questions: list[Question]
    scenes: Sequence[Scene]
    tokens: Sequence[Tokens]  # of each scene
    scene_rows: Tensor  # (Q,) row of each question's scene
    words: Tensor  # (Q, L) int32
    lengths: Tensor  # (Q,)
    answers: Tensor  # (Q,)
    family_rows: Tensor  # (Q,)
    families: list[str]

    def __len__(self) -> int:
        return len(self.answers)

    def batch(self, rows: Tensor) -> Batch:
        """Return the questions of `rows` (B,)."""
        lengths = self.lengths[rows]
        length = int(lengths.max())
        tokens = [self.tokens[row] for row in self.scene_rows[rows].tolist()]
        counts = torch.tensor([len(t.numbers) for t in tokens])
        numbers = _padded([t.numbers for t in tokens])
        return Batch(
            words=self.words[rows, :length].long(),
            language_mask=torch.arange(length) < lengths[:, None],
            lengths=lengths,
            labels=_padded([t.labels for t in tokens]),
            numbers=numbers,
            visual_mask=torch.arange(numbers.shape[1]) < counts[:, None],
            answers=self.answers[rows],
            families=self.family_rows[rows],
            rows=rows,
        )

    def shuffled(self, size: int, seed: int, first: int = 0) -> Iterator[Batch]:
        """Yield full batches without end, each pass over the questions in an order that `seed` decides.

        The batches are a function of (size, seed) alone: one that begins at `first` goes on as if it had begun at 0.
        """
        if size > len(self):
            raise ValueError(f"batch size: expected at most the {len(self)} training questions, got {size}")
        generator, each = torch.Generator().manual_seed(seed), len(self) // size
        for _ in range(first // each):
            torch.randperm(len(self), generator=generator)
        skipped = first % each
        while True:
            order = torch.randperm(len(self), generator=generator)
            for rows in order[: each * size].split(size)[skipped:]:
                yield self.batch(rows)
            skipped = 0

    def in_order(self, size: int) -> Iterator[Batch]:
        """Yield every question once, in the order of the file; the last batch may be short."""
        for rows in torch.arange(len(self)).split(size):
            yield self.batch(rows)

    def true_tokens(self, row: int) -> Tensor | None:
        """Return (S, N) bool: for every step of a question's program, which visual tokens show what it is about.

        None where the data does not say. The split must have been read whole.
        """
        question, scene = self.questions[row], self.scenes[int(self.scene_rows[row])]
        steps = self.source.true_objects(question, scene)
        if steps is None:
            return None
        shown = range(len(scene.numbers)) if scene.objects is None else scene.objects
        return torch.tensor([[thing in step for thing in shown] for step in map(set, steps)])


def vocabularies(questions: list[Question], scenes: Sequence[Scene], columns: Sequence[str]) -> Vocabularies:
    """Return the texts of questions, answers and labels."""
    texts: dict[str, set[str]] = {name: set() for name in columns}
    for scene in scenes if columns else ():
        for name, column in zip(columns, zip(*scene.labels, strict=True), strict=False):
            texts[name].update(column)
    return Vocabularies(
        words=Vocabulary(set(chain.from_iterable(words(question.text) for question in questions))),
        answers=Vocabulary({question.answer for question in questions}),
        labels={name: Vocabulary(found) for name, found in texts.items()},
    )


def _word_tensors(questions: list[Question], vocabulary: Vocabulary) -> dict[str, Tensor]:
    rows = [torch.tensor([vocabulary(word) for word in words(q.text)], dtype=torch.int32) for q in questions]
    return {"words": _padded(rows, PAD), "lengths": torch.tensor([len(row) for row in rows])}


def _keys(questions: list[Question]) -> list[Key]:
    return list(dict.fromkeys(question.scene for question in questions))


def make_split(source: Source, questions: list[Question], scenes: Sequence[Scene], known: Vocabularies) -> Split:
    """Return questions and their scenes (in the order of their first question) as a split."""
    row_of = {key: row for row, key in enumerate(_keys(questions))}
    families = sorted({question.family for question in questions})
    encoded = EncodedScenes(scenes, source.label_columns, known.labels)
    return Split(
        source,
        questions,
        scenes,
        list(encoded) if isinstance(scenes, list) else encoded,
        scene_rows=torch.tensor([row_of[question.scene] for question in questions]),
        **_word_tensors(questions, known.words),
        answers=torch.tensor([known.answers(question.answer) for question in questions]),
        family_rows=torch.tensor([families.index(question.family) for question in questions]),
        families=families,
    )


def load_split(source: Source, split: str, known: Vocabularies, most: int | None = None, whole: bool = False) -> Split:
    """Read the first `most` questions of a split (None: all) and their scenes. Raises `DataError`."""
    questions = source.questions(split, most, whole)
    return make_split(source, questions, source.scenes(split, _keys(questions), whole), known)


@dataclass(frozen=True)
class Data:
    """A training and a validation split, and the texts that the training split gave."""

    vocabularies: Vocabularies
    train: Split
    val: Split


def load(
    source: Source,
    train_questions: int | None = None,
    val_questions: int | None = None,
    splits: tuple[str, str] = ("train", "val"),
) -> Data:
    """Read both splits: the first so many questions of each (None: all) and the scenes that they ask about.

    Raises `DataError` naming the file and what was expected of it.
    """
    questions = source.questions(splits[0], train_questions)
    scenes = source.scenes(splits[0], _keys(questions))
    known = vocabularies(questions, scenes, source.label_columns)
    train = make_split(source, questions, scenes, known)
    return Data(known, train, load_split(source, splits[1], known, val_questions))
