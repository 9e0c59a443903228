"""Random scenes with every key of CLEVR's scene file.

Objects stand on a plane of 6 x 6, apart from each other and apart along the viewer's axes too, so that every
spatial relation is plain to see. The viewing angle differs a little from scene to scene, as CLEVR's jittered
camera does. Objects take some attributes after one another, so that descriptions often fit several of them.
"""

from __future__ import annotations

import math
import random
from typing import Literal, NamedTuple

COLORS = ("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow")
SHAPES = ("cube", "sphere", "cylinder")
MATERIALS = ("rubber", "metal")
SIZES = {"large": 0.7, "small": 0.35}
VALUES = {"size": tuple(SIZES), "color": COLORS, "material": MATERIALS, "shape": SHAPES}

Pairs = Literal["any", "never", "always"]
"""Whether objects have a held-out pair of color and shape: as it falls; none has; one has, and others often do."""
HELD_OUT = frozenset((color, SHAPES[i % len(SHAPES)]) for i, color in enumerate(COLORS))
"""The pairs (color, shape) that training may leave out; it keeps two shapes of each color."""

MOST_OBJECTS = 10  # as many as the plane holds
LIKENESS = 0.25  # chance that an attribute is an earlier object's
EPS = 0.2  # how far along a direction an object must stand to count as left, right, front or behind
GAP = 0.25  # free room between two objects
MARGIN = 0.4  # least distance of two objects along each of the viewer's axes
TRIES = 50  # places tried for one object before the scene is begun again


class Spot(NamedTuple):
    """Where an object stands as the viewer sees it, and how far it reaches."""

    right: float
    behind: float
    radius: float


def directions(angle: float) -> dict[str, list[float]]:
    """Return the six unit vectors of a viewer whose right-hand side points along `angle` (radians)."""
    right = [math.cos(angle), math.sin(angle), 0.0]
    behind = [-math.sin(angle), math.cos(angle), 0.0]
    return {
        "left": [-x for x in right],
        "right": right,
        "front": [-x for x in behind],
        "behind": behind,
        "above": [0.0, 0.0, 1.0],
        "below": [0.0, 0.0, -1.0],
    }


def relationships(spots: list[Spot]) -> dict[str, list[list[int]]]:
    """Return, for each direction, the list of objects on that side of each object.

    `relationships["left"][i]` are the objects left of object i: those more than `EPS` away along `left`.
    """

    def beyond(along: list[float]) -> list[list[int]]:
        return [[j for j, b in enumerate(along) if b - a > EPS] for a in along]

    right, behind = [spot.right for spot in spots], [spot.behind for spot in spots]
    left, front = [-x for x in right], [-x for x in behind]
    return {"left": beyond(left), "right": beyond(right), "front": beyond(front), "behind": beyond(behind)}


def _pixel(spot: Spot) -> list[float]:
    """Project a place onto a 480 x 320 picture: column, row, depth."""
    depth = 11.0 + spot.behind
    column = 240 + 560 * spot.right / depth
    row = 160 - 560 * (0.55 * spot.behind + spot.radius - 0.6) / depth
    return [round(column), round(row), depth]


def _stands_free(spot: Spot, others: list[Spot]) -> bool:
    right, behind, radius = spot
    for other_right, other_behind, other_radius in others:
        across, along = abs(right - other_right), abs(behind - other_behind)
        if across < MARGIN or along < MARGIN or math.hypot(across, along) < radius + other_radius + GAP:
            return False
    return True


def _place(rng: random.Random, radius: float, others: list[Spot], axes: dict) -> tuple[list[float], Spot] | None:
    """Return a free place on the plane (x, y, z), and as the viewer sees it."""
    c, s, _ = axes["right"]
    for _ in range(TRIES):
        x, y = 6 * rng.random() - 3, 6 * rng.random() - 3
        spot = Spot(c * x + s * y, c * y - s * x, radius)
        if _stands_free(spot, others):
            return [x, y, radius], spot
    return None


def held_out(thing: dict) -> bool:
    """Return whether an object has a held-out pair of color and shape."""
    return (thing["color"], thing["shape"]) in HELD_OUT


def _attributes(rng: random.Random, others: list[dict]) -> dict[str, str]:
    model = rng.choice(others) if others else None
    return {
        name: model[name] if model and rng.random() < LIKENESS else rng.choice(values)
        for name, values in VALUES.items()
    }


def _allowed_attributes(rng: random.Random, others: list[dict], pairs: Pairs) -> dict[str, str]:
    wanted = pairs == "always" and (not others or rng.random() < 0.5)
    while True:
        attributes = _attributes(rng, others)
        if pairs == "any" or held_out(attributes) == wanted:
            return attributes


def _objects(rng: random.Random, count: int, axes: dict, pairs: Pairs) -> tuple[list[dict], list[Spot]] | None:
    """Return `count` objects and where they stand; None where one found no free place."""
    objects: list[dict] = []
    spots: list[Spot] = []
    for _ in range(count):
        attributes = _allowed_attributes(rng, objects, pairs)
        radius = SIZES[attributes["size"]] / (math.sqrt(2) if attributes["shape"] == "cube" else 1)
        if (found := _place(rng, radius, spots, axes)) is None:
            return None
        place, spot = found
        spots.append(spot)
        look = {"3d_coords": place, "pixel_coords": _pixel(spot), "rotation": 360 * rng.random()}
        objects.append(attributes | look)
    return objects, spots


def random_scene(rng: random.Random, split: str, index: int, smallest: int, largest: int, pairs: Pairs = "any") -> dict:
    """Return a scene of `smallest` to `largest` objects with the keys of CLEVR's scene file."""
    axes = directions(math.radians(49 + rng.uniform(-6, 6)))
    count = rng.randint(smallest, largest)
    while (made := _objects(rng, count, axes, pairs)) is None:
        pass
    objects, spots = made
    return {
        "image_index": index,
        "image_filename": f"CLEVR_{split}_{index:06d}.png",
        "split": split,
        "objects": objects,
        "relationships": relationships(spots),
        "directions": axes,
    }
