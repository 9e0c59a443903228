"""Scenes as feature vectors from a file of arrays: the grid of a convolutional network, patches, or any other tokens.

A file `.npy` holds (S, N, C) or (S, C, H, W), a file `.h5` the same in its data set `features`, as the feature
extractor for CLEVR writes it (https://github.com/facebookresearch/clevr-iep); row s is the scene that questions call s.
A file `.npz` holds an array (N, C) or (C, H, W) for each scene, by the scene's name; N may differ from scene to scene.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from iprm.vqa.data.examples import DataError, Key, Question, Scene, Source
from iprm.vqa.data.records import first_found
from iprm_kernels.extras import extra

ENDINGS = (".npy", ".npz", ".h5")
UNREADABLE = (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


@lru_cache(maxsize=8)
def _opened(path: Path, process: int) -> Any:
    """Return an open file's arrays, opened in this process: HDF5 and zip files that a fork shares are read wrongly."""
    if path.suffix == ".h5":
        with extra("train"):
            import h5py

        return h5py.File(path)["features"]
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _is_named(arrays: Any) -> bool:
    return isinstance(arrays, np.lib.npyio.NpzFile)


class Arrays:
    """The arrays of one file, by the scenes' keys, each read when it is taken.

    Raises:
        DataError: the file cannot be read, or an array is not as the file's format says.
    """

    def __init__(self, path: Path):
        self.path = path

    def _open(self) -> Any:
        try:
            arrays = _opened(self.path, os.getpid())
        except UNREADABLE as error:
            raise DataError(f"{self.path}: expected arrays, in HDF5 the data set 'features'; got: {error}") from error
        shape = getattr(arrays, "shape", ())
        if not (_is_named(arrays) and arrays.files) and (len(shape) not in (3, 4) or 0 in shape):
            raise DataError(f"{self.path}: expected an array (S, N, C) or (S, C, H, W), or named ones, got {shape}")
        return arrays

    def keys(self) -> Sequence[Key]:
        """Return the keys there are: numbers of rows, or names."""
        arrays = self._open()
        return arrays.files if _is_named(arrays) else range(len(arrays))

    def name(self, key: Key) -> Key:
        """Return what the file calls the scene that questions call `key`."""
        return str(key) if _is_named(self._open()) else key

    def columns(self) -> tuple[str, ...]:
        """Return the names of a token's numbers: its channels, and in a grid `down` and `right`; by the first scene."""
        arrays = self._open()
        shape = self._array(arrays.files[0]).shape if _is_named(arrays) else arrays.shape[1:]
        if len(shape) == 2:
            return _channels(shape[1])
        return *_channels(shape[0]), "down", "right"

    def tokens(self, name: Key) -> np.ndarray:
        """Return (N, C) float32; of a grid (H * W, C + 2), each cell with how far down and right it is (-1 to 1)."""
        array = self._array(name)
        return array if array.ndim == 2 else _cells(array)

    def _array(self, name: Key) -> np.ndarray:
        """Return (N, C) or (C, H, W) float32."""
        try:
            array = np.array(self._open()[name], np.float32)
        except UNREADABLE as error:
            raise DataError(f"{self.path}: scene {name}: expected an array of numbers, got: {error}") from error
        if array.ndim not in (2, 3) or 0 in array.shape:
            self._fail(name, "expected an array (N, C) or (C, H, W)", array.shape)
        if not np.isfinite(array).all():
            self._fail(name, "expected finite numbers", "others")
        return array

    def _fail(self, name: Key, expected: str, got: object) -> None:
        raise DataError(f"{self.path}: scene {name}: {expected}, got {got}")


def _channels(count: int) -> tuple[str, ...]:
    return tuple(f"channel {i}" for i in range(count))


def _cells(grid: np.ndarray) -> np.ndarray:
    down, right = (np.linspace(-1, 1, size, dtype=np.float32) for size in grid.shape[1:])
    places = np.stack(np.meshgrid(down, right, indexing="ij"))
    return np.concatenate([grid, places]).reshape(len(grid) + 2, -1).T


class _Scenes(Sequence[Scene]):
    """The scenes of a file that `keys` name."""

    def __init__(self, arrays: Arrays, keys: Sequence[Key], width: int):
        self.arrays, self.width = arrays, width
        self.names = [arrays.name(key) for key in keys]
        missing = set(self.names) - set(arrays.keys())
        if missing:
            name = next(name for name in self.names if name in missing)
            raise DataError(f"{arrays.path}: expected features of the scene {name!r}, which a question asks about")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> Scene:  # pyright: ignore[reportIncompatibleMethodOverride] - no slices
        tokens = self.arrays.tokens(self.names[row])
        if tokens.shape[1] != self.width:
            where = f"{self.arrays.path}: scene {self.names[row]}"
            raise DataError(f"{where}: expected {self.width} numbers a token, as in other files, got {tokens.shape[1]}")
        return Scene([()] * len(tokens), tokens)


@dataclass(frozen=True)
class Features:
    """The questions of another source, about features.

    `file` is the name of a split's file without its ending, in which `{split}` stands for the split. Scenes are read
    when they are taken, and may be taken in any process.
    """

    folder: Path
    asked: Source
    file: str = "{split}_features"

    label_columns = ()

    @cached_property
    def number_columns(self) -> tuple[str, ...]:
        """The channels, and for a grid `down` and `right`; those of the first scene of the first file."""
        files = sorted(path for ending in ENDINGS for path in self.folder.glob(self._name("*") + ending))
        return Arrays(files[0] if files else self._path("train")).columns()

    def _name(self, split: str) -> str:
        return self.file.replace("{split}", split)

    def _path(self, split: str) -> Path:
        return first_found((self.folder / (self._name(split) + ending) for ending in ENDINGS), "features")

    def questions(self, split: str, most: int | None = None, whole: bool = False) -> list[Question]:
        """See `Source.questions`."""
        return self.asked.questions(split, most, whole)

    def scenes(self, split: str, keys: Sequence[Key], whole: bool = False) -> Sequence[Scene]:
        """See `Source.scenes`. There are no records of these scenes."""
        return _Scenes(Arrays(self._path(split)), keys, len(self.number_columns))

    def true_objects(self, question: Question, scene: Scene) -> None:
        """Return None: which tokens show an object is unknown."""
