"""The executor, against a scene and answers written by hand."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iprm.vqa.data.programs import (
    FAMILIES,
    FUNCTIONS,
    Degenerate,
    ProgramError,
    execute,
    family,
    trace,
    true_objects,
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
        ([("scene",), ("count", [0]), ("count", [1])], r"node 2 \(count\): .*expected objects, got number of node 1"),
        ([("scene",), ("relate", [0], ["left"])], "expected object, got objects"),
        ([], "expected a list of at least one node"),
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


@pytest.mark.parametrize("nodes", [[("scene",)], only("filter_color", "blue")])
def test_a_program_that_asks_nothing(nodes):
    with pytest.raises(ProgramError, match="expected a last function that gives an answer, got"):
        family(program(*nodes))


def test_true_objects():
    nodes = *two("sphere", "blue"), ("query_size", [2]), ("query_size", [5]), ("equal_size", [6, 7])
    everything, sphere, blue = [0, 1, 2], [1], [2]
    expected = [everything, sphere, sphere, everything, blue, blue, sphere, blue, [1, 2]]
    assert true_objects(program(*nodes), SCENE) == expected


VALUES = {"size": ("small", "large"), "color": ("red", "blue"), "material": ("metal", "rubber"), "shape": ("cube",)}
SCENES = st.lists(st.fixed_dictionaries({a: st.sampled_from(v) for a, v in VALUES.items()}), max_size=6).map(
    lambda things: {"objects": things}
)
DESCRIPTIONS = st.lists(st.sampled_from([(a, v) for a in VALUES for v in VALUES[a]]), max_size=3)


def described(nodes, description):
    """Append the objects that a description fits to rows; return the index of the last."""
    nodes.append(("scene",))
    for attribute, value in description:
        nodes.append((f"filter_{attribute}", [len(nodes) - 1], [value]))
    return len(nodes) - 1


def answer(scene, first, second, *functions):
    """Return the answer about two descriptions, the functions of both before those of one."""
    nodes = []
    inputs = [described(nodes, first), described(nodes, second)]
    *each, last = functions
    for function in each:
        nodes += [(function, [i]) for i in inputs]
        inputs = [len(nodes) - 2, len(nodes) - 1]
    nodes.append((last, inputs))
    if last in ("union", "intersect"):
        nodes.append(("count", [len(nodes) - 1]))
    return execute(program(*nodes), scene)


SAME_ON_EVERY_RUN = settings(derandomize=True, deadline=None, max_examples=60)


@SAME_ON_EVERY_RUN
@given(SCENES, DESCRIPTIONS, DESCRIPTIONS)
def test_sets_are_counted_as_sets(scene, first, second):
    def fitting(description):
        return {i for i, thing in enumerate(scene["objects"]) if all(thing[a] == v for a, v in description)}

    a, b = fitting(first), fitting(second)
    assert answer(scene, first, second, "union") == str(len(a | b))
    assert answer(scene, first, second, "intersect") == str(len(a & b))
    for function, truth in (
        ("less_than", len(a) < len(b)),
        ("equal_integer", len(a) == len(b)),
        ("greater_than", len(a) > len(b)),
    ):
        assert answer(scene, first, second, "count", function) == ("yes" if truth else "no")


@SAME_ON_EVERY_RUN
@given(
    SCENES,
    st.lists(
        st.fixed_dictionaries(
            {"function": st.sampled_from([*FUNCTIONS, "smell", None, []])},
            optional={
                "inputs": st.lists(st.one_of(st.integers(-1, 3), st.just("0")), max_size=2),
                "value_inputs": st.lists(st.sampled_from(["red", "left", 1]), max_size=1),
            },
        ),
        max_size=5,
    ),
)
def test_anything_else_is_refused_in_a_line(scene, nodes):
    """Whatever a file holds, a program has results or is refused."""
    with suppress(ProgramError, Degenerate):
        assert len(trace(nodes, scene)) == len(nodes) > 0
