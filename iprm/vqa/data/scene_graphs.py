"""STAR's situations and AGQA's scene graphs: what Charades' videos show, and how a person relates to it.

An object in a frame is a visual token: its class and up to `RELATIONS` relations to the person, the box around it and
the frame's time. What the person *does* is no token: the questions ask for it.

Sources: Wu et al., "STAR: A Benchmark for Situated Reasoning in Real-World Videos", with the classes of
https://github.com/csbobby/STAR_Benchmark; Grunde-McLaughlin et al., "AGQA: A Benchmark for Compositional
Spatio-Temporal Reasoning" (https://cs.stanford.edu/people/ranjaykrishna/agqa).
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from iprm.vqa.data.clevr import IN_TEST
from iprm.vqa.data.clevrer import Videos, sampled, uncut
from iprm.vqa.data.examples import CORRECT, DataError, Key, Question, Scene
from iprm.vqa.data.records import Item, chosen, document, elements, entries, first_found, listed, shown

RELATIONS = 4
PIXELS = 480.0  # the height that Charades' videos are scaled to: boxes come out between 0 and about 2
UNSEEN = (0.0, 0.0, 0.0, 0.0)
"""The box of what has none."""


class Thing(NamedTuple):
    """An object in a frame."""

    label: str
    relations: Sequence[str]
    box: Sequence[float]
    """Left, top, right and bottom edge in pixels."""


NOTHING = Thing("", [], UNSEEN)
"""The token of a video whose frames show nothing: a model needs one to look at."""


@dataclass(frozen=True)
class _Graphs(Videos):
    label_columns = ("class", *["relation"] * RELATIONS)
    number_columns = ("left", "top", "right", "bottom", "time")
    """Boxes in units of `PIXELS`, times from 0 to 1."""


def _scene(record: Item, frames: Sequence[tuple[float, list[Thing]]], whole: bool) -> Scene:
    """Return the objects of frames, each with its time of any unit, in order. Things of one class are one object."""
    if not frames:
        record.fail("expected at least one frame, got none")
    first, last = frames[0][0], frames[-1][0]
    times = [((time - first) / ((last - first) or 1.0), things) for time, things in frames]
    tokens = [(time, thing) for time, things in times for thing in things] or [(0.0, NOTHING)]
    numbered = {label: i for i, label in enumerate(dict.fromkeys(thing.label for _, thing in tokens))}
    return Scene(
        labels=[[thing.label, *_filled(thing.relations)] for _, thing in tokens],
        numbers=np.array([[*(x / PIXELS for x in thing.box), time] for time, thing in tokens], np.float32),
        objects=[numbered[thing.label] for _, thing in tokens],
        record=record.content if whole else None,
    )


def _filled(relations: Sequence[str]) -> list[str]:
    return [*relations[:RELATIONS], *[""] * (RELATIONS - len(relations))]


def _named(path: Path) -> dict[str, str]:
    """Return a class file of STAR: lines of a code and a name."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        return dict(line.split(maxsplit=1) for line in lines if line.strip())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: expected lines of a code and a name, got: {error}") from error


def _choices(record: Item) -> list[Question]:
    """Return each choice of a question of STAR."""
    text, answer = record.get("question", str), record.get("answer", str, IN_TEST)
    key = record.get("question_id", str)
    program = record.items("question_program", "program node") if "question_program" in record else []
    about = {"family": key.partition("_")[0], "kind": program[-1].get("function", str) if program else ""}
    choices = [choice.get("choice", str) for choice in record.items("choices", "choice")]
    if answer not in choices:
        record.fail(f"answer: expected one of the choices {choices}, got {answer!r}")
    about |= {"options": key, "one_correct": True}
    return [
        Question(f"{text} ; {choice}", CORRECT if choice == answer else "wrong", key, **about) for choice in choices
    ]


@dataclass(frozen=True)
class Star(_Graphs):
    """STAR: `STAR_train.json` and `STAR_val.json`, up to `frames` frames of each situation, evenly.

    Every choice is a question of its own, answered `correct` or `wrong`. Classes have their names where the folder, or
    one below it, has `object_classes.txt` and `relationship_classes.txt`; their codes where not.
    """

    def _records(self, split: str) -> tuple[Path, Iterator[Item]]:
        path = first_found([self.folder / f"STAR_{split}.json"], "questions file")
        return path, elements(path, "question")

    @cached_property
    def _names(self) -> dict[str, str]:
        files = [
            path for kind in ("object", "relationship") for path in sorted(self.folder.rglob(f"{kind}_classes.txt"))
        ]
        return {code: name for path in files for code, name in _named(path).items()}

    def questions(self, split: str, most: int | None = None, whole: bool = False) -> list[Question]:
        """See `Source.questions`. Programs are left out: they are not CLEVR's."""
        path, found = self._records(split)
        return listed(path, split, uncut(map(_choices, found), most), None)

    def scenes(self, split: str, keys: Sequence[Key], whole: bool = False) -> list[Scene]:
        """See `Source.scenes`. A scene is what one question's stretch of the video shows."""
        path, found = self._records(split)
        keyed = ((record.get("question_id", str), record) for record in found)
        return chosen(path, keys, keyed, lambda record: self._scene(record, whole))

    def _scene(self, record: Item, whole: bool) -> Scene:
        situations = record.item("situations")
        if not all(name.isdecimal() for name in situations.content):
            situations.fail(f"expected the numbers of frames as keys, got {shown(list(situations.content))}")
        names = sorted(situations.content, key=int)
        taken = [names[frame] for frame in sampled(len(names), self.frames)]
        return _scene(record, [(int(name), self._things(situations.item(name))) for name in taken], whole)

    def _things(self, frame: Item) -> list[Thing]:
        boxes = dict(zip(frame.array("bbox_labels", str), _boxes(frame), strict=True))
        related: dict[str, list[str]] = {code: [] for code in boxes}
        pairs, relations = frame.array("rel_pairs", list), frame.array("rel_labels", str)
        if len(pairs) != len(relations) or not all(len(pair) == 2 and isinstance(pair[1], str) for pair in pairs):
            frame.fail("rel_pairs: expected a pair of codes for each of rel_labels")
        for (_, code), relation in zip(pairs, relations, strict=True):
            related.setdefault(code, []).append(self._names.get(relation, relation))
        return [Thing(self._names.get(code, code), related[code], boxes.get(code, UNSEEN)) for code in related]


def _boxes(frame: Item) -> list[Sequence[float]]:
    """Return a box for each of `bbox_labels`, `UNSEEN` where it is null."""
    boxes = frame.get("bbox", list)
    if len(boxes) != len(frame.get("bbox_labels", list)):
        frame.fail(f"bbox: expected one for each of bbox_labels, got {len(boxes)}")
    return [UNSEEN if box is None else Item(frame.path, frame.name, {"bbox": box}).numbers("bbox", 4) for box in boxes]


class _Containers(pickle.Unpickler):
    """Reads what is made of Python's own containers, text and numbers, which need no code of anyone's."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"the class {module}.{name}")


def unpickled(path: Path) -> Any:
    """Return what a pickle holds, where that is dictionaries, lists, tuples, sets, text and numbers.

    Raises `DataError` for anything else, before any of it is run.
    """
    try:
        with path.open("rb") as stream:
            return _Containers(stream).load()
    except Exception as error:  # a damaged pickle raises whatever it stumbles over
        raise DataError(
            f"{path}: expected a pickle of plain dictionaries, lists, text and numbers; got: {error}"
        ) from error


def _question(record: Item) -> Question:
    """Return a question of AGQA."""
    about = {"family": record.get("structural", str), "kind": record.get("ans_type", str)}
    return Question(record.get("question", str), record.get("answer", str), record.get("video_id", str), **about)


@dataclass(frozen=True)
class Agqa(_Graphs):
    """AGQA 2.0: splits `train` and `test`, up to `frames` frames of each video, evenly.

    Questions are those of `train_balanced.txt` (or `.json`), in the folder or in `AGQA_balanced`; scene graphs those of
    `AGQA_train_stsgs.pkl`, or the same as JSON, in the folder or in `AGQA_scene_graphs`. Codes have the names that
    `ENG.txt` beside the graphs gives them; they stay codes where there is none.
    """

    def questions(self, split: str, most: int | None = None, whole: bool = False) -> list[Question]:
        """See `Source.questions`. Programs are left out: they are not CLEVR's."""
        folders = (self.folder, self.folder / "AGQA_balanced")
        names = [f"{split}_balanced{ending}" for ending in (".txt", ".json")]
        path = first_found((folder / name for folder in folders for name in names), "questions file")
        return listed(path, split, (_question(record) for _, record in entries(path, "question")), most)

    def scenes(self, split: str, keys: Sequence[Key], whole: bool = False) -> list[Scene]:
        """See `Source.scenes`. A pickle is read whole: the published one of the training split takes gigabytes."""
        folders = (self.folder, self.folder / "AGQA_scene_graphs")
        names = [f"AGQA_{split}_stsgs{ending}" for ending in (".json", ".pkl")]
        path = first_found((folder / name for folder in folders for name in names), "scene graphs")
        listing = path.with_name("ENG.txt")
        words = document(listing, "words").texts() if listing.exists() else {}
        return chosen(path, keys, _videos(path), lambda video: self._scene(video, words, whole))

    def _scene(self, video: Item, words: dict[str, str], whole: bool) -> Scene:
        frames = [video.item(key) for key, value in video.content.items() if _is_frame(value)]
        frames.sort(key=lambda frame: frame.number("secs"))
        taken = [frames[frame] for frame in sampled(len(frames), self.frames)]
        return _scene(video, [(frame.number("secs"), list(_things(frame, words))) for frame in taken], whole)


def _videos(path: Path) -> Iterator[tuple[str, Item]]:
    if path.suffix == ".json":
        yield from entries(path, "video")
        return
    graphs = Item(path, "scene graphs", {"videos": unpickled(path)}).item("videos")
    for key in graphs.content:
        yield key, graphs.item(key)


def _is_frame(value: Any) -> bool:
    return isinstance(value, dict) and value.get("type") == "frame"


def _vertices(item: Item, key: str) -> list[Any]:
    """Return an array of the graph's vertices, which stands alone or beside their names."""
    found = item.get(key)
    return item.item(key).get("vertices", list) if isinstance(found, dict) else item.get(key, list)


def _things(frame: Item, words: dict[str, str]) -> Iterator[Thing]:
    """Yield what a frame shows; a vertex that the frame does not show says so."""
    for thing in Item(frame.path, frame.name, {"objects": _vertices(frame, "objects")}).items("objects", "object"):
        if thing.content.get("visible") is False:
            continue
        codes = [
            _code(thing, vertex) for key in ("attention", "spatial", "contact") for vertex in _vertices(thing, key)
        ]
        box = UNSEEN if thing.get("bbox") is None else thing.numbers("bbox", 4)
        label: str = thing.get("class", str)
        yield Thing(words.get(label, label), [words.get(code, code) for code in codes], box)


def _code(thing: Item, vertex: Any) -> str:
    """Return the class of a relation, which is a vertex or its name, `r5/000030`."""
    code = vertex.get("class") if isinstance(vertex, dict) else vertex
    if not isinstance(code, str):
        thing.fail(f"expected relations with a class, got {shown(vertex)}")
    return code.partition("/")[0]
