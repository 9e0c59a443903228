"""Write scenes and questions in CLEVR's files, from a seed: the data for a machine without the real data set.

    python -m iprm.vqa.data.generate build/clevr --train-scenes 6000 --val-scenes 400

The layout is that of CLEVR v1.0, without images: `scenes/CLEVR_train_scenes.json`,
`questions/CLEVR_train_questions.json` and the same for `val`. The two splits never share a scene.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from iprm.vqa.data.generate.questions import Balance, ask
from iprm.vqa.data.generate.scenes import random_scene
from iprm.vqa.data.programs import Degenerate

VERSION = "generated-1"


@dataclass(frozen=True)
class Settings:
    """What the files depend on, and nothing else."""

    seed: int = 0
    train_scenes: int = 6000
    val_scenes: int = 400
    questions_per_scene: int = 10
    min_objects: int = 3
    max_objects: int = 4

    def __post_init__(self) -> None:
        for name in ("train_scenes", "val_scenes", "questions_per_scene"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not 2 <= self.min_objects <= self.max_objects <= 10:
            raise ValueError(
                "min_objects, max_objects: expected 2 <= min_objects <= max_objects <= 10, "
                f"got {self.min_objects}, {self.max_objects}"
            )

    def scenes(self, split: str) -> int:
        """Return the number of scenes of a split."""
        return self.train_scenes if split == "train" else self.val_scenes


def _info(split: str, settings: Settings) -> dict:
    info = {"date": "", "version": VERSION, "split": split, "license": "generated, free to use"}
    return info | {"settings": asdict(settings)}


def make_scenes(settings: Settings, split: str) -> list[dict]:
    """Return the scenes of a split."""
    rng = random.Random(f"{settings.seed} {split} scenes")
    sizes = settings.min_objects, settings.max_objects
    return [random_scene(rng, split, index, *sizes) for index in range(settings.scenes(split))]


def _scene_questions(rng: random.Random, scene: dict, balance: Balance, settings: Settings) -> list[dict]:
    questions, seen = [], set()
    for _ in range(settings.questions_per_scene):
        try:
            index, words, program, answer = ask(rng, scene, balance, seen)
        except Degenerate:  # a very small scene has no more questions
            break
        source = {key: scene[key] for key in ("split", "image_index", "image_filename")}
        asked = {"question_family_index": index, "question": words, "answer": answer, "program": program}
        questions.append(source | asked)
    return questions


def make_questions(
    settings: Settings, split: str, scenes: list[dict], advance: Callable[[], None] = lambda: None
) -> list[dict]:
    """Return the questions of a split; `advance` is called after each scene."""
    rng = random.Random(f"{settings.seed} {split} questions")
    balance = Balance()
    questions: list[dict] = []
    for scene in scenes:
        for question in _scene_questions(rng, scene, balance, settings):
            questions.append({"question_index": len(questions)} | question)
        advance()
    return questions


def _write(path: Path, content: dict) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(content))
    partial.replace(path)


def write(folder: Path, settings: Settings, advance: Callable[[], None] = lambda: None) -> None:
    """Write the four files below `folder`."""
    for split in ("train", "val"):
        scenes, info = make_scenes(settings, split), _info(split, settings)
        questions = make_questions(settings, split, scenes, advance)
        _write(folder / "scenes" / f"CLEVR_{split}_scenes.json", {"info": info, "scenes": scenes})
        _write(folder / "questions" / f"CLEVR_{split}_questions.json", {"info": info, "questions": questions})
    _write(folder / "settings.json", _marker(settings))


def _marker(settings: Settings) -> dict:
    return {"version": VERSION} | asdict(settings)


def is_written(folder: Path, settings: Settings) -> bool:
    """Return whether `folder` holds the files of these settings, all of them."""
    marker = folder / "settings.json"
    return marker.is_file() and json.loads(marker.read_text()) == _marker(settings)


def cached(root: Path, settings: Settings, advance: Callable[[], None] = lambda: None) -> Path:
    """Return a folder below `root` that holds the files of these settings, written now if need be."""
    s = settings
    name = f"{VERSION}-seed{s.seed}-{s.train_scenes}+{s.val_scenes}x{s.questions_per_scene}"
    folder = root / f"{name}-objects{s.min_objects}to{s.max_objects}"
    if not is_written(folder, settings):
        write(folder, settings, advance)
    return folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one argument for each setting but the seed."""
    defaults = asdict(Settings())
    for name, default in defaults.items():
        if name != "seed":
            parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"default {default}")


def settings_from(arguments: argparse.Namespace) -> Settings:
    """Return the settings that parsed arguments describe."""
    return Settings(**{name: getattr(arguments, name) for name in asdict(Settings())})


def main(argv: list[str] | None = None) -> int:
    """Write the files of the given settings."""
    parser = argparse.ArgumentParser(prog="python -m iprm.vqa.data.generate", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where scenes/ and questions/ are written")
    parser.add_argument("--seed", type=int, default=0)
    add_arguments(parser)
    arguments = parser.parse_args(argv)
    try:
        settings = settings_from(arguments)
    except ValueError as error:
        parser.error(str(error))
    write(arguments.folder, settings)
    print(f"written: {arguments.folder}")
    return 0
