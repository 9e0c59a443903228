"""The generated files: their format, their answers, and that a seed decides them."""

import json
import math
import random
from collections import Counter, defaultdict

import pytest

from iprm.vqa.data.generate.files import Settings, cached, main, make_questions, make_scenes, write
from iprm.vqa.data.generate.questions import TEMPLATES
from iprm.vqa.data.generate.scenes import VALUES, along, random_scene
from iprm.vqa.data.programs import FAMILIES, asked, execute, family

SETTINGS = Settings(train_scenes=60, val_scenes=5, max_objects=6)


@pytest.fixture(scope="module")
def scenes():
    return make_scenes(SETTINGS, "train")


@pytest.fixture(scope="module")
def questions(scenes):
    return make_questions(SETTINGS, "train", scenes)


def test_keys_of_the_format(tmp_path):
    write(tmp_path, Settings(train_scenes=3, val_scenes=2))
    for split, count in (("train", 3), ("val", 2)):
        scenes = json.loads((tmp_path / "scenes" / f"CLEVR_{split}_scenes.json").read_text())
        questions = json.loads((tmp_path / "questions" / f"CLEVR_{split}_questions.json").read_text())
        assert set(scenes) == {"info", "scenes"}
        assert set(questions) == {"info", "questions"}
        assert set(scenes["info"]) >= {"date", "version", "split", "license"}
        assert len(scenes["scenes"]) == count
        scene, question = scenes["scenes"][0], questions["questions"][0]
        assert set(scene) == {
            "image_index", "image_filename", "split", "objects", "relationships", "directions"
        }  # fmt: skip
        assert set(scene["objects"][0]) == {
            "color", "shape", "size", "material", "3d_coords", "pixel_coords", "rotation"
        }  # fmt: skip
        assert set(scene["relationships"]) == {"left", "right", "front", "behind"}
        assert set(scene["directions"]) == {"left", "right", "front", "behind", "above", "below"}
        assert set(question) == {
            "question_index", "question_family_index", "image_index", "image_filename", "split", "question",
            "answer", "program",
        }  # fmt: skip
        assert all(set(node) == {"function", "inputs", "value_inputs"} for node in question["program"])
        assert question["split"] == scene["split"] == split
        assert question["image_filename"] == f"CLEVR_{split}_{question['image_index']:06d}.png"


def test_a_seed_decides_everything(scenes, questions):
    assert make_scenes(SETTINGS, "train") == scenes
    assert make_questions(SETTINGS, "train", scenes) == questions
    assert make_scenes(Settings(seed=1, train_scenes=60, max_objects=6), "train") != scenes


def test_splits_share_no_scene(scenes):
    def content(scene):
        return json.dumps(scene["objects"])

    assert not {content(s) for s in scenes} & {content(s) for s in make_scenes(SETTINGS, "val")}


def test_every_program_gives_its_answer(scenes, questions):
    for question in questions:
        assert execute(question["program"], scenes[question["image_index"]]) == question["answer"]


def test_questions_of_a_scene_differ(questions):
    asked_of = Counter((question["image_index"], question["question"]) for question in questions)
    assert set(asked_of.values()) == {1}
    assert [question["question_index"] for question in questions] == list(range(len(questions)))


def test_every_family_and_template_is_there(questions):
    assert {family(question["program"]) for question in questions} == set(FAMILIES)
    assert {question["question_family_index"] for question in questions} == set(range(len(TEMPLATES)))


def test_answers_vary(questions):
    given = defaultdict(Counter)
    for question in questions:
        given[family(question["program"]), asked(question["program"])][question["answer"]] += 1
    for kind, counts in given.items():
        if counts.total() >= 20:
            assert counts.most_common(1)[0][1] <= 0.7 * counts.total(), (kind, counts)
    query = given["query attribute", "query_color"]
    assert set(query) == set(VALUES["color"])


def test_relationships(scenes):
    for scene in scenes:
        relations, objects = scene["relationships"], scene["objects"]
        for one, other in (("left", "right"), ("front", "behind")):
            for i in range(len(objects)):
                assert i not in relations[one][i]
                for j in range(len(objects)):
                    assert (j in relations[one][i]) == (i in relations[other][j])
                    if i != j:  # objects stand clearly apart: one relation of the two holds
                        assert (j in relations[one][i]) != (j in relations[other][i])


def test_relationships_follow_the_viewer(scenes):
    scene = scenes[0]
    right = scene["directions"]["right"]
    assert math.isclose(math.hypot(*right), 1.0)
    order = sorted(scene["objects"], key=lambda thing: along(right, [0, 0, 0], thing["3d_coords"]))
    columns = [thing["pixel_coords"][0] for thing in order]
    leftmost = scene["objects"].index(order[0])
    assert scene["relationships"]["left"][leftmost] == []
    assert len(scene["relationships"]["right"][leftmost]) == len(order) - 1
    assert columns[0] < columns[-1]


def test_ten_objects_fit():
    scene = random_scene(random.Random(0), "train", 0, 10, 10)
    assert len(scene["objects"]) == 10
    places = [thing["3d_coords"] for thing in scene["objects"]]
    assert min(math.dist(a, b) for i, a in enumerate(places) for b in places[:i]) > 0.5


def test_files_are_made_once(tmp_path):
    settings, calls = Settings(train_scenes=2, val_scenes=1), []
    folder = cached(tmp_path, settings, lambda: calls.append(1))
    assert len(calls) == 3
    assert cached(tmp_path, settings, lambda: calls.append(1)) == folder
    assert len(calls) == 3
    (folder / "settings.json").write_text("{}")
    cached(tmp_path, settings, lambda: calls.append(1))
    assert len(calls) == 6


@pytest.mark.parametrize("wrong", [{"train_scenes": 0}, {"min_objects": 5}, {"max_objects": 11}])
def test_wrong_settings(wrong):
    with pytest.raises(ValueError, match="expected"):
        Settings(**wrong)


def test_command(tmp_path, capsys):
    assert main([str(tmp_path), "--train-scenes", "2", "--val-scenes", "1"]) == 0
    assert str(tmp_path) in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--train-scenes", "0"])
