"""CLEVR's question and scene files, read record by record.

The real training questions take about a gigabyte of JSON; a stream of records reads as many as are wanted and
holds one chunk at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from iprm.vqa.data.examples import DataError

CHUNK = 1 << 20
SPACE = " \t\r\n"


def find(folder: Path, kind: str, split: str) -> Path:
    """Return the file `CLEVR_{split}_{kind}.json` (kind `scenes` or `questions`) in `folder` or
    `folder/{kind}`.

    Raises `DataError` naming both places where neither holds it.
    """
    name = f"CLEVR_{split}_{kind}.json"
    places = [folder / kind / name, folder / name]
    for place in places:
        if place.is_file():
            return place
    raise DataError(f"no {kind} file of CLEVR: expected {places[0]} or {places[1]}")


class _Reader:
    """A text read value by value: JSON values, and the marks between them."""

    def __init__(self, path: Path, stream: IO[str]):
        self.path, self.stream = path, stream
        self.decoder = json.JSONDecoder()
        self.text, self.at = "", 0

    def _more(self) -> bool:
        chunk = self.stream.read(CHUNK)
        self.text, self.at = self.text[self.at :] + chunk, 0
        return bool(chunk)

    def peek(self) -> str:
        """Return the next mark that is not space ("" at the end)."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in SPACE:
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._more():
                return ""

    def expect(self, marks: str) -> str:
        """Step over one of `marks` and return it."""
        mark = self.peek()
        if not mark or mark not in marks:
            self.fail(f"expected {' or '.join(marks)}, got {mark or 'the end of the file'}")
        self.at += 1
        return mark

    def value(self) -> Any:
        """Read one JSON value, with as many chunks as it takes."""
        self.peek()
        while True:
            try:
                value, self.at = self.decoder.raw_decode(self.text, self.at)
                return value
            except json.JSONDecodeError as error:
                if not self._more():
                    self.fail(f"not JSON: {error.msg}")

    def fail(self, what: str) -> None:
        raise DataError(f"{self.path}: {what}")


def _records(reader: _Reader) -> Iterator[dict]:
    """Yield the objects of the array that comes next."""
    reader.expect("[")
    if reader.peek() == "]":
        reader.expect("]")
        return
    while True:
        record = reader.value()
        if not isinstance(record, dict):
            reader.fail(f"expected an array of objects, got {type(record).__name__}")
        yield record
        if reader.expect(",]") == "]":
            return


def records(path: Path, key: str) -> Iterator[dict]:
    """Yield the objects of the array `key` of the file's top-level object.

    Raises `DataError` where the file is not JSON, or has no such array.
    """
    with path.open(encoding="utf-8") as stream:
        reader = _Reader(path, stream)
        reader.expect("{")
        while reader.peek() == '"':
            name = reader.value()
            reader.expect(":")
            if name == key:
                yield from _records(reader)
                return
            reader.value()
            if reader.expect(",}") == "}":
                break
    raise DataError(f"{path}: expected a key {key!r} with an array of objects, found none")
