"""JSON files of data sets, read object by object and checked as they are read.

Question files take about a gigabyte; a stream of their objects reads as many as are wanted, holds little more than one
of them at a time, and takes time in proportion to the bytes it passes.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar

from iprm.vqa.data.examples import DataError, Key, Question, Scene

T = TypeVar("T")

CHUNK = 1 << 20
SPACE = " \t\r\n"
NESTING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*("?)|[\[\]{}]', re.DOTALL)
"""Brackets and texts, in which brackets do not count; a text that the end of a chunk cuts has an empty group 1."""
CUT = 16  # characters: the longest mark that the end of a chunk can leave half read, `\ud83d\ude00`, and some
LARGEST = 1e30  # float32 goes to 3e38, and numbers are squared
shown = reprlib.repr  # short, and shallow: pickled graphs may be deep, and hold themselves
KINDS = {str: "text", int: "an integer", list: "an array", dict: "an object", bool: "true or false"}


@dataclass(frozen=True)
class Item:
    """An object of a file, with its place in it, so that one line can tell what it lacks."""

    path: Path
    name: str
    content: dict

    def fail(self, what: str) -> NoReturn:
        """Raise `DataError` naming the file and the object."""
        raise DataError(f"{self.path}: {self.name}: {what}")

    def __contains__(self, key: str) -> bool:
        """Return whether there is a value of `key` other than null."""
        return self.content.get(key) is not None

    def get(self, key: str, kind: type = object, note: str = "") -> Any:
        """Return the value of `key`, which is of `kind` (one of `KINDS`). Raises `DataError`."""
        if key not in self.content:
            self.fail(f"expected the key {key!r}{note}, got {list(self.content)!r:.200}")
        value = self.content[key]
        if not isinstance(value, kind):
            self.fail(f"{key}: expected {KINDS[kind]}, got {shown(value)}")
        return value

    def texts(self) -> dict[str, str]:
        """Return all keys and their values, which are text. Raises `DataError`."""
        return {key: self.get(key, str) for key in self.content}

    def array(self, key: str, kind: type[T]) -> list[T]:
        """Return the array `key`, all of whose values are of `kind`. Raises `DataError`."""
        values = self.get(key, list)
        for position, value in enumerate(values):
            if not isinstance(value, kind):
                self.fail(f"{key}: {position}: expected {KINDS[kind]}, got {shown(value)}")
        return values

    def item(self, key: str) -> Item:
        """Return the object `key`. Raises `DataError`."""
        return Item(self.path, f"{self.name}: {key}", self.get(key, dict))

    def items(self, key: str, name: str) -> list[Item]:
        """Return the objects of the array `key`, each called `name` and its position. Raises `DataError`."""
        values = enumerate(self.array(key, dict))
        return [Item(self.path, f"{self.name}: {name} {position}", value) for position, value in values]

    def number(self, key: str) -> float:
        """Return the finite number `key`. Raises `DataError`."""
        if not _is_finite(value := self.get(key)):
            self.fail(f"{key}: expected a finite number, got {shown(value)}")
        return value

    def numbers(self, key: str, count: int) -> list[float]:
        """Return the `count` numbers of the array `key`, all finite. Raises `DataError`."""
        values = self.get(key)
        if not isinstance(values, (list, tuple)) or len(values) != count or not all(map(_is_finite, values)):
            self.fail(f"{key}: expected {count} finite numbers, got {shown(values)}")
        return list(values)


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and -LARGEST < value < LARGEST


class _Reader:
    """A text read value by value: JSON values, and the marks between them."""

    def __init__(self, path: Path, stream: IO[str]):
        self.path, self.stream = path, stream
        self.decoder = json.JSONDecoder()
        self.text, self.at = "", 0

    def _more(self) -> bool:
        """Read on. As much again as is held, so that what is begun anew after each read takes linear time in all."""
        held = self.text[self.at :]
        chunk = self.stream.read(max(CHUNK, len(held)))
        self.text, self.at = held + chunk, 0
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
        """Read one text, array or object, with as many chunks as it takes."""
        self.peek()
        while True:
            try:
                value, self.at = self.decoder.raw_decode(self.text, self.at)
                return value
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self.text) - CUT
                if not cut or not self._more():
                    self.fail(f"not JSON: {error.msg}")
            except (ValueError, RecursionError) as error:  # a number of too many digits; arrays in arrays in arrays
                self.fail(f"not JSON that can be read: {error}")

    def skip(self) -> None:
        """Step over one value of any kind; arrays and objects of any size without keeping them."""
        if self.peek() == '"':
            self.value()
        elif self.peek() in "[{":
            self._skip_nested()
        while self.peek() not in ",]}":  # a number or a word
            self.at += 1

    def _skip_nested(self) -> None:
        depth = 0
        while True:
            ahead = len(self.text)
            for match in NESTING.finditer(self.text, self.at):
                if match[1] == "":
                    ahead = match.start()
                elif match[0] in "[{":
                    depth += 1
                elif match[0] in "]}":
                    depth -= 1
                    if depth == 0:
                        self.at = match.end()
                        return
            self.at = ahead
            if not self._more():
                self.fail("expected the end of an array or an object, got the end of the file")

    def members(self) -> Iterator[str]:
        """Yield the keys of the object that comes next; the value of each must be read or skipped in between."""
        self.expect("{")
        if self.peek() == "}":
            self.expect("}")
            return
        while True:
            if self.peek() != '"':
                self.fail(f"expected a key in quotes, got {self.peek() or 'the end of the file'}")
            key = self.value()
            self.expect(":")
            yield key
            if self.expect(",}") == "}":
                return

    def item(self, name: str) -> Item:
        """Read an object."""
        value = self.value()
        if not isinstance(value, dict):
            self.fail(f"{name}: expected an object, got {type(value).__name__}")
        return Item(self.path, name, value)

    def items(self, name: str) -> Iterator[Item]:
        """Yield the objects of the array that comes next."""
        self.expect("[")
        if self.peek() == "]":
            return
        position = 0
        while True:
            yield self.item(f"{name} {position}")
            position += 1
            if self.expect(",]") == "]":
                return

    def fail(self, what: str) -> NoReturn:
        raise DataError(f"{self.path}: {what}")


@contextmanager
def _opened(path: Path) -> Iterator[_Reader]:
    try:
        with path.open(encoding="utf-8-sig") as stream:
            yield _Reader(path, stream)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8 text, got byte 0x{error.object[error.start]:02x}") from error
    except OSError as error:
        raise DataError(f"{path}: expected a file that can be read, got: {error.strerror}") from error


def records(path: Path, key: str, name: str) -> Iterator[Item]:
    """Yield the objects of the array `key` of the file's top-level object, each called `name` and its position.

    Raises `DataError` where the file is not JSON, or has no such array.
    """
    with _opened(path) as reader:
        for found in reader.members():
            if found == key:
                yield from reader.items(name)
                return
            reader.skip()
        reader.fail(f"expected a key {key!r} with an array of objects, found none")


def elements(path: Path, name: str) -> Iterator[Item]:
    """Yield the objects of a file that is one array. Raises `DataError` where it is not JSON, or no array."""
    with _opened(path) as reader:
        yield from reader.items(name)


def entries(path: Path, name: str) -> Iterator[tuple[str, Item]]:
    """Yield the keys and the objects of a file that is one object of objects.

    Raises `DataError` where it is not JSON, or another kind of file.
    """
    with _opened(path) as reader:
        for key in reader.members():
            yield key, reader.item(f"{name} {key}")


def first_mark(path: Path) -> str:
    """Return the mark that a JSON file begins with: `[` for an array, `{` for an object. Raises `DataError`."""
    with _opened(path) as reader:
        return reader.peek()


def document(path: Path, name: str) -> Item:
    """Return a file that is one object. Raises `DataError` where it is not JSON, or no object."""
    with _opened(path) as reader:
        return reader.item(name)


def first_found(places: Iterable[Path], what: str) -> Path:
    """Return the first of `places` that is there. Raises `DataError` naming all of them where none is."""
    places = list(places)
    for place in places:
        if place.exists():
            return place
    raise DataError(f"no {what}: expected {' or '.join(map(str, places))}")


def listed(path: Path, split: str, found: Iterable[Question], most: int | None) -> list[Question]:
    """Return the first `most` questions that are `found` (None: all). Raises `DataError` where there are none."""
    questions = list(islice(found, most))
    if not questions:
        raise DataError(f"{path}: expected questions of the split {split!r}, found none")
    return questions


def chosen(
    path: Path, keys: Iterable[Key], found: Iterable[tuple[Hashable, Item]], make: Callable[[Item], Scene]
) -> list[Scene]:
    """Return the scenes that `keys` name, in their order, made of what is `found`, which is read as far as need be.

    Raises `DataError` where one is missing.
    """
    keys = list(keys)
    wanted, scenes = set(keys), {}
    for key, item in found:
        if key in wanted:
            scenes[key] = make(item)
        if len(scenes) == len(wanted):
            break
    for key in keys:
        if key not in scenes:
            raise DataError(f"{path}: expected the scene {key!r}, which a question asks about; found none")
    return [scenes[key] for key in keys]
