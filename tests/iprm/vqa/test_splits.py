"""The splits that are unlike training: each differs as its name says."""

import json
from collections import Counter, defaultdict
from dataclasses import replace

import pytest

from iprm.vqa.data.generate.files import make_questions, make_scenes, write
from iprm.vqa.data.generate.scenes import COLORS, HELD_OUT, SHAPES, VALUES
from iprm.vqa.data.generate.splits import EXPERIMENTS, Settings, splits
from iprm.vqa.data.programs import FAMILIES, asked, execute, family, true_objects

SETTINGS = replace(EXPERIMENTS, train_scenes=80, val_scenes=40, held_out_pairs=True)
ALL = {"train", "val", "val_longer", "val_objects", "val_pairs", "val_contradictory"}


@pytest.fixture(scope="module")
def made():
    """Scenes and questions of every split."""
    found = {}
    for split in splits(SETTINGS):
        scenes = make_scenes(SETTINGS, split)
        found[split] = scenes, make_questions(SETTINGS, split, scenes)
    return found


def pairs_of(scene):
    return {(thing["color"], thing["shape"]) for thing in scene["objects"]}


def named_pairs(program):
    """Return the pairs of color and shape that some noun of the question names, by its run of filters."""
    pairs, colors, shapes = set(), [], []
    for node in program:
        if node["function"] == "filter_color":
            colors += node["value_inputs"]
        elif node["function"] == "filter_shape":
            shapes += node["value_inputs"]
        elif not node["function"].startswith("filter_"):
            colors, shapes = [], []
        pairs |= {(color, shape) for color in colors for shape in shapes}
    return pairs


def test_which_splits_there_are():
    assert set(splits(SETTINGS)) == ALL
    assert set(splits(Settings())) == {"train", "val"}
    assert set(splits(EXPERIMENTS)) == ALL - {"val_pairs"}
    everything = Settings(max_objects=10, max_length=20, held_out_splits=True)
    assert set(splits(everything)) == {"train", "val", "val_contradictory"}


def test_every_split_is_whole(made):
    for split, (scenes, questions) in made.items():
        assert len(scenes) == (80 if split == "train" else 40)
        assert len(questions) == SETTINGS.questions_per_scene * len(scenes)
        for question in questions:
            scene = scenes[question["image_index"]]
            assert scene["split"] == question["split"] == split
            assert execute(question["program"], scene) == question["answer"]
            if split != "train":
                assert question["step_objects"] == true_objects(question["program"], scene)


def test_every_split_has_its_files(tmp_path):
    write(tmp_path, Settings(train_scenes=1, val_scenes=1, held_out_splits=True, held_out_pairs=True))
    for split in ALL:
        for kind in ("scenes", "questions"):
            content = json.loads((tmp_path / kind / f"CLEVR_{split}_{kind}.json").read_text())
            assert content["info"]["split"] == split
            assert content[kind]


def test_programs_are_longer_in_one_split_alone(made):
    for split, (_, questions) in made.items():
        lengths = {len(question["program"]) for question in questions}
        if split == "val_longer":
            assert lengths == set(range(13, 21))
            assert {family(q["program"]) for q in questions} == set(FAMILIES) - {"exist", "count", "query attribute"}
        else:
            assert lengths <= set(range(2, 13))


def test_objects_are_more_in_one_split_alone(made):
    for split, (scenes, _) in made.items():
        counts = {len(scene["objects"]) for scene in scenes}
        assert counts == (set(range(7, 11)) if split == "val_objects" else set(range(3, 7)))


def test_each_color_and_shape_is_kept():
    kept = {(color, shape) for color in COLORS for shape in SHAPES} - HELD_OUT
    assert Counter(color for color, _ in kept) == dict.fromkeys(COLORS, 2)
    assert {shape for _, shape in kept} == set(SHAPES)


def test_held_out_pairs_are_in_one_split_alone(made):
    for split, (scenes, questions) in made.items():
        if split == "val_pairs":
            assert all(pairs_of(scene) & HELD_OUT for scene in scenes)
            assert any(pairs_of(scene) - HELD_OUT for scene in scenes)
        else:
            assert not any(pairs_of(scene) & HELD_OUT for scene in scenes)
            assert not any(named_pairs(question["program"]) & HELD_OUT for question in questions)
    colors, shapes = zip(*set().union(*map(pairs_of, made["train"][0])), strict=True)
    assert set(colors) == set(COLORS)
    assert set(shapes) == set(SHAPES)


def test_every_question_is_about_a_held_out_pair(made):
    scenes, questions = made["val_pairs"]
    for question in questions:
        things = scenes[question["image_index"]]["objects"]
        last = question["step_objects"][-1] if asked(question["program"]).startswith(("query_", "equal_")) else []
        told = {(things[i]["color"], things[i]["shape"]) for i in last}
        assert (named_pairs(question["program"]) | told) & HELD_OUT, question["question"]
    assert {family(question["program"]) for question in questions} == set(FAMILIES)


def test_pairs_are_as_they_fall_where_none_is_held_out():
    scenes = make_scenes(Settings(train_scenes=40), "train")
    assert set().union(*map(pairs_of, scenes)) >= HELD_OUT


def contradicts(program):
    values = defaultdict(set)
    for node in program:
        values[node["function"]].update(node["value_inputs"])
    return any(len(values[f"filter_{attribute}"]) > 1 for attribute in VALUES)


def test_contradictions_contradict_and_their_twins_do_not(made):
    _, questions = made["val_contradictory"]
    given = defaultdict(Counter)
    for question in questions:
        kind, wrong = asked(question["program"]), contradicts(question["program"])
        given[kind][wrong] += 1
        assert (question["answer"] in ("no", "0")) == wrong, question["question"]
        assert " that are " in question["question"]
    assert set(given) == {"exist", "count"}
    for counts in given.values():
        assert 0.4 <= counts[True] / counts.total() <= 0.6


def test_only_one_split_contradicts_itself(made):
    for split in ALL - {"val_contradictory"}:
        for question in made[split][1]:
            if family(question["program"]) in ("exist", "count"):
                assert not contradicts(question["program"]), question["question"]


def test_training_knows_the_words_of_contradictions(made):
    def words(split):
        return {word for question in made[split][1] for word in question["question"].strip("?").split()}

    assert words("val_contradictory") <= words("train")
