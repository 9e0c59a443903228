"""CLEVR's files as padded tensors: vocabularies, scenes, questions, and deterministic batches.

An object is a visual token: its four attributes and its place as the viewer sees it (how far right, behind
and up, from `3d_coords` and the scene's `directions`). A question is a row of words. Index 0 pads, in words
and in attributes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from iprm.clevr.files import FileError, find, records
from iprm.clevr.programs import ATTRIBUTES, ProgramError, asked, family

PAD, UNKNOWN = 0, 1
AXES = ("right", "behind", "above")
REACH = 3.0  # half the width of CLEVR's plane: places come out between about -1.4 and 1.4
WORD = re.compile(r"[a-z0-9]+|[;,]")


def words(question: str) -> list[str]:
    """Return the words of a question in lower case; `;` and `,` are words, as they part clauses."""
    return WORD.findall(question.lower())


class Vocabulary:
    """Text to index and back. Index 0 pads and index 1 stands for what training never saw."""

    def __init__(self, texts: set[str]):
        self.texts = ["<pad>", "<unknown>", *sorted(texts)]
        self.index = {text: i for i, text in enumerate(self.texts)}

    def __len__(self) -> int:
        return len(self.texts)

    def __call__(self, text: str) -> int:
        return self.index.get(text, UNKNOWN)


@dataclass(frozen=True)
class Vocabularies:
    """The texts of the training files: question words, answers, and the values of each attribute."""

    words: Vocabulary
    answers: Vocabulary
    attributes: tuple[Vocabulary, ...]  # in the order of ATTRIBUTES


@dataclass(frozen=True)
class Batch:
    """Questions with their scenes, padded to the longest of the batch. Masks: true = keep."""

    words: Tensor  # (B, L) int64
    language_mask: Tensor  # (B, L) bool
    lengths: Tensor  # (B,) int64, on the CPU
    attributes: Tensor  # (B, N, 4) int64
    places: Tensor  # (B, N, 3) float32
    visual_mask: Tensor  # (B, N) bool
    answers: Tensor  # (B,) int64
    families: Tensor  # (B,) int64, into Split.families

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Batch:
        """Return the batch on `device`, places in `dtype`; packing needs the lengths on the CPU."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {name: t if name == "lengths" else t.to(device) for name, t in moved.items()}
        return Batch(**moved | {"places": moved["places"].to(dtype)})


@dataclass(frozen=True)
class Split:
    """All questions of a split and the scenes they ask about, as tensors padded to the split's longest."""

    words: Tensor  # (Q, L) int16
    lengths: Tensor  # (Q,)
    scenes: Tensor  # (Q,) row of the scene
    answers: Tensor  # (Q,)
    question_families: Tensor  # (Q,)
    kinds: list[tuple[str, str]]  # per question: family and last function
    families: list[str]
    attributes: Tensor  # (S, N, 4)
    places: Tensor  # (S, N, 3)
    counts: Tensor  # (S,) objects

    def __len__(self) -> int:
        return len(self.answers)

    def batch(self, rows: Tensor) -> Batch:
        """Return the questions of `rows` (B,)."""
        lengths, scenes = self.lengths[rows], self.scenes[rows]
        counts = self.counts[scenes]
        length, size = int(lengths.max()), int(counts.max())
        return Batch(
            words=self.words[rows, :length].long(),
            language_mask=torch.arange(length) < lengths[:, None],
            lengths=lengths,
            attributes=self.attributes[scenes, :size],
            places=self.places[scenes, :size],
            visual_mask=torch.arange(size) < counts[:, None],
            answers=self.answers[rows],
            families=self.question_families[rows],
        )

    def shuffled(self, size: int, seed: int) -> Iterator[Batch]:
        """Yield full batches without end, each pass over the questions in a new order that `seed` decides."""
        if size > len(self):
            raise ValueError(f"batch size: expected at most the {len(self)} training questions, got {size}")
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(len(self), generator=generator)
            for rows in order.split(size):
                if len(rows) == size:
                    yield self.batch(rows)

    def in_order(self, size: int) -> Iterator[Batch]:
        """Yield every question once, in the order of the file; the last batch may be short."""
        for rows in torch.arange(len(self)).split(size):
            yield self.batch(rows)


@dataclass(frozen=True)
class Data:
    """Both splits and the vocabularies that the training split gave."""

    folder: Path
    vocabularies: Vocabularies
    train: Split
    val: Split


def _require(path: Path, record: dict, keys: tuple[str, ...], kind: str, position: int) -> None:
    missing = [key for key in keys if key not in record]
    if missing:
        note = " (the test split has none)" if missing[0] in ("answer", "program") else ""
        raise FileError(f"{path}: {kind} {position}: expected the key {missing[0]!r}{note}, got {sorted(record)}")


def read_questions(folder: Path, split: str, most: int | None) -> list[dict]:
    """Return the first `most` questions of a split (all for None). Raises `FileError`."""
    path = find(folder, "questions", split)
    questions = []
    for position, record in enumerate(islice(records(path, "questions"), most)):
        _require(path, record, ("question", "answer", "image_index", "program"), "question", position)
        try:
            kind = family(record["program"]), asked(record["program"])
        except ProgramError as error:
            raise FileError(f"{path}: question {position}: {error}") from error
        kept = {key: record[key] for key in ("question", "answer", "image_index")}
        questions.append(kept | {"kind": kind})
    if not questions:
        raise FileError(f"{path}: expected questions, found none")
    return questions


def read_scenes(folder: Path, split: str, wanted: set[int]) -> dict[int, dict]:
    """Return the wanted scenes of a split by image index. Raises `FileError` where one is missing."""
    path = find(folder, "scenes", split)
    scenes: dict[int, dict] = {}
    for position, record in enumerate(records(path, "scenes")):
        _require(path, record, ("image_index", "objects", "directions"), "scene", position)
        if record["image_index"] in wanted:
            _check_objects(path, record, position)
            scenes[record["image_index"]] = record
        if len(scenes) == len(wanted):
            return scenes
    missing = min(wanted - scenes.keys())
    raise FileError(f"{path}: expected a scene with image_index {missing}, which a question asks about; found none")


def _check_objects(path: Path, scene: dict, position: int) -> None:
    for number, thing in enumerate(scene["objects"]):
        _require(path, thing, (*ATTRIBUTES, "3d_coords"), f"scene {position}: object", number)
    _require(path, scene["directions"], AXES, "directions of scene", position)


def _vocabularies(questions: list[dict], scenes: dict[int, dict]) -> Vocabularies:
    things = [thing for scene in scenes.values() for thing in scene["objects"]]
    return Vocabularies(
        words=Vocabulary({word for question in questions for word in words(question["question"])}),
        answers=Vocabulary({question["answer"] for question in questions}),
        attributes=tuple(Vocabulary({thing[a] for thing in things}) for a in ATTRIBUTES),
    )


def place(thing: dict, scene: dict) -> list[float]:
    """Return where an object stands along the viewer's axes, in units of `REACH`."""
    axes = scene["directions"]
    return [sum(a * b for a, b in zip(axes[axis], thing["3d_coords"], strict=True)) / REACH for axis in AXES]


def _scene_tensors(scenes: list[dict], vocabularies: Vocabularies) -> dict[str, Tensor]:
    counts = [len(scene["objects"]) for scene in scenes]
    attributes = torch.full((len(scenes), max(counts), len(ATTRIBUTES)), PAD)
    places = torch.zeros(len(scenes), max(counts), len(AXES))
    for row, scene in enumerate(scenes):
        things = scene["objects"]
        codes = [[v(t[a]) for a, v in zip(ATTRIBUTES, vocabularies.attributes, strict=True)] for t in things]
        attributes[row, : len(things)] = torch.tensor(codes).view(-1, len(ATTRIBUTES))
        places[row, : len(things)] = torch.tensor([place(t, scene) for t in things]).view(-1, len(AXES))
    return {"attributes": attributes, "places": places, "counts": torch.tensor(counts)}


def _word_tensors(questions: list[dict], vocabulary: Vocabulary) -> dict[str, Tensor]:
    rows = [[vocabulary(word) for word in words(question["question"])] for question in questions]
    longest = max(map(len, rows))
    padded = [row + [PAD] * (longest - len(row)) for row in rows]
    return {
        "words": torch.tensor(padded, dtype=torch.int16),
        "lengths": torch.tensor([len(row) for row in rows]),
    }


def _split(questions: list[dict], scenes: dict[int, dict], vocabularies: Vocabularies) -> Split:
    rows = {index: row for row, index in enumerate(scenes)}
    kinds = [question["kind"] for question in questions]
    families = sorted({name for name, _ in kinds})
    return Split(
        **_word_tensors(questions, vocabularies.words),
        **_scene_tensors(list(scenes.values()), vocabularies),
        scenes=torch.tensor([rows[question["image_index"]] for question in questions]),
        answers=torch.tensor([vocabularies.answers(question["answer"]) for question in questions]),
        question_families=torch.tensor([families.index(name) for name, _ in kinds]),
        kinds=kinds,
        families=families,
    )


def load(folder: Path, train_questions: int | None = None, val_questions: int | None = None) -> Data:
    """Read both splits of a folder: the first so many questions of each (None: all) and the scenes they ask
    about.

    Accepts the layout of CLEVR v1.0 (`scenes/`, `questions/`) and the four files side by side. Vocabularies
    come from the training split alone. Raises `FileError` naming the file and what was expected of it.
    """
    if not folder.is_dir():
        raise FileError(f"{folder}: expected a folder with CLEVR's scenes and questions, found none")
    read = {}
    for split, most in (("train", train_questions), ("val", val_questions)):
        questions = read_questions(folder, split, most)
        read[split] = (
            questions,
            read_scenes(folder, split, {question["image_index"] for question in questions}),
        )
    vocabularies = _vocabularies(*read["train"])
    splits = {split: _split(*content, vocabularies) for split, content in read.items()}
    return Data(folder, vocabularies, **splits)
