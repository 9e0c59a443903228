"""CLEVR's functional programs: the function names of CLEVR v1.0 and the executor that answers a question.

A program is a list of nodes `{"function", "inputs", "value_inputs"}` in topological order; `inputs` are
indices of earlier nodes and the last node gives the answer. Values inside a program are sorted lists of
object indices, one object index, an attribute value, a number or a truth value; the answer is text (`yes`,
`3`, `red`), as in the files.

Source: Johnson et al., "CLEVR: A Diagnostic Dataset for Compositional Language and Elementary Visual
Reasoning".
"""

from __future__ import annotations

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
    """A program that is malformed: an unknown function, or the wrong number of inputs."""


class Degenerate(ValueError):
    """A question with no answer in this scene: `unique` met none or several objects."""


class Function(NamedTuple):
    """How many earlier results and how many words a function takes, and what it does with them."""

    inputs: int
    values: int
    run: Callable[..., Any]


def _unique(scene: dict, objects: list[int]) -> int:
    if len(objects) != 1:
        raise Degenerate(f"unique: expected one object, got {len(objects)}")
    return objects[0]


def _relate(scene: dict, index: int, direction: str) -> list[int]:
    relationships = scene["relationships"]
    if direction not in relationships:
        raise ProgramError(f"relate: expected one of {', '.join(sorted(relationships))}, got {direction!r}")
    return sorted(relationships[direction][index])


def _filter(attribute: str) -> Function:
    def run(scene: dict, objects: list[int], value: str) -> list[int]:
        return [i for i in objects if scene["objects"][i][attribute] == value]

    return Function(1, 1, run)


def _query(attribute: str) -> Function:
    return Function(1, 0, lambda scene, index: scene["objects"][index][attribute])


def _same(attribute: str) -> Function:
    def run(scene: dict, index: int) -> list[int]:
        objects = scene["objects"]
        value = objects[index][attribute]
        return [i for i, thing in enumerate(objects) if i != index and thing[attribute] == value]

    return Function(1, 0, run)


FUNCTIONS: dict[str, Function] = {
    "scene": Function(0, 0, lambda scene: list(range(len(scene["objects"])))),
    "unique": Function(1, 0, _unique),
    "relate": Function(1, 1, _relate),
    "union": Function(2, 0, lambda scene, a, b: sorted(set(a) | set(b))),
    "intersect": Function(2, 0, lambda scene, a, b: sorted(set(a) & set(b))),
    "exist": Function(1, 0, lambda scene, objects: len(objects) > 0),
    "count": Function(1, 0, lambda scene, objects: len(objects)),
    "equal_integer": Function(2, 0, lambda scene, a, b: a == b),
    "less_than": Function(2, 0, lambda scene, a, b: a < b),
    "greater_than": Function(2, 0, lambda scene, a, b: a > b),
    **{f"filter_{a}": _filter(a) for a in ATTRIBUTES},
    **{f"query_{a}": _query(a) for a in ATTRIBUTES},
    **{f"same_{a}": _same(a) for a in ATTRIBUTES},
    **{f"equal_{a}": Function(2, 0, lambda scene, a, b: a == b) for a in ATTRIBUTES},
}


def _function(node: dict, position: int) -> Function:
    name = node.get("function")
    if name not in FUNCTIONS:
        known = ", ".join(sorted(FUNCTIONS))
        raise ProgramError(f"program node {position}: unknown function {name!r}; expected one of {known}")
    function = FUNCTIONS[name]
    for key, expected in (("inputs", function.inputs), ("value_inputs", function.values)):
        got = node.get(key, [])
        if len(got) != expected:
            raise ProgramError(f"program node {position} ({name}): {key}: expected {expected}, got {got!r}")
    if any(not 0 <= i < position for i in node.get("inputs", [])):
        raise ProgramError(
            f"program node {position} ({name}): inputs: expected earlier nodes (0 to {position - 1}), "
            f"got {node['inputs']!r}"
        )
    return function


def apply(node: dict, results: Sequence[Any], scene: dict) -> Any:
    """Return the result of one node, given those of all earlier ones. Raises what `trace` raises."""
    function = _function(node, len(results))
    inputs = [results[i] for i in node.get("inputs", [])]
    return function.run(scene, *inputs, *node.get("value_inputs", []))


def trace(program: Sequence[dict], scene: dict) -> list[Any]:
    """Return the result of every node.

    Raises `ProgramError` for a malformed program and `Degenerate` where `unique` does not find one object.
    """
    if not program:
        raise ProgramError("program: expected at least one node, got none")
    results: list[Any] = []
    for node in program:
        results.append(apply(node, results, scene))
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
    """Return the last function: what kind of answer is asked for."""
    name = program[-1].get("function") if program else None
    if name not in FUNCTIONS:
        raise ProgramError(f"program: unknown last function {name!r}; expected one of {', '.join(sorted(FUNCTIONS))}")
    return name


def family(program: Sequence[dict]) -> str:
    """Return the question family (one of `FAMILIES`) by the most demanding part of the program."""
    last = asked(program)
    names = {node.get("function") for node in program}
    unknown = names - FUNCTIONS.keys()
    if unknown:
        raise ProgramError(f"program: unknown function {sorted(map(str, unknown))[0]!r}")
    if last in ("equal_integer", "less_than", "greater_than"):
        return "compare integer"
    if last.startswith("equal_"):
        return "compare attribute"
    if names & {"union", "intersect"}:
        return "and / or"
    if any(name.startswith("same_") for name in names):
        return "same attribute"
    if "relate" in names:
        return "spatial relation"
    return "query attribute" if last.startswith("query_") else last


def is_degenerate(program: Sequence[dict], scene: dict) -> bool:
    """Return whether some relation of the question does no work.

    That is so when the question, one `relate` replaced by the whole scene, still asks about the same objects.
    Raises what `trace` raises.
    """
    if all(node["function"] != "relate" for node in program):
        return False
    results = trace(program, scene)
    about = [results[i] for i in program[-1]["inputs"]]
    for position, node in enumerate(program):
        if node["function"] != "relate":
            continue
        without = list(program)
        without[position] = {"function": "scene", "inputs": [], "value_inputs": []}
        try:
            changed = trace(without, scene)
        except Degenerate:
            continue
        if [changed[i] for i in program[-1]["inputs"]] == about:
            return True
    return False
