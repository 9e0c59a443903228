"""CLEVR's files, what its public generator writes, and the files of CLEVR-CoGenT and CLEVR-Humans.

An object is a visual token: its four attributes, and its place as the viewer sees it (how far right, behind and up,
from `3d_coords` and the scene's `directions`).

Sources: Johnson et al., "CLEVR: A Diagnostic Dataset for Compositional Language and Elementary Visual Reasoning", with
https://github.com/facebookresearch/clevr-dataset-gen; for CLEVR-Humans, Johnson et al., "Inferring and Executing
Programs for Visual Reasoning".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iprm.vqa.data.examples import DataError, Key, Question, Scene
from iprm.vqa.data.programs import ATTRIBUTES, ProgramError, answer_text, asked, family, true_objects
from iprm.vqa.data.records import Item, chosen, first_found, listed, records, shown

AXES = ("right", "behind", "above")
REACH = 3.0  # half the width of CLEVR's plane: places come out between about -1.4 and 1.4
IN_TEST = " (the test split has none)"


def place(thing: dict, scene: dict) -> list[float]:
    """Return where an object stands along the viewer's axes, in units of `REACH`."""
    axes = scene["directions"]
    return [sum(a * b for a, b in zip(axes[axis], thing["3d_coords"], strict=True)) / REACH for axis in AXES]


def _scene(record: Item, whole: bool) -> Scene:
    things, axes = record.items("objects", "object"), record.item("directions")
    if not things:
        record.fail("objects: expected at least one, got none")
    for axis in AXES:
        axes.numbers(axis, 3)
    for thing in things:
        thing.numbers("3d_coords", 3)
    if whole:
        record.item("relationships")
    return Scene(
        labels=[[thing.get(a, str) for a in ATTRIBUTES] for thing in things],
        numbers=np.array([place(thing.content, record.content) for thing in things], np.float32),
        record=record.content if whole else None,
    )


def _node(node: dict) -> dict:
    """Return a node with the keys of CLEVR v1.0; the generator says `type`, and in its templates `side_inputs`."""
    return {
        "function": node.get("function", node.get("type")),
        "inputs": node.get("inputs", []),
        "value_inputs": node.get("value_inputs", node.get("side_inputs", [])),
    }


def _is_array(values: object, kind: type) -> bool:
    return isinstance(values, list) and set(map(type, values)) <= {kind}


def _program(question: Item) -> list[dict]:
    program = [_node(node) for node in question.array("program", dict)]
    for position, node in enumerate(program):
        texts = isinstance(node["function"], str) and _is_array(node["value_inputs"], str)
        if not texts or not _is_array(node["inputs"], int):
            question.fail(f"program node {position}: expected a function and arrays of its inputs, got {shown(node)}")
    return program


def _about(question: Item, whole: bool) -> dict:
    """Return what the question's program says of it."""
    program = _program(question)
    try:
        about = {"family": family(program), "kind": asked(program)}
    except ProgramError as error:
        question.fail(str(error))
    return about | ({"program": program} if whole else {})


def _answer(question: Item) -> str:
    """Return the answer as CLEVR v1.0 writes it; the generator leaves truth values and numbers as they are."""
    answer = question.get("answer", note=IN_TEST)
    if not isinstance(answer, (str, int)):
        question.fail(f"answer: expected text, an integer or a truth value, got {shown(answer)}")
    return answer_text(answer)


@dataclass(frozen=True)
class Clevr:
    """CLEVR v1.0 or CLEVR-CoGenT (splits `trainA`, `valA`, `valB`) in their own layout, or their files side by side.

    A question without a program is of the family "all". Files without a split in their names, as the generator writes
    them, are those of every split, each record with its `split` ("new", where the generator was not told another).
    """

    folder: Path

    label_columns = ATTRIBUTES
    number_columns = AXES
    unprogrammed = "all"
    """The family of the questions without a program."""

    def _records(self, kind: str, split: str) -> tuple[Path, Iterator[Item]]:
        names, folders = (f"CLEVR_{split}_{kind}.json", f"CLEVR_{kind}.json"), (self.folder / kind, self.folder)
        path = first_found((folder / name for name in names for folder in folders), f"{kind} file")
        found = records(path, kind, kind.removesuffix("s"))
        if path.name == names[1]:
            found = (record for record in found if record.content.get("split", split) == split)
        return path, found

    def _questions(self, split: str) -> tuple[Path, Iterator[Item]]:
        return self._records("questions", split)

    def questions(self, split: str, most: int | None = None, whole: bool = False) -> list[Question]:
        """See `Source.questions`."""
        path, found = self._questions(split)
        return listed(path, split, (self._question(question, whole) for question in found), most)

    def _question(self, question: Item, whole: bool) -> Question:
        about: dict[str, Any] = _about(question, whole) if "program" in question else {"family": self.unprogrammed}
        scene = question.get("image_index", int)
        return Question(question.get("question", str), _answer(question), scene, **about)

    def scenes(self, split: str, keys: Sequence[Key], whole: bool = False) -> list[Scene]:
        """See `Source.scenes`."""
        path, found = self._records("scenes", split)
        keyed = ((scene.get("image_index", int), scene) for scene in found)
        return chosen(path, keys, keyed, lambda scene: _scene(scene, whole))

    def true_objects(self, question: Question, scene: Scene) -> list[list[int]] | None:
        """See `Source.true_objects`."""
        if question.program is None:
            return None
        try:
            return true_objects(question.program, scene.record)
        except (ValueError, LookupError, TypeError) as error:
            where = f"{self.folder}: scene {question.scene}: {question.text!r}"
            raise DataError(f"{where}: expected a program that runs in its scene, got: {error}") from error


@dataclass(frozen=True)
class ClevrHumans(Clevr):
    """CLEVR-Humans: questions that people wrote about CLEVR's scenes, without programs.

    `scenes_folder` is CLEVR's own folder; "" where its scenes lie in `folder`.
    """

    scenes_folder: str = ""

    unprogrammed = "human"

    def _questions(self, split: str) -> tuple[Path, Iterator[Item]]:
        folders = (self.folder, self.folder / "questions", self.folder / "CLEVR-Humans")
        path = first_found((folder / f"CLEVR-Humans-{split}.json" for folder in folders), "questions file")
        return path, records(path, "questions", "question")

    def scenes(self, split: str, keys: Sequence[Key], whole: bool = False) -> list[Scene]:
        """See `Source.scenes`."""
        return Clevr(Path(self.scenes_folder or self.folder)).scenes(split, keys, whole)
