"""CLEVR's files, and what its public generator writes.

An object is a visual token: its four attributes, and its place as the viewer sees it (how far right, behind and up,
from `3d_coords` and the scene's `directions`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from iprm.vqa.data.examples import DataError, Question, Scene
from iprm.vqa.data.programs import ATTRIBUTES, ProgramError, asked, family, true_objects
from iprm.vqa.data.records import find, records

AXES = ("right", "behind", "above")
REACH = 3.0  # half the width of CLEVR's plane: places come out between about -1.4 and 1.4


def _require(path: Path, record: dict, keys: tuple[str, ...], kind: str, position: int) -> None:
    missing = [key for key in keys if key not in record]
    if missing:
        note = " (the test split has none)" if missing[0] in ("answer", "program") else ""
        raise DataError(f"{path}: {kind} {position}: expected the key {missing[0]!r}{note}, got {sorted(record)}")


def _check_objects(path: Path, scene: dict, position: int) -> None:
    for number, thing in enumerate(scene["objects"]):
        _require(path, thing, (*ATTRIBUTES, "3d_coords"), f"scene {position}: object", number)
    _require(path, scene["directions"], AXES, "directions of scene", position)


def place(thing: dict, scene: dict) -> list[float]:
    """Return where an object stands along the viewer's axes, in units of `REACH`."""
    axes = scene["directions"]
    return [sum(a * b for a, b in zip(axes[axis], thing["3d_coords"], strict=True)) / REACH for axis in AXES]


def _scene(record: dict, whole: bool) -> Scene:
    things = record["objects"]
    return Scene(
        labels=[[thing[a] for a in ATTRIBUTES] for thing in things],
        numbers=np.array([place(thing, record) for thing in things], np.float32).reshape(-1, len(AXES)),
        record=record if whole else None,
    )


@dataclass(frozen=True)
class Clevr:
    """CLEVR v1.0 in its own layout (`scenes/`, `questions/`), or its files side by side."""

    folder: Path

    label_columns = ATTRIBUTES
    number_columns = AXES

    def questions(self, split: str, most: int | None = None, whole: bool = False) -> list[Question]:
        """See `Source.questions`."""
        path = find(self.folder, "questions", split)
        found = [
            self._question(path, record, position, whole)
            for position, record in enumerate(islice(records(path, "questions"), most))
        ]
        if not found:
            raise DataError(f"{path}: expected questions, found none")
        return found

    def _question(self, path: Path, record: dict, position: int, whole: bool) -> Question:
        _require(path, record, ("question", "answer", "image_index", "program"), "question", position)
        program = record["program"]
        try:
            kinds = {"family": family(program), "kind": asked(program)}
        except ProgramError as error:
            raise DataError(f"{path}: question {position}: {error}") from error
        kinds |= {"program": program} if whole else {}
        return Question(record["question"], record["answer"], record["image_index"], **kinds)

    def scenes(self, split: str, keys: Sequence[int], whole: bool = False) -> list[Scene]:
        """See `Source.scenes`."""
        path = find(self.folder, "scenes", split)
        wanted, found = set(keys), {}
        for position, record in enumerate(records(path, "scenes")):
            _require(path, record, ("image_index", "objects", "directions"), "scene", position)
            if record["image_index"] in wanted:
                _check_objects(path, record, position)
                found[record["image_index"]] = _scene(record, whole)
            if len(found) == len(wanted):
                return [found[key] for key in keys]
        missing = min(wanted - found.keys())
        raise DataError(f"{path}: expected a scene with image_index {missing}, which a question asks about; found none")

    def true_objects(self, question: Question, scene: Scene) -> list[list[int]] | None:
        """See `Source.true_objects`."""
        return None if question.program is None else true_objects(question.program, scene.record)
