"""The generated files: their format, their answers, their balance, and that a seed decides them."""

import json
import math
import random
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor

import pytest

from iprm.vqa.data.clevr import Clevr
from iprm.vqa.data.generate import files
from iprm.vqa.data.generate.files import cached, generated, main, make_questions, make_scenes, write
from iprm.vqa.data.generate.questions import FORMS, menu
from iprm.vqa.data.generate.scenes import MOST_OBJECTS, VALUES, random_scene
from iprm.vqa.data.generate.splits import LONGEST, Settings
from iprm.vqa.data.programs import FAMILIES, Degenerate, asked, execute, family, trace, true_objects

SETTINGS = Settings(train_scenes=150, val_scenes=5, max_objects=6, max_length=LONGEST)
TINY = Settings(train_scenes=2, val_scenes=1, questions_per_scene=3)


@pytest.fixture(scope="module")
def scenes():
    return make_scenes(SETTINGS, "train")


@pytest.fixture(scope="module")
def questions(scenes):
    return make_questions(SETTINGS, "train", scenes)


@pytest.fixture(scope="module")
def many():
    """Questions enough to see what prevails."""
    settings = Settings(train_scenes=400, max_objects=6, max_length=12)
    return make_questions(settings, "train", make_scenes(settings, "train"))


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
        assert set(question) - {"step_objects"} == {
            "question_index", "question_family_index", "image_index", "image_filename", "split", "question",
            "answer", "program",
        }  # fmt: skip
        assert ("step_objects" in question) == (split != "train")
        assert all(set(node) == {"function", "inputs", "value_inputs"} for node in question["program"])
        assert question["split"] == scene["split"] == split
        assert question["image_filename"] == f"CLEVR_{split}_{question['image_index']:06d}.png"


def test_a_seed_decides_everything(scenes, questions):
    few = scenes[:20]
    assert make_scenes(SETTINGS, "train") == scenes
    assert make_questions(SETTINGS, "train", few) == [q for q in questions if q["image_index"] < len(few)]
    other = Settings(seed=1, train_scenes=150, max_objects=6, max_length=LONGEST)
    assert make_scenes(other, "train") != scenes
    assert make_questions(other, "train", few) != make_questions(SETTINGS, "train", few)


def test_splits_share_no_scene(scenes):
    def content(scene):
        return json.dumps(scene["objects"])

    assert not {content(s) for s in scenes} & {content(s) for s in make_scenes(SETTINGS, "val")}


def test_every_program_gives_its_answer(scenes, questions):
    assert len(questions) == SETTINGS.questions_per_scene * len(scenes)
    for question in questions:
        assert execute(question["program"], scenes[question["image_index"]]) == question["answer"]


def test_the_objects_of_every_step():
    scenes = make_scenes(SETTINGS, "val")
    for question in make_questions(SETTINGS, "val", scenes):
        scene, steps = scenes[question["image_index"]], question["step_objects"]
        assert steps == true_objects(question["program"], scene)
        for result, step in zip(trace(question["program"], scene), steps, strict=True):
            if isinstance(result, list):
                assert step == result


def does_no_work(program, position, scene):
    """Return whether a question still asks about the same objects where one of its relations is the whole scene."""
    without = list(program)
    without[position] = {"function": "scene", "inputs": [], "value_inputs": []}
    about = program[-1]["inputs"]
    try:
        changed = trace(without, scene)
    except Degenerate:
        return False
    results = trace(program, scene)
    return [changed[i] for i in about] == [results[i] for i in about]


def test_every_relation_matters(scenes, questions):
    checked = 0
    for question in questions:
        program, scene = question["program"], scenes[question["image_index"]]
        for position, node in enumerate(program):
            if node["function"] == "relate" or node["function"].startswith("same_"):
                assert not does_no_work(program, position, scene), question["question"]
                checked += 1
    assert checked > len(questions) / 2


def test_questions_of_a_scene_differ(questions):
    asked_of = Counter((question["image_index"], question["question"]) for question in questions)
    assert set(asked_of.values()) == {1}
    assert [question["question_index"] for question in questions] == list(range(len(questions)))


def test_every_family_form_and_length_is_there(questions):
    assert {family(question["program"]) for question in questions} == set(FAMILIES)
    assert {question["question_family_index"] for question in questions} == set(range(len(FORMS)))
    assert {len(question["program"]) for question in questions} == set(range(2, LONGEST + 1))


def test_chains_of_three_relations_and_of_both_kinds(questions):
    chains = set()
    for question in questions:
        names = [node["function"].split("_")[0] for node in question["program"]]
        chains.add((*(name for name in names if name in ("relate", "same", "union", "intersect", "equal")),))
    assert {("relate",) * 3, ("relate", "same"), ("same", "relate"), ("relate",) * 3 + ("equal",)} <= chains
    assert {("relate",) * 3 + ("union",), ("relate",) * 3 + ("intersect",)} <= chains


@pytest.mark.parametrize(("least", "most"), [(2, 4), (7, 9), (20, 20)])
def test_programs_are_as_long_as_asked(least, most):
    settings = Settings(train_scenes=20, questions_per_scene=4, max_objects=6, min_length=least, max_length=most)
    made = make_questions(settings, "train", make_scenes(settings, "train"))
    assert {len(question["program"]) for question in made} == set(range(least, most + 1))


def test_layouts_are_as_long_as_they_say():
    for length in (2, 9, LONGEST):
        for layout in menu(length, length).layouts:
            form = FORMS[layout.form]
            relations = sum(1 + 2 * len(chain) for chain in layout.chains)
            assert relations + form.ending + sum(layout.least) + layout.extra == length


def test_no_answer_prevails(many):
    given = defaultdict(Counter)
    for question in many:
        given[family(question["program"]), asked(question["program"])][question["answer"]] += 1
    assert {name for name, _ in given} == set(FAMILIES)
    for (_, kind), counts in given.items():
        shares = [count / counts.total() for count in counts.values()]
        if kind == "count":
            assert max(shares) <= 0.35
        elif counts.total() >= 50:
            answers = VALUES[kind.removeprefix("query_")] if kind.startswith("query_") else ("yes", "no")
            assert set(counts) == set(answers)
            assert max(shares) <= (0.55 if len(answers) == 2 else 1.25 / len(answers)), (kind, counts)


def test_words_give_little_away(many):
    """The best guess for the attributes that a yes/no question names, of all others that name the same, is a toss."""
    given = defaultdict(Counter)
    for question in many:
        if question["answer"] in ("yes", "no"):
            named = tuple(node["function"] for node in question["program"] if node["function"] != "scene")
            given[named][question["answer"]] += 1
    frequent = [counts for counts in given.values() if counts.total() >= 20]
    assert len(frequent) >= 3
    assert sum(max(c.values()) for c in frequent) <= 0.6 * sum(c.total() for c in frequent)


def test_no_set_is_compared_with_a_part_of_it(questions):
    """Red cubes are never more than cubes, whatever the scene."""
    for question in questions:
        program = question["program"]
        if family(program) == "compare integer" and all(node["function"] != "relate" for node in program):
            sides, side = [], None
            for node in program:
                if node["function"] == "scene":
                    side = set()
                    sides.append(side)
                side.update(node["value_inputs"])
            first, second = sides
            assert not first <= second, question["question"]
            assert not second <= first, question["question"]


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


@pytest.mark.parametrize("direction", ["left", "right", "front", "behind"])
def test_relationships_follow_the_viewer(scenes, direction):
    scene = scenes[0]
    axis = scene["directions"][direction]
    assert math.isclose(math.hypot(*axis), 1.0)
    along = [sum(a * b for a, b in zip(axis, thing["3d_coords"], strict=True)) for thing in scene["objects"]]
    for i, others in enumerate(scene["relationships"][direction]):
        assert others == [j for j in range(len(along)) if along[j] > along[i]]


def test_pictures_follow_the_viewer(scenes):
    scene = scenes[0]
    right = [len(left) for left in scene["relationships"]["left"]]
    columns = [thing["pixel_coords"][0] for thing in scene["objects"]]
    assert columns[right.index(0)] < columns[right.index(len(right) - 1)]


def test_ten_objects_fit():
    scene = random_scene(random.Random(0), "train", 0, MOST_OBJECTS, MOST_OBJECTS)
    assert len(scene["objects"]) == MOST_OBJECTS
    places = [thing["3d_coords"] for thing in scene["objects"]]
    assert min(math.dist(a, b) for i, a in enumerate(places) for b in places[:i]) > 0.5


def test_files_are_made_once(tmp_path):
    calls = []
    folder = cached(tmp_path, TINY, lambda: calls.append(1))
    assert len(calls) == 3
    assert cached(tmp_path, TINY, lambda: calls.append(1)) == folder
    assert len(calls) == 3
    (folder / "settings.json").write_text("{")
    cached(tmp_path, TINY, lambda: calls.append(1))
    assert len(calls) == 6
    assert cached(tmp_path, Settings(seed=1, train_scenes=2, val_scenes=1, questions_per_scene=3)) != folder


def test_files_are_whole_or_not_there(tmp_path, monkeypatch):
    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "true_objects", fail)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, TINY)
    assert {path.name for path in tmp_path.rglob("*.*")} == {
        "CLEVR_train_scenes.json", "CLEVR_train_questions.json", "CLEVR_val_scenes.json"
    }  # fmt: skip


def test_of_two_at_once_one_writes(tmp_path, monkeypatch):
    written = []

    def slowly(folder, *rest):
        written.append(folder)
        time.sleep(0.1)  # so that the other begins meanwhile
        write(folder, *rest)

    monkeypatch.setattr(files, "write", slowly)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(cached, [tmp_path] * 2, [TINY] * 2)
    assert written == [first]
    assert first == second
    assert len(Clevr(second).questions("train")) == 6


def test_a_source_made_on_first_use(tmp_path):
    source = generated(tmp_path / "new", train_scenes=2, val_scenes=1, held_out_pairs=True)
    assert isinstance(source, Clevr)
    question, *_ = source.questions("val_pairs", whole=True)
    (scene,) = source.scenes("val_pairs", [question.scene], whole=True)
    assert execute(question.program, scene.record) == question.answer
    with pytest.raises(ValueError, match=r"generated: expected settings among seed, .*, got 'scenes'"):
        generated(tmp_path, scenes=3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"train_scenes": 0}, "train_scenes: expected at least 1, got 0"),
        ({"min_objects": 5}, "expected 2 <= min_objects <= max_objects <= 10, got 5, 4"),
        ({"max_objects": 11}, "got 3, 11"),
        ({"min_length": 1}, "expected 2 <= min_length <= max_length <= 20, got 1, 6"),
        ({"max_length": 21}, "got 2, 21"),
        ({"train_scenes": "6"}, "train_scenes: expected int, got '6'"),
        ({"held_out_pairs": 1}, "held_out_pairs: expected bool, got 1"),
    ],
)
def test_wrong_settings(wrong, message):
    with pytest.raises(ValueError, match=message):
        Settings(**wrong)


def test_command(tmp_path, capsys):
    assert main([str(tmp_path), "--train-scenes", "2", "--val-scenes", "1", "--no-held-out-splits"]) == 0
    assert str(tmp_path) in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--train-scenes", "0"])
    assert "train_scenes: expected at least 1, got 0" in capsys.readouterr().err
