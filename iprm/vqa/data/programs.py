"""CLEVR's functional programs: the function names of CLEVR v1.0 and the executor that answers a question.

A program is a list of nodes `{"function", "inputs", "value_inputs"}` in topological order; `inputs` are
indices of earlier nodes and the last node gives the answer. Values inside a program are sorted lists of
object indices, one object index, an attribute value, a number or a truth value; the answer is text (`yes`,
`3`, `red`), as in the files.

Source: Johnson et al., "CLEVR: A Diagnostic Dataset for Compositional Language and Elementary Visual
Reasoning".
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

ATTRIBUTES = ("size", "color", "material", "shape")
DIRECTIONS = ("left", "right", "front", "behind")

FAMILIES = (
    "exist",
    "count",
    "query attribute",
    "compare attribute",
    "compare integer",
    "same attribute",
    "spatial relation",
    "and / or",
)


class ProgramError(ValueError):
    """A program that is malformed: an unknown function, or inputs of the wrong number or kind."""


class Degenerate(ValueError):
    """A question with no answer in this scene: `unique` met none or several objects."""


class Function(NamedTuple):
    """What a function takes, what it gives, and what it does.

    Kinds of results: `objects`, `object`, `value`, `number`, `truth`.
    """

    inputs: tuple[str, ...]
    """Kinds of the earlier results that it takes."""
    values: int
    """How many words it takes besides."""
    gives: str
    run: Callable[..., Any]


def _unique(scene: dict, objects: list[int]) -> int:
    if len(objects) != 1:
        raise Degenerate(f"unique: expected one object, got {len(objects)}")
    return objects[0]


def _relate(scene: dict, index: int, direction: str) -> list[int]:
    relationships = scene.get("relationships", {})
    if direction not in relationships:
        raise ProgramError(f"relate: expected one of {', '.join(sorted(relationships))}, got {direction!r}")
    return sorted(relationships[direction][index])


def _filter(attribute: str) -> Function:
    def run(scene: dict, objects: list[int], value: str) -> list[int]:
        return [i for i in objects if scene["objects"][i][attribute] == value]

    return Function(("objects",), 1, "objects", run)


def _query(attribute: str) -> Function:
    return Function(("object",), 0, "value", lambda scene, index: scene["objects"][index][attribute])


def _same(attribute: str) -> Function:
    def run(scene: dict, index: int) -> list[int]:
        objects = scene["objects"]
        value = objects[index][attribute]
        return [i for i, thing in enumerate(objects) if i != index and thing[attribute] == value]

    return Function(("object",), 0, "objects", run)


def _of_two(kind: str, gives: str, run: Callable[[Any, Any], Any]) -> Function:
    return Function((kind, kind), 0, gives, lambda scene, a, b: run(a, b))


FUNCTIONS: dict[str, Function] = {
    "scene": Function((), 0, "objects", lambda scene: list(range(len(scene["objects"])))),
    "unique": Function(("objects",), 0, "object", _unique),
    "relate": Function(("object",), 1, "objects", _relate),
    "union": _of_two("objects", "objects", lambda a, b: sorted(set(a) | set(b))),
    "intersect": _of_two("objects", "objects", lambda a, b: sorted(set(a) & set(b))),
    "exist": Function(("objects",), 0, "truth", lambda scene, objects: len(objects) > 0),
    "count": Function(("objects",), 0, "number", lambda scene, objects: len(objects)),
    "equal_integer": _of_two("number", "truth", operator.eq),
    "less_than": _of_two("number", "truth", operator.lt),
    "greater_than": _of_two("number", "truth", operator.gt),
    **{f"filter_{a}": _filter(a) for a in ATTRIBUTES},
    **{f"query_{a}": _query(a) for a in ATTRIBUTES},
    **{f"same_{a}": _same(a) for a in ATTRIBUTES},
    **{f"equal_{a}": _of_two("value", "truth", operator.eq) for a in ATTRIBUTES},
}


def _name(node: Any, position: int) -> str:
    """Return the function of a node, one of `FUNCTIONS`."""
    if not isinstance(node, dict):
        raise ProgramError(f"program node {position}: expected an object with a function, got {node!r}")
    name = node.get("function")
    if not isinstance(name, str) or name not in FUNCTIONS:
        known = ", ".join(sorted(FUNCTIONS))
        raise ProgramError(f"program node {position}: unknown function {name!r}; expected one of {known}")
    return name


def _names(program: Sequence[dict]) -> list[str]:
    if not isinstance(program, (list, tuple)) or not program:
        raise ProgramError(f"program: expected a list of at least one node, got {program!r}")
    return [_name(node, position) for position, node in enumerate(program)]


def _check(node: dict, names: Sequence[str], position: int) -> None:
    """Raise `ProgramError` unless a node takes earlier results and words, as many and of such kinds as it must."""
    where, function = f"program node {position} ({names[position]})", FUNCTIONS[names[position]]
    for key, expected, kind in (("inputs", len(function.inputs), int), ("value_inputs", function.values, str)):
        got = node.get(key, [])
        if not isinstance(got, list) or len(got) != expected or any(type(item) is not kind for item in got):
            raise ProgramError(f"{where}: {key}: expected {expected} of type {kind.__name__}, got {got!r}")
    inputs: list[int] = node.get("inputs", [])
    for source, kind in zip(inputs, function.inputs, strict=True):
        if not 0 <= source < position:
            raise ProgramError(f"{where}: inputs: expected earlier nodes (0 to {position - 1}), got {inputs!r}")
        gives = FUNCTIONS[names[source]].gives
        if gives != kind:
            raise ProgramError(f"{where}: inputs: expected {kind}, got {gives} of node {source} ({names[source]})")


def trace(program: Sequence[dict], scene: dict) -> list[Any]:
    """Return the result of every node.

    Raises `ProgramError` for a malformed program and `Degenerate` where `unique` does not find one object.
    """
    names = _names(program)
    results: list[Any] = []
    for position, node in enumerate(program):
        _check(node, names, position)
        inputs = [results[source] for source in node.get("inputs", [])]
        results.append(FUNCTIONS[names[position]].run(scene, *inputs, *node.get("value_inputs", [])))
    return results


def answer_text(value: Any) -> str:
    """Return an answer as the files write it: `yes` and `no` for truth values, digits for numbers."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def true_objects(program: Sequence[dict], scene: dict) -> list[list[int]]:
    """Return for every node the objects that it is about: those it gives, or where it gives a value, those it reads.

    Raises what `trace` raises.
    """
    results = trace(program, scene)
    objects: list[list[int]] = []
    for node, result in zip(program, results, strict=True):
        if isinstance(result, list):
            objects.append(result)
        elif node["function"] == "unique":
            objects.append([result])
        else:
            objects.append(sorted({i for source in node.get("inputs", []) for i in objects[source]}))
    return objects


def execute(program: Sequence[dict], scene: dict) -> str:
    """Return the answer of `program` in `scene`. Raises what `trace` raises."""
    return answer_text(trace(program, scene)[-1])


def asked(program: Sequence[dict]) -> str:
    """Return the last function: what kind of answer is asked for. Raises `ProgramError` where it gives none."""
    last = _names(program)[-1]
    if FUNCTIONS[last].gives in ("objects", "object"):
        raise ProgramError(f"program: expected a last function that gives an answer, got {last!r}")
    return last


def family(program: Sequence[dict]) -> str:
    """Return the question family (one of `FAMILIES`) by the most demanding part of the program.

    Raises what `asked` raises.
    """
    last, earlier = asked(program), _names(program)[:-1]
    if last in ("equal_integer", "less_than", "greater_than"):
        return "compare integer"
    if last.startswith("equal_"):
        return "compare attribute"
    if {"union", "intersect"} & set(earlier):
        return "and / or"
    if any(name.startswith("same_") for name in earlier):
        return "same attribute"
    if "relate" in earlier:
        return "spatial relation"
    return "query attribute" if last.startswith("query_") else last
