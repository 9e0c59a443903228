"""The readers by the names that a configuration calls them by."""

from __future__ import annotations

import inspect
from pathlib import Path

from iprm.vqa.data.clevr import Clevr, ClevrHumans
from iprm.vqa.data.clevrer import Clevrer
from iprm.vqa.data.examples import DataError, Source
from iprm.vqa.data.features import Features
from iprm.vqa.data.frames import generated_frames
from iprm.vqa.data.generate.files import generated
from iprm.vqa.data.scene_graphs import Agqa, Star


def features(
    folder: Path, questions: str = "clevr", questions_folder: str = "", file: str = "{split}_features"
) -> Features:
    """Return the reader of features that are asked the questions of another source.

    Args:
        folder: where the features are.
        questions: the name of a reader.
        questions_folder: where its questions are; "" for `folder`.
        file: as in `Features`.
    Raises:
        ValueError, DataError: as `source`.
    """
    return Features(folder, source(questions, Path(questions_folder or folder)), file)


SOURCES = {
    "clevr": Clevr,
    "clevr_humans": ClevrHumans,
    "clevrer": Clevrer,
    "star": Star,
    "agqa": Agqa,
    "features": features,
    "generated": generated,
    "generated_frames": generated_frames,
}
MADE = ("generated", "generated_frames")
"""Those that make their folder."""


def source(name: str, folder: Path, **options: object) -> Source:
    """Return the reader `name` of a folder; `options` are plain values, as a configuration has them.

    Raises `ValueError` for an unknown name or option or one of the wrong type, `DataError` where there is no folder.
    """
    if name not in SOURCES:
        raise ValueError(f"source: expected one of {', '.join(SOURCES)}, got {name!r}")
    if name not in MADE and not Path(folder).is_dir():
        raise DataError(f"{folder}: expected a folder with the files of {name}, found none")
    _check_options(name, options)
    return SOURCES[name](Path(folder), **options)


def _check_options(name: str, options: dict[str, object]) -> None:
    """Raise `ValueError` for an option that a reader does not have, or that is of another type than its default."""
    signature = inspect.signature(SOURCES[name])
    try:
        signature.bind("", **options)
    except TypeError as error:
        raise ValueError(f"source {name}: {error}") from error
    for option, value in options.items():
        if option in signature.parameters:
            kind = type(signature.parameters[option].default)
            if not isinstance(value, kind):
                raise ValueError(f"source {name}: {option}: expected {kind.__name__}, got {value!r}")
