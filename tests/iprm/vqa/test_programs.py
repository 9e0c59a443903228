"""The executor, against a scene and answers written by hand."""

import pytest

from iprm.vqa.data.programs import (
    FAMILIES,
    FUNCTIONS,
    Degenerate,
    ProgramError,
    execute,
    family,
    is_degenerate,
    trace,
)


def thing(size, color, material, shape):
    return {"size": size, "color": color, "material": material, "shape": shape}


# Seen from above, the viewer below: 0 stands left, 1 in the middle and behind, 2 right and in front.
SCENE = {
    "objects": [
        thing("small", "red", "metal", "cube"),
        thing("large", "red", "rubber", "sphere"),
        thing("large", "blue", "metal", "cube"),
    ],
    "relationships": {
        "left": [[], [0], [0, 1]],
        "right": [[1, 2], [2], []],
        "front": [[2], [0, 2], []],
        "behind": [[1], [], [0, 1]],
    },
}


def program(*nodes):
    """Make a program from rows (function, inputs, values)."""
    rows = [(*node, [], [])[:3] for node in nodes]
    return [{"function": f, "inputs": list(i), "value_inputs": list(v)} for f, i, v in rows]


def only(function, value):
    """Nodes 0 to 2: the one object with a value."""
    return ("scene",), (function, [0], [value]), ("unique", [1])


def two(value, other):
    """Nodes 0 to 5: the one object of a shape, and the one object of a color."""
    return *only("filter_shape", value), ("scene",), ("filter_color", [3], [other]), ("unique", [4])


RED_AND_CUBE = ("scene",), ("filter_color", [0], ["red"]), ("filter_shape", [0], ["cube"])


@pytest.mark.parametrize(
    ("nodes", "result"),
    [
        ([("scene",)], [0, 1, 2]),
        ([("scene",), ("filter_size", [0], ["large"])], [1, 2]),
        ([("scene",), ("filter_color", [0], ["red"])], [0, 1]),
        ([("scene",), ("filter_material", [0], ["metal"])], [0, 2]),
        ([("scene",), ("filter_shape", [0], ["cube"])], [0, 2]),
        ([("scene",), ("filter_shape", [0], ["cylinder"])], []),
        (only("filter_shape", "sphere"), 1),
        ([*only("filter_shape", "sphere"), ("relate", [2], ["left"])], [0]),
        ([*only("filter_shape", "sphere"), ("relate", [2], ["right"])], [2]),
        ([*only("filter_shape", "sphere"), ("relate", [2], ["front"])], [0, 2]),
        ([*only("filter_shape", "sphere"), ("relate", [2], ["behind"])], []),
        ([*only("filter_size", "small"), ("same_size", [2])], []),
        ([*only("filter_size", "small"), ("same_color", [2])], [1]),
        ([*only("filter_size", "small"), ("same_material", [2])], [2]),
        ([*only("filter_size", "small"), ("same_shape", [2])], [2]),
        ([*RED_AND_CUBE, ("union", [1, 2])], [0, 1, 2]),
        ([*RED_AND_CUBE, ("intersect", [1, 2])], [0]),
    ],
)
def test_objects(nodes, result):
    assert trace(program(*nodes), SCENE)[-1] == result


@pytest.mark.parametrize(
    ("nodes", "answer"),
    [
        ([("scene",), ("exist", [0])], "yes"),
        ([("scene",), ("filter_color", [0], ["green"]), ("exist", [1])], "no"),
        ([("scene",), ("count", [0])], "3"),
        ([("scene",), ("filter_color", [0], ["green"]), ("count", [1])], "0"),
        ([*only("filter_color", "blue"), ("query_size", [2])], "large"),
        ([*only("filter_color", "blue"), ("query_color", [2])], "blue"),
        ([*only("filter_color", "blue"), ("query_material", [2])], "metal"),
        ([*only("filter_color", "blue"), ("query_shape", [2])], "cube"),
    ],
)
def test_answers(nodes, answer):
    assert execute(program(*nodes), SCENE) == answer


@pytest.mark.parametrize(
    ("attribute", "answer"), [("size", "yes"), ("color", "no"), ("material", "no"), ("shape", "no")]
)
def test_equal_attributes(attribute, answer):
    queries = (f"query_{attribute}", [2]), (f"query_{attribute}", [5]), (f"equal_{attribute}", [6, 7])
    assert execute(program(*two("sphere", "blue"), *queries), SCENE) == answer


@pytest.mark.parametrize("function", ["equal_integer", "less_than", "greater_than"])
@pytest.mark.parametrize(("first", "second"), [("red", "blue"), ("blue", "red"), ("blue", "blue")])
def test_integers(function, first, second):
    counts = {"red": 2, "blue": 1}
    a, b = counts[first], counts[second]
    expected = {"equal_integer": a == b, "less_than": a < b, "greater_than": a > b}[function]
    nodes = (
        ("scene",),
        ("filter_color", [0], [first]),
        ("count", [1]),
        ("filter_color", [0], [second]),
        ("count", [3]),
    )
    assert execute(program(*nodes, (function, [2, 4])), SCENE) == ("yes" if expected else "no")


def test_functions_are_those_of_the_data_set():
    attributes = ("color", "material", "shape", "size")
    named = {f"{kind}_{a}" for kind in ("filter", "query", "same", "equal") for a in attributes}
    others = "scene unique relate union intersect exist count equal_integer less_than greater_than"
    assert set(FUNCTIONS) == named | set(others.split())


@pytest.mark.parametrize("value", ["red", "green"])
def test_unique_needs_one_object(value):
    with pytest.raises(Degenerate, match="unique: expected one object"):
        execute(program(*only("filter_color", value)), SCENE)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([("scene",), ("filter_weight", [0], ["heavy"])], "unknown function 'filter_weight'"),
        ([("scene",), ("count", [])], "inputs: expected 1"),
        ([("scene",), ("filter_color", [0], [])], "value_inputs: expected 1"),
        ([("count", [0])], "expected earlier nodes"),
        ([*only("filter_color", "blue"), ("relate", [2], ["above"])], "relate: expected one of"),
        ([], "expected at least one node"),
    ],
)
def test_malformed(nodes, message):
    with pytest.raises(ProgramError, match=message):
        trace(program(*nodes), SCENE)


@pytest.mark.parametrize(
    ("nodes", "name"),
    [
        ([("scene",), ("exist", [0])], "exist"),
        ([("scene",), ("count", [0])], "count"),
        ([*only("filter_color", "blue"), ("query_size", [2])], "query attribute"),
        (
            [*two("sphere", "blue"), ("query_size", [2]), ("query_size", [5]), ("equal_size", [6, 7])],
            "compare attribute",
        ),
        ([("scene",), ("count", [0]), ("count", [0]), ("less_than", [1, 2])], "compare integer"),
        ([*only("filter_color", "blue"), ("same_size", [2]), ("count", [3])], "same attribute"),
        ([*only("filter_color", "blue"), ("relate", [2], ["left"]), ("exist", [3])], "spatial relation"),
        ([("scene",), ("union", [0, 0]), ("count", [1])], "and / or"),
    ],
)
def test_family(nodes, name):
    assert name in FAMILIES
    assert family(program(*nodes)) == name


def test_a_relation_that_does_no_work_is_degenerate():
    sphere_left_of_blue = (
        *only("filter_color", "blue"),
        ("relate", [2], ["left"]),
        ("filter_shape", [3], ["sphere"]),
    )
    query = ("unique", [4]), ("query_size", [5])
    assert is_degenerate(program(*sphere_left_of_blue, *query), SCENE)  # there is one sphere anyway
    cube = *only("filter_shape", "sphere"), ("relate", [2], ["left"]), ("filter_shape", [3], ["cube"])
    assert not is_degenerate(program(*cube, *query), SCENE)  # there are two cubes, one of them left
