"""CLEVRER's annotations and questions, and the questions of CLEVRER-Humans.

An object in a frame is a visual token: its three attributes, its place and velocity in the world, and the frame's time.
What the camera does not see in a frame is no token.

Sources: Yi et al., "CLEVRER: CoLlision Events for Video REpresentation and Reasoning" (http://clevrer.csail.mit.edu);
Mao et al., "CLEVRER-Humans: Describing Physical and Causal Events the Human Way", with the question files of
https://github.com/xyang23/CLEVRER-Humans1.0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from iprm.vqa.data.clevr import IN_TEST, REACH
from iprm.vqa.data.examples import DataError, Key, Question, Scene
from iprm.vqa.data.records import Item, document, elements, entries, first_found, first_mark, listed

FILES = {"val": ("validation", "valid", "val")}
"""What a split's file may be called, where it is not called by the split."""
NOTHING = (-1, ("", "", ""), [0.0] * 7)
"""The token of a video whose frames show nothing: a model needs one to look at."""


def sampled(count: int, most: int) -> list[int]:
    """Return which `most` of `count` frames are taken, evenly from the first to the last; all, where they are fewer."""
    return sorted({round(frame) for frame in np.linspace(0, count - 1, min(count, most)).tolist()})


def uncut(groups: Iterable[Sequence[Question]], most: int | None) -> Iterator[Question]:
    """Yield the questions of groups, each the options of one or a single question, until there are at least `most`."""
    count = 0
    for group in groups:
        yield from group
        count += len(group)
        if most is not None and count >= most:
            return


def _videos(path: Path) -> Iterator[tuple[int, Item]]:
    """Yield the videos of a question file: of an array (CLEVRER), or by their numbers (CLEVRER-Humans)."""
    if first_mark(path) == "[":
        for video in elements(path, "video"):
            yield video.get("scene_index", int), video
        return
    for number, video in entries(path, "video"):
        if not number.isdecimal():
            video.fail("expected the number of a video as its key")
        yield int(number), video


def _questions(scene: int, record: Item) -> list[Question]:
    """Return a question alone, or each choice of a question of multiple choice."""
    text, family = record.get("question", str), record.get("question_type", str)
    program = record.array("program", str) if "program" in record else []
    about = {"scene": scene, "family": family, "kind": program[-1] if program else ""}
    if "choices" not in record:
        return [Question(text, record.get("answer", str, IN_TEST), **about)]
    about["options"] = (scene, record.get("question_id", int))
    return [
        Question(f"{text} ; {choice.get('choice', str)}", choice.get("answer", str, IN_TEST), **about)
        for choice in record.items("choices", "choice")
    ]


def _tokens(things: dict[int, Item], frame: Item, time: float) -> Iterator[tuple[int, list[str], list[float]]]:
    """Yield the number, the labels and the numbers of every object that the camera sees in a frame."""
    for seen in frame.items("objects", "object"):
        if not seen.get("inside_camera_view", bool):
            continue
        number = seen.get("object_id", int)
        if number not in things:
            seen.fail(f"object_id: expected one of object_property's, {list(things)}, got {number}")
        moved = [x / REACH for key in ("location", "velocity") for x in seen.numbers(key, 3)]
        yield number, [things[number].get(name, str) for name in Clevrer.label_columns], [*moved, time]


def _scene(video: Item, frames: int, whole: bool) -> Scene:
    things = {thing.get("object_id", int): thing for thing in video.items("object_property", "object_property")}
    trajectory = video.items("motion_trajectory", "frame")
    if not trajectory:
        video.fail("motion_trajectory: expected at least one frame, got none")
    times = [(frame, frame / max(1, len(trajectory) - 1)) for frame in sampled(len(trajectory), frames)]
    tokens = [token for frame, time in times for token in _tokens(things, trajectory[frame], time)]
    objects, labels, numbers = zip(*tokens or [NOTHING], strict=True)
    return Scene(labels, np.array(numbers, np.float32), objects, video.content if whole else None)


@dataclass(frozen=True)
class Videos:
    """What the readers of videos share: up to `frames` frames of each are taken, evenly from the first to the last."""

    folder: Path
    frames: int = 8

    def __post_init__(self) -> None:
        if not isinstance(self.frames, int) or self.frames < 1:
            raise ValueError(f"frames: expected an integer of at least 1, got {self.frames!r}")

    def true_objects(self, question: Question, scene: Scene) -> None:
        """Return None: the programs are not CLEVR's, and are not run."""


@dataclass(frozen=True)
class Clevrer(Videos):
    """CLEVRER: its annotation files anywhere below the folder, its question files in it or in `questions`.

    Each choice of a question of multiple choice is a question of its own, answered `correct` or `wrong`.
    For CLEVRER-Humans, `questions_folder` is the one of its files, and `folder` the one of CLEVRER's annotations.
    """

    questions_folder: str = ""

    label_columns = ("color", "material", "shape")
    number_columns = ("x", "y", "z", "velocity x", "velocity y", "velocity z", "time")
    """Places and velocities are those of the file in units of `REACH`, times run from 0 to 1."""

    def questions(self, split: str, most: int | None = None, whole: bool = False) -> list[Question]:
        """See `Source.questions`. Programs are left out: they are not CLEVR's."""
        folder = Path(self.questions_folder or self.folder)
        names, folders = FILES.get(split, (split,)), (folder / "questions", folder)
        path = first_found((place / f"{name}.json" for name in names for place in folders), "questions file")
        found = (
            _questions(scene, record)
            for scene, video in _videos(path)
            for record in video.items("questions", "question")
        )
        return listed(path, split, uncut(found, most), None)

    @cached_property
    def _annotations(self) -> dict[str, Path]:
        return {path.name: path for path in self.folder.rglob("annotation_*.json")}

    def scenes(self, split: str, keys: Sequence[Key], whole: bool = False) -> list[Scene]:
        """See `Source.scenes`. The videos of all splits are numbered as one, so the files may lie together."""
        return [_scene(document(self._annotation(key), "video"), self.frames, whole) for key in keys]

    def _annotation(self, key: Key) -> Path:
        name = f"annotation_{key:05d}.json"
        if name not in self._annotations:
            raise DataError(f"{self.folder}: expected {name}, whose video a question asks about; found none")
        return self._annotations[name]
