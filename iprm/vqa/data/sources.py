"""The readers by the names that a configuration calls them by."""

from __future__ import annotations

from pathlib import Path

from iprm.vqa.data.clevr import Clevr
from iprm.vqa.data.examples import DataError, Source

SOURCES = {"clevr": Clevr}


def source(name: str, folder: Path, **options: object) -> Source:
    """Return the reader `name` of a folder.

    Raises `ValueError` for an unknown name, `DataError` where there is no folder.
    """
    if name not in SOURCES:
        raise ValueError(f"source: expected one of {', '.join(SOURCES)}, got {name!r}")
    if not Path(folder).is_dir():
        raise DataError(f"{folder}: expected a folder with the files of {name}, found none")
    return SOURCES[name](Path(folder), **options)
