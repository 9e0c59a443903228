"""The record of questions as one HTML file: no server, no network, everything in it."""

from __future__ import annotations

import json
from base64 import b64encode
from importlib.resources import files
from mimetypes import guess_type
from pathlib import Path
from typing import Any

from iprm.vqa.data.examples import DataError
from iprm.vqa.look.layout import COLORS

PLACE = "{{data}}"


def embedded(path: Path) -> str:
    """Return a picture as a `data:` address. Raises `DataError` where there is none."""
    kind = guess_type(path.name)[0] or ""
    if not kind.startswith("image/"):
        raise DataError(f"{path}: expected the name of a picture (.png, .jpg), got {path.name!r}")
    try:
        return f"data:{kind};base64,{b64encode(path.read_bytes()).decode()}"
    except OSError as error:
        raise DataError(f"{path}: expected a picture, got {error.strerror}") from error


def _pictures(questions: list[dict[str, Any]], images: Path) -> dict[str, str]:
    """Return the pictures of the scenes by file name, each once."""
    names = dict.fromkeys(question["scene"]["image"] for question in questions)
    return {name: embedded(images / Path(name).name) for name in names if name}


def html(questions: list[dict[str, Any]], about: str = "", images: Path | None = None) -> str:
    """Return the page.

    Args:
        questions: of `iprm.vqa.look.record.record`.  about: one line on model and data.
        images: the folder of the scenes' pictures, to be shown below the tokens; None: none are shown.
    Raises:
        ValueError: there are no questions.  DataError: a picture is missing.
    """
    if not questions:
        raise ValueError("questions: expected one at least, got none")
    content = {
        "about": about,
        "colors": COLORS,
        "pictures": _pictures(questions, images) if images else {},
        "questions": questions,
    }
    # "<" is escaped, so that no text of the data can end the element that holds it.
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    template = files("iprm.vqa.look").joinpath("page.html").read_text(encoding="utf-8")
    return template.replace(PLACE, text)
