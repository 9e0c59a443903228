"""Write scenes and questions in CLEVR's files, from a seed: the data for a machine without the real data set.

    python -m iprm.vqa.data.generate build/clevr     # those of the experiments; --help tells the settings

The layout is that of CLEVR v1.0, without images: `scenes/CLEVR_train_scenes.json`,
`questions/CLEVR_train_questions.json` and the same for every other split (`splits.py`). No two splits share a scene.
Questions of all splits but `train`, which it would make too large, also tell `step_objects`: for every node of the
program, the list of the objects that it is about (`programs.true_objects`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from iprm.vqa.data.clevr import Clevr
from iprm.vqa.data.generate.asking import Asker
from iprm.vqa.data.generate.questions import menu
from iprm.vqa.data.generate.scenes import random_scene
from iprm.vqa.data.generate.splits import EASY, EXPERIMENTS, Settings, splits
from iprm.vqa.data.programs import true_objects
from iprm.vqa.locks import lock

VERSION = "generated-2"


def make_scenes(settings: Settings, split: str) -> list[dict]:
    """Return the scenes of a split, one of `splits(settings)`."""
    made = splits(settings)[split]
    rng = random.Random(f"{settings.seed} {split} scenes")
    return [random_scene(rng, split, index, *made.objects, made.pairs) for index in range(made.scenes)]


def _questions(settings: Settings, split: str, scenes: Iterable[dict], advance: Callable[[], None]) -> Iterator[dict]:
    made = splits(settings)[split]
    rng = random.Random(f"{settings.seed} {split} questions")
    asker = Asker(rng, menu(*made.lengths, made.forms), made.pairs)
    count = 0
    for scene in scenes:
        source = {key: scene[key] for key in ("split", "image_index", "image_filename")}
        for question in asker.questions(scene, settings.questions_per_scene):
            steps = {} if split == "train" else {"step_objects": true_objects(question["program"], scene)}
            yield {"question_index": count} | source | question | steps
            count += 1
        advance()


def make_questions(
    settings: Settings, split: str, scenes: Iterable[dict], advance: Callable[[], None] = lambda: None
) -> list[dict]:
    """Return the questions of a split; `advance` is called after each scene."""
    return list(_questions(settings, split, scenes, advance))


def _write(path: Path, head: dict, kind: str, records: Iterable[dict]) -> None:
    """Write `head` and an array of records, one a line, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    encode = json.JSONEncoder(separators=(",", ":")).encode
    try:
        with partial.open("w") as stream:
            stream.write(f'{{"info":{encode(head)},"{kind}":[')
            for position, record in enumerate(records):
                stream.write((",\n" if position else "\n") + encode(record))
            stream.write("\n]}\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _info(split: str, settings: Settings) -> dict:
    info = {"date": "", "version": VERSION, "split": split, "license": "generated, free to use"}
    return info | {"settings": asdict(settings)}


def _marker(settings: Settings) -> str:
    return json.dumps({"version": VERSION} | asdict(settings), indent=1)


def write(folder: Path, settings: Settings, advance: Callable[[], None] = lambda: None) -> None:
    """Write the two files of each split below `folder`; `advance` is called after each scene of `train` and `val`."""
    (folder / "settings.json").unlink(missing_ok=True)
    for split in splits(settings):
        scenes, info = make_scenes(settings, split), _info(split, settings)
        step = advance if split in ("train", "val") else lambda: None
        _write(folder / "scenes" / f"CLEVR_{split}_scenes.json", info, "scenes", scenes)
        questions = _questions(settings, split, scenes, step)
        _write(folder / "questions" / f"CLEVR_{split}_questions.json", info, "questions", questions)
    (folder / "settings.json").write_text(_marker(settings))


def is_written(folder: Path, settings: Settings) -> bool:
    """Return whether `folder` holds the files of these settings, all of them."""
    marker = folder / "settings.json"
    return marker.is_file() and marker.read_text() == _marker(settings)


def cached(root: Path, settings: Settings, advance: Callable[[], None] = lambda: None) -> Path:
    """Return a folder below `root` that holds the files of these settings, written now if need be.

    Of processes that begin at once, one writes and the others wait.
    """
    folder = root / f"{VERSION}-{hashlib.sha256(_marker(settings).encode()).hexdigest()[:12]}"
    if is_written(folder, settings):
        return folder
    root.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as file:
        lock(file, wait=True)
        if not is_written(folder, settings):
            write(folder, settings, advance)
    return folder


def generated(folder: Path, **settings: int | bool) -> Clevr:
    """Return the reader of generated files, which are made below `folder` on first use.

    `settings` replace those of `EXPERIMENTS`. Raises `ValueError` for a wrong one.
    """
    known = asdict(EXPERIMENTS)
    for name in settings:
        if name not in known:
            raise ValueError(f"generated: expected settings among {', '.join(known)}, got {name!r}")
    return Clevr(cached(Path(folder), replace(EXPERIMENTS, **settings)))


def add_arguments(parser: argparse._ActionsContainer, defaults: Settings = EASY) -> None:
    """Add one argument for each setting but the seed."""
    for name, default in asdict(defaults).items():
        if name == "seed":
            continue
        kind: dict[str, Any] = (
            {"action": argparse.BooleanOptionalAction} if isinstance(default, bool) else {"type": int}
        )
        parser.add_argument(f"--{name.replace('_', '-')}", **kind, default=default, help=f"default {default}")


def settings_from(arguments: argparse.Namespace) -> Settings:
    """Return the settings that parsed arguments describe."""
    return Settings(**{name: getattr(arguments, name) for name in asdict(Settings())})


def main(argv: list[str] | None = None) -> int:
    """Write the files of the given settings."""
    parser = argparse.ArgumentParser(
        prog="python -m iprm.vqa.data.generate", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("folder", type=Path, help="where scenes/ and questions/ are written")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    add_arguments(parser, EXPERIMENTS)
    arguments = parser.parse_args(argv)
    try:
        settings = settings_from(arguments)
    except ValueError as error:
        parser.error(str(error))
    write(arguments.folder, settings)
    print(f"written: {arguments.folder}")
    return 0
