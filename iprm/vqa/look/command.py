"""Look inside a trained model: one HTML file, opened from disk, with questions of a split and where each step looked.

    python -m iprm.look --checkpoint build/train --questions 40 --out build/look.html --open

`--figures FOLDER` also writes each question as a static picture; `--images FOLDER` lays the scenes' own pictures under
the tokens (CLEVR's `images/val`).
"""

from __future__ import annotations

import argparse
import sys
import webbrowser
from pathlib import Path

from iprm.vqa.data.tensors import load_split
from iprm.vqa.look import figure, page
from iprm.vqa.look.record import record
from iprm.vqa.training.run import Trained, load_trained, source_of

SPREAD = 7
"""One question in so many is shown: neighbours in the file ask about the same scene."""


def arguments_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(prog="python -m iprm.look", description=(__doc__ or "").partition("\n")[0])
    checkpoint = "folder of a training; default build/train"
    parser.add_argument("--checkpoint", type=Path, default=Path("build/train"), metavar="FOLDER", help=checkpoint)
    parser.add_argument(
        "--questions", type=int, default=40, metavar="N", help="how many are shown; default %(default)s"
    )
    parser.add_argument("--split", help="default: the validation split of the training")
    parser.add_argument(
        "--out", type=Path, default=Path("build/look.html"), metavar="FILE", help="the page; default build/look.html"
    )
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="pictures of the scenes, by their file names")
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="also write a PNG for each question here")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    return parser


def examine(trained: Trained, name: str, most: int) -> list[dict]:
    """Return the record of `most` questions of a split, spread over the beginning of the file."""
    split = load_split(source_of(trained.config.data), name, trained.vocabularies, SPREAD * most, whole=True)
    rows = range(0, len(split), max(1, len(split) // most))[:most]
    return record(trained.model, split, rows, trained.vocabularies.answers.texts)


def look(arguments: argparse.Namespace) -> None:
    """Write what is asked for. Raises `ValueError` for wrong arguments or files."""
    if arguments.questions < 1:
        raise ValueError(f"--questions: expected at least 1, got {arguments.questions}")
    trained = load_trained(arguments.checkpoint)
    name = arguments.split or trained.config.data.val
    questions = examine(trained, name, arguments.questions)
    about = f"{arguments.checkpoint}, split {name}, {len(questions)} questions"
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(page.html(questions, about, arguments.images), encoding="utf-8")
    print(f"written: {arguments.out}")
    if arguments.figures:
        draw(questions, arguments.figures, arguments.images)


def draw(questions: list[dict], folder: Path, images: Path | None) -> None:
    """Write a picture of each question."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, question in enumerate(questions, 1):
        image = question["scene"]["image"]
        picture = images / Path(image).name if images and image else None
        figure.draw(question, picture, folder / f"question-{number:03}.png")
    print(f"written: {len(questions)} pictures in {folder}")


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0, or 2 for wrong arguments or files."""
    arguments = arguments_parser().parse_args(argv)
    try:
        look(arguments)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.open:
        webbrowser.open(arguments.out.resolve().as_uri())
    return 0
