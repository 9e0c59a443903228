"""Where each visual token of a scene is drawn: in the pixels of its picture, through time, on a plane, or as cells.

Every scene is drawn in a picture of CLEVR's size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isqrt
from typing import NamedTuple

import numpy as np

from iprm.vqa.data.examples import Scene

WIDTH, HEIGHT = 480, 320
"""The size of the picture, in pixels."""
PER_UNIT = 150, 90
"""Pixels to a unit of CLEVR's places (`iprm.vqa.data.clevr.place`), to the right and to the back."""
ROOM = 80
"""How wide and high the room of an object is, in pixels, where it is drawn at full size."""
COLORS = {
    "gray": "#7d8489",
    "red": "#ad2323",
    "blue": "#2a4bd7",
    "green": "#1d7a22",
    "brown": "#814a19",
    "purple": "#8126c0",
    "cyan": "#29d0d0",
    "yellow": "#ffdf33",
}
"""What CLEVR's colours look like."""


class Layout(NamedTuple):
    """The places of a scene's N tokens."""

    places: list[tuple[int, int]]
    """The middle of each, in pixels from the upper left."""
    scale: float = 1.0
    """The size at which objects are drawn."""
    cells: tuple[int, int] | None = None
    """(rows, columns) where the tokens tile the picture, row by row."""


def _middles(cells: Iterable[tuple[int, int]], rows: int, columns: int) -> list[tuple[int, int]]:
    """Return the middles of cells (row, column) of a grid over the picture."""
    width, height = WIDTH / columns, HEIGHT / rows
    return [(round(width * (column + 0.5)), round(height * (row + 0.5))) for row, column in cells]


def _pixels(scene: Scene) -> Layout | None:
    """CLEVR's own pixel coordinates, where the reader kept them."""
    things = scene.record.get("objects") if isinstance(scene.record, dict) else None
    if not isinstance(things, list) or len(things) != len(scene.numbers):
        return None
    if not all(isinstance(thing, dict) and "pixel_coords" in thing for thing in things):
        return None
    return Layout([tuple(round(x) for x in thing["pixel_coords"][:2]) for thing in things])


def _film(scene: Scene, columns: Sequence[str]) -> Layout | None:
    """A row for each object that a video follows, a column for each of its frames."""
    if scene.objects is None or "time" not in columns:
        return None
    times = scene.numbers[:, columns.index("time")].tolist()
    rows, frames = ({value: i for i, value in enumerate(sorted(set(values)))} for values in (scene.objects, times))
    cells = ((rows[thing], frames[time]) for thing, time in zip(scene.objects, times, strict=True))
    scale = min(1.0, WIDTH / len(frames) / ROOM, HEIGHT / len(rows) / ROOM)
    return Layout(_middles(cells, len(rows), len(frames)), round(scale, 2))


def _plane(scene: Scene, columns: Sequence[str]) -> Layout | None:
    """Places along the viewer's axes, where the numbers hold them."""
    if not {"right", "behind"} <= set(columns):
        return None
    right, behind = (scene.numbers[:, columns.index(name)].tolist() for name in ("right", "behind"))
    x, y = PER_UNIT
    return Layout([(round(WIDTH / 2 + x * r), round(HEIGHT / 2 - y * b)) for r, b in zip(right, behind, strict=True)])


def _shape(scene: Scene, columns: Sequence[str]) -> tuple[int, int]:
    """Return (rows, columns) of a feature map by how far down its cells are; without that, nearest to a square."""
    tokens = len(scene.numbers)
    if "down" in columns:
        rows = len(set(scene.numbers[:, columns.index("down")].tolist()))
    else:
        rows = next(rows for rows in range(isqrt(tokens), 0, -1) if tokens % rows == 0)
    return rows, tokens // rows


def _cells(scene: Scene, columns: Sequence[str]) -> Layout:
    """The cells of a feature map, row by row."""
    height, width = _shape(scene, columns)
    return Layout(_middles(np.ndindex(height, width), height, width), cells=(height, width))


def layout(scene: Scene, columns: Sequence[str]) -> Layout:
    """Return where the tokens of a scene are drawn; `columns` are the names of its numbers."""
    return _pixels(scene) or _film(scene, columns) or _plane(scene, columns) or _cells(scene, columns)
