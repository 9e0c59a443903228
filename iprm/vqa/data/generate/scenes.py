"""Random scenes with every key of CLEVR's scene file.

Objects stand on a plane of 6 x 6, apart from each other and apart along the viewer's axes too, so that every
spatial relation is plain to see. The viewing angle differs a little from scene to scene, as CLEVR's jittered
camera does.
"""

from __future__ import annotations

import math
import random

COLORS = ("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow")
SHAPES = ("cube", "sphere", "cylinder")
MATERIALS = ("rubber", "metal")
SIZES = {"large": 0.7, "small": 0.35}
VALUES = {"size": tuple(SIZES), "color": COLORS, "material": MATERIALS, "shape": SHAPES}

EPS = 0.2  # how far along a direction an object must stand to count as left, right, front or behind
GAP = 0.25  # free room between two objects
MARGIN = 0.4  # least distance of two objects along each of the viewer's axes
TRIES = 50  # places tried for one object before the scene is begun again


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


def along(vector: list[float], a: list[float], b: list[float]) -> float:
    """Return how far point `b` lies from point `a` along `vector`."""
    return sum(v * (q - p) for v, p, q in zip(vector, a, b, strict=True))


def relationships(objects: list[dict], axes: dict[str, list[float]]) -> dict[str, list[list[int]]]:
    """Return, for each direction, the list of objects on that side of each object.

    `relationships["left"][i]` are the objects left of object i: those more than `EPS` away along `left`.
    """
    places = [thing["3d_coords"] for thing in objects]
    return {
        name: [
            [j for j, b in enumerate(places) if j != i and along(axes[name], a, b) > EPS] for i, a in enumerate(places)
        ]
        for name in ("left", "right", "front", "behind")
    }


def _pixel(place: list[float], axes: dict[str, list[float]]) -> list[float]:
    """Project a place onto a 480 x 320 picture: column, row, depth."""
    origin = [0.0, 0.0, 0.0]
    depth = 11.0 + along(axes["behind"], origin, place)
    column = 240 + 560 * along(axes["right"], origin, place) / depth
    row = 160 - 560 * (0.55 * along(axes["behind"], origin, place) + place[2] - 0.6) / depth
    return [round(column), round(row), depth]


def _stands_free(place: list[float], radius: float, others: list[tuple], axes: dict[str, list[float]]) -> bool:
    for other, other_radius in others:
        if math.dist(place[:2], other[:2]) < radius + other_radius + GAP:
            return False
        if any(abs(along(axes[name], place, other)) < MARGIN for name in ("right", "behind")):
            return False
    return True


def _place(rng: random.Random, radius: float, others: list[tuple], axes: dict) -> list[float] | None:
    for _ in range(TRIES):
        place = [rng.uniform(-3, 3), rng.uniform(-3, 3), radius]
        if _stands_free(place, radius, others, axes):
            return place
    return None


def _object(rng: random.Random, placed: list[tuple], axes: dict) -> dict | None:
    attributes = {name: rng.choice(values) for name, values in VALUES.items()}
    radius = SIZES[attributes["size"]] / (math.sqrt(2) if attributes["shape"] == "cube" else 1)
    place = _place(rng, radius, placed, axes)
    if place is None:
        return None
    placed.append((place, radius))
    pixel = _pixel(place, axes)
    return attributes | {"3d_coords": place, "pixel_coords": pixel, "rotation": rng.uniform(0, 360)}


def _objects(rng: random.Random, count: int, axes: dict) -> list[dict]:
    while True:
        placed: list[tuple] = []
        objects = []
        while len(objects) < count and (thing := _object(rng, placed, axes)) is not None:
            objects.append(thing)
        if len(objects) == count:
            return objects


def random_scene(rng: random.Random, split: str, index: int, smallest: int, largest: int) -> dict:
    """Return a scene of `smallest` to `largest` objects (at most 10) with the keys of CLEVR's scene file."""
    axes = directions(math.radians(49 + rng.uniform(-6, 6)))
    objects = _objects(rng, rng.randint(smallest, largest), axes)
    return {
        "image_index": index,
        "image_filename": f"CLEVR_{split}_{index:06d}.png",
        "split": split,
        "objects": objects,
        "relationships": relationships(objects, axes),
        "directions": axes,
    }
