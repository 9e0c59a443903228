"""A question being put together: noun phrases as words and as program nodes, over sets of objects as bits.

Sets of objects are kept as the bits of an integer (bit i: object i), so that many questions can be drawn and
thrown away at little cost.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import combinations
from typing import NamedTuple

from iprm.vqa.data.generate.scenes import HELD_OUT, VALUES, held_out
from iprm.vqa.data.programs import ATTRIBUTES, DIRECTIONS, Degenerate

PHRASES = {"left": "left of", "right": "right of", "front": "in front of", "behind": "behind"}
PRESENT = 0.5  # chance that what is asked for in the whole scene is described after one of its objects
RELATIVE = 0.4  # chance that an attribute follows in a relative clause: "red cubes that are metal"

Description = list[tuple[str, str]]
"""Attributes and their values, in the order of their filters."""


def _bits(objects: Iterable[int]) -> int:
    return sum(1 << i for i in objects)


@cache
def _subsets(size: int, *without: str | None) -> list[tuple[str, ...]]:
    """Return all choices of `size` attributes, none of them in `without`."""
    return list(combinations([a for a in ATTRIBUTES if a not in without], size))


SUBSETS = [subset for size in range(1, len(ATTRIBUTES) + 1) for subset in _subsets(size)]  # shortest first


class Sight:
    """What a scene's objects share, as bits."""

    def __init__(self, scene: dict):
        self.things: list[dict] = scene["objects"]
        self.everything = (1 << len(self.things)) - 1
        self.held_out = _bits(i for i, thing in enumerate(self.things) if held_out(thing))
        self.beside = {name: [_bits(found) for found in rows] for name, rows in scene["relationships"].items()}
        self.having: dict[tuple[str, str], int] = {}
        for i, thing in enumerate(self.things):
            for attribute in ATTRIBUTES:
                key = attribute, thing[attribute]
                self.having[key] = self.having.get(key, 0) | 1 << i
        self.fitting: dict[tuple[str, ...], list[int]] = {(): [self.everything] * len(self.things)}
        """For each choice of attributes and each object: all objects that have these in common with it."""
        for subset in SUBSETS:
            shared = self.fitting[subset[:-1]]
            self.fitting[subset] = [
                bits & self.having[subset[-1], thing[subset[-1]]]
                for bits, thing in zip(shared, self.things, strict=True)
            ]

    def described(self, index: int, subset: Sequence[str]) -> Description:
        """Return the chosen attributes of one object."""
        thing = self.things[index]
        return [(attribute, thing[attribute]) for attribute in subset]


class Place(NamedTuple):
    """Objects before they are named: all of the scene, or those that a relation leads to."""

    node: int
    objects: int  # bits
    words: str = ""  # after the noun, with a space before them
    wider: tuple[int, ...] = ()  # for each relation that leads here: the objects, were it left out
    shared: str | None = None  # the attribute that all have in common; it is not named
    other: str = ""  # before the noun

    def narrows(self, match: int) -> bool:
        """Return whether each relation matters to the objects of `match`: without it, there would be more of them."""
        return all(match & wider & ~self.objects for wider in self.wider)


class Thing(NamedTuple):
    """One object, named."""

    words: str
    node: int
    index: int  # pyright: ignore[reportIncompatibleMethodOverride] - a tuple's


class Group(NamedTuple):
    """Some objects, named; perhaps none."""

    words: str
    node: int
    objects: int  # bits
    description: Description
    wider: tuple[int, ...]  # as of its place

    def includes(self, other: Group) -> bool:
        """Return whether, by the words alone, all of `other` are among these."""
        return not self.wider and set(self.description) <= set(other.description)


def noun(description: Description, plural: bool = False) -> str:
    """Return a description as words: `small red cubes`."""
    words = [value for attribute, value in description if attribute != "shape"]
    shape = next((value for attribute, value in description if attribute == "shape"), "thing")
    return " ".join([*words, shape + "s" if plural else shape])


def that_are(attribute: str, value: str) -> str:
    """Return the relative clause that adds an attribute to a plural noun."""
    return f" that are {value}s" if attribute == "shape" else f" that are {value}"


class Draft:
    """Chance, a scene, how many attributes each noun names (in the order of the nouns), and the program so far.

    What cannot be said of the scene raises `Degenerate`.
    """

    def __init__(self, rng: random.Random, sight: Sight, sizes: Iterable[int]):
        self.rng, self.sight, self.sizes = rng, sight, iter(sizes)
        self.nodes: list[tuple[str, tuple[int, ...], str | None]] = []
        self.named: list[Description] = []

    def program(self) -> list[dict]:
        """Return the program as the files have it."""
        return [
            {"function": function, "inputs": list(inputs), "value_inputs": [] if value is None else [value]}
            for function, inputs, value in self.nodes
        ]

    def names_held_out(self) -> bool:
        """Return whether a noun names a held-out pair."""
        return any(
            (color, shape) in HELD_OUT
            for description in self.named
            for a, color in description
            for b, shape in description
            if a == "color" and b == "shape"
        )

    def pick(self, options: Sequence):
        """Return one of `options`; as `rng.choice`, in a fraction of its time."""
        return options[int(self.rng.random() * len(options))]

    def add(self, function: str, *inputs: int, value: str | None = None) -> int:
        """Append a node and return its index."""
        self.nodes.append((function, inputs, value))
        return len(self.nodes) - 1

    def filtered(self, node: int, description: Description) -> int:
        """Append the filters of a description."""
        self.named.append(description)
        for attribute, value in description:
            node = self.add(f"filter_{attribute}", node, value=value)
        return node

    def scene(self) -> Place:
        """Append the whole scene."""
        return Place(self.add("scene"), self.sight.everything)

    def the(self, place: Place, without: str | None = None) -> Thing:
        """Append the choice of one object of a place, by a description that only it fits there.

        Where a relation leads to the place, the description fits other objects elsewhere.
        """
        fitting = [
            (i, subset)
            for subset in _subsets(next(self.sizes), without, place.shared)
            for i, match in enumerate(self.sight.fitting[subset])
            if match & place.objects == 1 << i and (not place.wider or place.narrows(match))
        ]
        if not fitting:
            raise Degenerate("no description singles an object out")
        index, subset = self.pick(fitting)
        description = self.sight.described(index, subset)
        words = f"{place.other}{noun(description)}{place.words}"
        return Thing(words, self.add("unique", self.filtered(place.node, description)), index)

    def some(self, place: Place, relative: bool = False) -> Group:
        """Append the choice of all objects of a place that fit a description; `relative`: perhaps by a clause."""
        description, match = self._description(place)
        if not place.narrows(match):
            raise Degenerate("a relation does no work")
        clause = ""
        if relative and not place.wider and len(description) > 1 and self.rng.random() < RELATIVE:
            last = self.pick(description)
            description = [*(pair for pair in description if pair != last), last]
            clause = that_are(*last)
        words = f"{place.other}{noun(description[:-1] if clause else description, True)}{clause}{place.words}"
        node = self.filtered(place.node, description)
        wider = tuple(match & objects for objects in place.wider)
        return Group(words, node, match & place.objects, description, wider)

    def _description(self, place: Place) -> tuple[Description, int]:
        subset = self.pick(_subsets(next(self.sizes), place.shared))
        if place.wider or self.rng.random() < PRESENT:
            index = self.pick(range(len(self.sight.things)))
            return self.sight.described(index, subset), self.sight.fitting[subset][index]
        description = [(attribute, self.pick(VALUES[attribute])) for attribute in subset]
        match = self.sight.everything
        for pair in description:
            match &= self.sight.having.get(pair, 0)
        return description, match

    def twisted(self, contradictory: bool) -> Group:
        """Append objects by a description and a clause: one that contradicts it, or one that adds to it."""
        index = self.pick(range(len(self.sight.things)))
        subset = self.pick(_subsets(next(self.sizes)))
        description, match = self.sight.described(index, subset), self.sight.fitting[subset][index]
        if contradictory:
            attribute, value = self.pick(description)
            last, match = (attribute, self.pick([v for v in VALUES[attribute] if v != value])), 0
        else:
            last = self.pick([pair for pair in self.sight.described(index, ATTRIBUTES) if pair not in description])
            match &= self.sight.having[last]
        node = self.filtered(self.scene().node, [*description, last])
        return Group(noun(description, True) + that_are(*last), node, match, [*description, last], ())

    def beside(self, thing: Thing) -> Place:
        """Append what stands on one side of an object."""
        direction = self.pick(DIRECTIONS)
        node = self.add("relate", thing.node, value=direction)
        words = f" {PHRASES[direction]} the {thing.words}"
        return Place(node, self.sight.beside[direction][thing.index], words, (self.sight.everything,))

    def like(self, thing: Thing, without: str | None) -> Place:
        """Append the other objects with the same value of one attribute."""
        attribute = self.pick([a for a in ATTRIBUTES if a != without])
        others = self.sight.everything & ~(1 << thing.index)
        objects = self.sight.fitting[attribute,][thing.index] & others
        words = f" of the same {attribute} as the {thing.words}"
        return Place(self.add(f"same_{attribute}", thing.node), objects, words, (others,), attribute, "other ")

    def chain(self, relations: Sequence[str], without: str | None = None) -> Place:
        """Append relations one after another, each from an object that the last one leads to; none: the scene.

        `without` is not the attribute that the objects at its end have in common.
        """
        place = self.scene()
        for position, relation in enumerate(relations, 1):
            thing = self.the(place)
            barred = without if position == len(relations) else None
            place = self.beside(thing) if relation == "relate" else self.like(thing, barred)
        return place

    def place(self, chains: Sequence[Sequence[str]], without: str | None = None) -> Place:
        """Append one chain, or two and where both lead to."""
        places = [self.chain(chain, without) for chain in chains]
        if len(places) == 1:
            return places[0]
        a, b = places
        node = self.add("intersect", a.node, b.node)
        return Place(node, a.objects & b.objects, f" both{a.words} and{b.words}", (a.objects, b.objects))
