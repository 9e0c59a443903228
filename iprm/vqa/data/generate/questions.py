"""Question templates: each draws a question about a scene, as words and as a program, and may fail.

A template that cannot be filled for a scene, or whose question has no answer there, raises `Degenerate`; the
caller draws again.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

from iprm.vqa.data.generate.scenes import VALUES
from iprm.vqa.data.programs import ATTRIBUTES, DIRECTIONS, Degenerate, answer_text, apply, asked, is_degenerate

PHRASES = {"left": "left of", "right": "right of", "front": "in front of", "behind": "behind"}
SUBSETS = [list(combinations(ATTRIBUTES, size)) for size in range(1, 5)]  # by size, shortest first
CANDIDATES = 4  # drawn for one question; the least given answer is taken

Description = dict[str, str]


def noun(description: Description, plural: bool = False) -> str:
    """Return a description as words: `small red cubes`."""
    words = [description[a] for a in ("size", "color", "material") if a in description]
    return " ".join([*words, description.get("shape", "thing") + ("s" if plural else "")])


class Draft:
    """A question being put together: a scene to ask about, chance, the program so far and its results."""

    def __init__(self, rng: random.Random, scene: dict):
        self.rng, self.scene = rng, scene
        self.program: list[dict] = []
        self.results: list[Any] = []

    def add(self, function: str, inputs: Sequence[int] = (), values: Sequence[str] = ()) -> int:
        """Append a node, run it, and return its index. Raises `Degenerate` where `unique` fails."""
        node = {"function": function, "inputs": list(inputs), "value_inputs": list(values)}
        self.results.append(apply(node, self.results, self.scene))
        self.program.append(node)
        return len(self.program) - 1

    def filtered(self, source: int, description: Description) -> int:
        """Append the filters of a description."""
        for attribute in ATTRIBUTES:
            if attribute in description:
                source = self.add(f"filter_{attribute}", [source], [description[attribute]])
        return source

    def describe(self, index: int, subset: Sequence[str]) -> Description:
        """Return the chosen attributes of one object."""
        return {a: self.scene["objects"][index][a] for a in subset}

    def some(self, without: Sequence[str] = (), most: int = 2, present: float = 0.8) -> Description:
        """Return 1 to `most` attributes: of an object with chance `present`, else of anything."""
        allowed = [a for a in ATTRIBUTES if a not in without]
        subset = self.rng.sample(allowed, self.rng.randint(1, most))
        if self.rng.random() < present:
            return self.describe(self.rng.randrange(len(self.scene["objects"])), subset)
        return {a: self.rng.choice(VALUES[a]) for a in subset}

    def only(self, among: list[int], without: Sequence[str] = (), chosen: int | None = None) -> tuple[int, Description]:
        """Return one object of `among` and a shortest description that no other object there fits."""
        if not among:
            raise Degenerate("no object to describe")
        index = self.rng.choice(among) if chosen is None else chosen
        for subsets in SUBSETS:
            fitting = [s for s in subsets if not set(s) & set(without) and self._singles_out(index, s, among)]
            if fitting:
                return index, self.describe(index, self.rng.choice(fitting))
        raise Degenerate("no description singles the object out")

    def _singles_out(self, index: int, subset: Sequence[str], among: list[int]) -> bool:
        objects = self.scene["objects"]
        thing = objects[index]
        return not any(i != index and all(objects[i][a] == thing[a] for a in subset) for i in among)

    def the(self, source: int, without: Sequence[str] = (), chosen: int | None = None) -> tuple[str, int, int]:
        """Append filters and `unique` for one object of a node; return its words, its index and the node."""
        index, description = self.only(self.results[source], without, chosen)
        return noun(description), index, self.add("unique", [self.filtered(source, description)])

    def thing(self, without: Sequence[str] = (), chosen: int | None = None) -> tuple[str, int, int]:
        """Append the choice of one object of the scene."""
        return self.the(self.add("scene"), without, chosen)

    def beside(self, hops: int) -> tuple[str, int]:
        """Append a chain of `hops` spatial relations; return its words and the node it leads to."""
        words, _, node = self.thing()
        for hop in range(hops):
            direction = self.rng.choice(DIRECTIONS)
            words = f"{PHRASES[direction]} the {words}"
            node = self.add("relate", [node], [direction])
            if hop + 1 < hops:
                inner, _, node = self.the(node)
                words = f"{inner} {words}"
        return words, node


def exist(draft: Draft) -> str:
    """Are there any red cubes?"""
    description = draft.some(most=3, present=0.4)
    draft.add("exist", [draft.filtered(draft.add("scene"), description)])
    return f"Are there any {noun(description, True)}?"


def count(draft: Draft) -> str:
    """How many red things are there?"""
    description = draft.some()
    draft.add("count", [draft.filtered(draft.add("scene"), description)])
    return f"How many {noun(description, True)} are there?"


def query(draft: Draft) -> str:
    """What color is the large sphere?"""
    attribute = draft.rng.choice(ATTRIBUTES)
    words, _, node = draft.thing([attribute])
    draft.add(f"query_{attribute}", [node])
    return f"What {attribute} is the {words}?"


def compare_attribute(draft: Draft) -> str:
    """Do the red cube and the sphere have the same size?"""
    attribute = draft.rng.choice(ATTRIBUTES)
    first, i, a = draft.thing([attribute])
    others = [j for j in range(len(draft.scene["objects"])) if j != i]
    second, _, b = draft.thing([attribute], draft.rng.choice(others))
    queries = [draft.add(f"query_{attribute}", [node]) for node in (a, b)]
    draft.add(f"equal_{attribute}", queries)
    return f"Do the {first} and the {second} have the same {attribute}?"


def compare_integer(draft: Draft) -> str:
    """Are there more cubes than red things?"""
    first, second = draft.some(most=1), draft.some(most=1)
    if first == second:
        raise Degenerate("a number is not compared with itself")
    counts = [draft.add("count", [draft.filtered(draft.add("scene"), d)]) for d in (first, second)]
    function = draft.rng.choice(("equal_integer", "less_than", "greater_than"))
    draft.add(function, counts)
    a, b = noun(first, True), noun(second, True)
    return {
        "equal_integer": f"Are there as many {a} as {b}?",
        "less_than": f"Are there fewer {a} than {b}?",
        "greater_than": f"Are there more {a} than {b}?",
    }[function]


def _same(draft: Draft) -> tuple[str, str, int]:
    """Append the objects like another in one attribute; return the attribute, its words and the node."""
    attribute = draft.rng.choice(ATTRIBUTES)
    words, _, node = draft.thing([attribute])
    return attribute, f"the same {attribute} as the {words}", draft.add(f"same_{attribute}", [node])


def same_exist(draft: Draft) -> str:
    """Are there any other cubes of the same color as the sphere?"""
    attribute, words, node = _same(draft)
    description = draft.some(without=[attribute], most=1)
    draft.add("exist", [draft.filtered(node, description)])
    return f"Are there any other {noun(description, True)} of {words}?"


def same_count(draft: Draft) -> str:
    """How many other things are of the same color as the sphere?"""
    _, words, node = _same(draft)
    draft.add("count", [node])
    return f"How many other things are of {words}?"


def same_query(draft: Draft) -> str:
    """What size is the other cube of the same color as the sphere?"""
    attribute, words, node = _same(draft)
    wanted = draft.rng.choice([a for a in ATTRIBUTES if a != attribute])
    inner, _, node = draft.the(node, [attribute, wanted])
    draft.add(f"query_{wanted}", [node])
    return f"What {wanted} is the other {inner} of {words}?"


def relate_exist(draft: Draft) -> str:
    """Are there any cubes left of the sphere?"""
    words, node = draft.beside(draft.rng.choice((1, 1, 2)))
    description = draft.some(most=1)
    draft.add("exist", [draft.filtered(node, description)])
    return f"Are there any {noun(description, True)} {words}?"


def relate_count(draft: Draft) -> str:
    """How many things are left of the sphere behind the cube?"""
    words, node = draft.beside(draft.rng.choice((1, 1, 2)))
    draft.add("count", [node])
    return f"How many things are {words}?"


def relate_query(draft: Draft) -> str:
    """What color is the cube left of the sphere?"""
    words, node = draft.beside(draft.rng.choice((1, 1, 2)))
    attribute = draft.rng.choice(ATTRIBUTES)
    inner, _, node = draft.the(node, [attribute])
    draft.add(f"query_{attribute}", [node])
    return f"What {attribute} is the {inner} {words}?"


def either(draft: Draft) -> str:
    """How many things are either red or cubes?"""
    first, second = draft.some(most=1), draft.some(most=1)
    if first == second:
        raise Degenerate("either of one thing")
    nodes = [draft.filtered(draft.add("scene"), d) for d in (first, second)]
    draft.add("count", [draft.add("union", nodes)])
    return f"How many things are either {noun(first, True)} or {noun(second, True)}?"


def _both(draft: Draft) -> tuple[str, int]:
    (a, first), (b, second) = draft.beside(1), draft.beside(1)
    return f"both {a} and {b}", draft.add("intersect", [first, second])


def both_exist(draft: Draft) -> str:
    """Are there any things both left of the cube and behind the sphere?"""
    words, node = _both(draft)
    draft.add("exist", [node])
    return f"Are there any things {words}?"


def both_query(draft: Draft) -> str:
    """What color is the cube both left of the sphere and behind the cylinder?"""
    words, node = _both(draft)
    attribute = draft.rng.choice(ATTRIBUTES)
    inner, _, node = draft.the(node, [attribute])
    draft.add(f"query_{attribute}", [node])
    return f"What {attribute} is the {inner} {words}?"


# The position is the `question_family_index` of the files; the number is how often a template is drawn.
TEMPLATES: tuple[tuple[Callable[[Draft], str], int], ...] = (
    (exist, 6),
    (count, 6),
    (query, 14),
    (compare_attribute, 8),
    (compare_integer, 4),
    (same_exist, 1),
    (same_count, 1),
    (same_query, 4),
    (relate_exist, 1),
    (relate_count, 1),
    (relate_query, 5),
    (either, 2),
    (both_exist, 1),
    (both_query, 3),
)


def draw(rng: random.Random, scene: dict, template: Callable[[Draft], str]) -> tuple[str, list[dict], str]:
    """Return words, program and answer of one question. Raises `Degenerate` where the draw gives none."""
    draft = Draft(rng, scene)
    words = template(draft)
    if is_degenerate(draft.program, scene):
        raise Degenerate("a relation of the question does no work")
    return words, draft.program, answer_text(draft.results[-1])


class Balance:
    """How often each answer was given, by template and last function; keeps any of them from prevailing."""

    def __init__(self) -> None:
        self.given: dict[tuple[int, str], Counter[str]] = {}

    def count(self, index: int, question: tuple[str, list[dict], str]) -> int:
        """Return how often the question's answer was given to questions of its kind."""
        _, program, answer = question
        return self.given.get((index, asked(program)), Counter())[answer]

    def take(self, index: int, question: tuple[str, list[dict], str]) -> None:
        """Note that the question is asked."""
        _, program, answer = question
        self.given.setdefault((index, asked(program)), Counter())[answer] += 1


def ask(rng: random.Random, scene: dict, balance: Balance, seen: set[str]) -> tuple[int, str, list[dict], str]:
    """Return one new question about a scene: template index, words, program, answer.

    A template is drawn, then a few questions of it; the one whose answer was given least so far is taken.
    """
    weights = [weight for _, weight in TEMPLATES]
    for _ in range(1000):
        index = rng.choices(range(len(TEMPLATES)), weights)[0]
        candidates = []
        for _ in range(4 * CANDIDATES):
            try:
                question = draw(rng, scene, TEMPLATES[index][0])
            except Degenerate:
                continue
            if question[0] not in seen:
                candidates.append(question)
            if len(candidates) == CANDIDATES:
                break
        if candidates:
            chosen = min(candidates, key=lambda question: balance.count(index, question))
            balance.take(index, chosen)
            seen.add(chosen[0])
            return index, *chosen
    raise Degenerate(f"scene {scene['image_index']}: no further question found")
