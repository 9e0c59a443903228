"""CLEVR's files: the layouts that are accepted, the forms that programs and answers come in, and what is refused."""

import json

import pytest
import torch

from iprm.vqa.data.examples import DataError
from iprm.vqa.data.generate.files import make_scenes
from iprm.vqa.data.programs import execute
from iprm.vqa.data.sources import source
from iprm.vqa.data.tensors import load as load_data
from iprm.vqa.training.priors import priors


def load(folder, *args, **options):
    return load_data(source("clevr", folder), *args, **options)


@pytest.fixture(scope="module")
def data(folder):
    return load(folder)


def rewrite(source, target, name, change, rename=str):
    """Copy the files to `target`, side by side, one of them changed."""
    for path in source.rglob("CLEVR_*.json"):
        content = json.loads(path.read_text())
        if path.name == name:
            change(content)
        (target / rename(path.name)).write_text(json.dumps(content))


def test_places_are_the_viewers(data, settings):
    scene = make_scenes(settings, "train")[0]
    right = data.train.scenes[0].numbers[:, 0]
    for i, lefts in enumerate(scene["relationships"]["left"]):
        assert all(right[j] < right[i] for j in lefts)


def test_flat_layout(folder, tmp_path, data):
    rewrite(folder, tmp_path, "", None)
    flat = load(tmp_path)
    assert torch.equal(flat.train.words, data.train.words)
    assert torch.equal(flat.val.batch(torch.arange(9)).numbers, data.val.batch(torch.arange(9)).numbers)


def test_splits_of_other_names(folder, tmp_path, data):
    """CLEVR-CoGenT."""
    rewrite(folder, tmp_path, "", None, lambda name: name.replace("train", "trainA").replace("val", "valB"))
    cogent = load(tmp_path, splits=("trainA", "valB"))
    assert torch.equal(cogent.train.answers, data.train.answers)
    assert torch.equal(cogent.val.answers, data.val.answers)


def as_generated(questions):
    """Write questions as clevr-dataset-gen does."""
    values = {"yes": True, "no": False}
    for question in questions:
        answer = question["answer"]
        question["answer"] = int(answer) if answer.isdecimal() else values.get(answer, answer)
        for node in question["program"]:
            node["type"] = node.pop("function")
            node["side_inputs"] = node.pop("value_inputs")
            if not node["side_inputs"]:
                del node["side_inputs"]


def test_files_of_the_public_generator(folder, tmp_path):
    rewrite(
        folder,
        tmp_path,
        "CLEVR_train_questions.json",
        lambda content: as_generated(content["questions"]),
        lambda name: name.replace("_train", "").replace("_val", "_other"),
    )
    published, generated = source("clevr", folder), source("clevr", tmp_path)
    expected = published.questions("train", whole=True)
    questions = generated.questions("train", whole=True)
    for question, scene in zip(questions, generated.scenes("train", [q.scene for q in questions], True), strict=True):
        assert execute(question.program, scene.record) == question.answer
    assert [(q.text, q.answer, q.family, q.kind) for q in questions] == [
        (q.text, q.answer, q.family, q.kind) for q in expected
    ]
    with pytest.raises(DataError, match=r"CLEVR_questions.json: expected questions of the split 'val', found none"):
        generated.questions("val")


def test_true_objects(folder):
    clevr = source("clevr", folder)
    question = clevr.questions("val", 1, whole=True)[0]
    scene = clevr.scenes("val", [question.scene], whole=True)[0]
    steps = clevr.true_objects(question, scene)
    assert len(steps) == len(question.program)
    assert steps[0] == list(range(len(scene.labels)))
    assert clevr.true_objects(clevr.questions("val", 1)[0], scene) is None
    scene.record["objects"].clear()
    with pytest.raises(DataError, match="expected a program that runs in its scene"):
        clevr.true_objects(question, scene)


def test_questions_without_programs(folder, tmp_path):
    def change(content):
        del content["questions"][0]["program"]

    rewrite(folder, tmp_path, "CLEVR_train_questions.json", change)
    first, second = source("clevr", tmp_path).questions("train", 2, whole=True)
    assert (first.family, first.kind, first.program) == ("all", "", None)
    assert second.program is not None


def test_clevr_humans(folder, tmp_path, settings):
    for split, texts in (("train", ["Is it shiny?", "Are any two alike?"]), ("val", ["Is it shiny?"])):
        asked = [
            {"question": text, "answer": "yes", "image_index": 3 - i, "image_filename": "x.png", "split": split}
            for i, text in enumerate(texts)
        ]
        (tmp_path / f"CLEVR-Humans-{split}.json").write_text(json.dumps({"info": {}, "questions": asked}))
    data = load_data(source("clevr_humans", tmp_path, scenes_folder=str(folder)))
    assert data.train.families == ["human"]
    assert len(data.train.scenes[0].labels) == len(make_scenes(settings, "train")[3]["objects"])
    assert data.train.true_tokens(0) is None
    assert priors(data.train, data.val)["kind"] == {"overall": 1, "human": 1}
    with pytest.raises(DataError, match=r"CLEVR-Humans-test.json or .*questions/CLEVR-Humans-test.json"):
        source("clevr_humans", tmp_path).questions("test")


@pytest.mark.parametrize("key", ["answer", "question", "image_index"])
def test_question_without_a_key(folder, tmp_path, key):
    rewrite(folder, tmp_path, "CLEVR_train_questions.json", lambda content: content["questions"][1].pop(key))
    with pytest.raises(DataError, match=rf"CLEVR_train_questions.json: question 1: expected the key '{key}'"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("question", 3, "question: expected text, got 3"),
        ("answer", ["yes"], r"answer: expected text, an integer or a truth value, got \['yes'\]"),
        ("image_index", [0], r"image_index: expected an integer, got \[0\]"),
        ("program", "scene", "program: expected an array, got 'scene'"),
        ("program", [], "program: .* at least one node"),
        ("program", ["scene"], "program: 0: expected an object, got 'scene'"),
        ("program", [{"function": "smell"}], "program.*: unknown .*'smell'"),
        ("program", [{"function": ["scene"]}], "program node 0: expected a function and arrays"),
        ("program", [{"function": "scene", "inputs": 3}], "program node 0: expected a function and arrays"),
        ("program", [{"function": "scene", "value_inputs": [3]}], "program node 0: expected a function and arrays"),
    ],
)
def test_wrong_questions(folder, tmp_path, key, value, message):
    def change(content):
        content["questions"][2][key] = value

    rewrite(folder, tmp_path, "CLEVR_val_questions.json", change)
    with pytest.raises(DataError, match=rf"CLEVR_val_questions.json: question 2: {message}"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda scene: scene.pop("directions"), "scene 0: expected the key 'directions'"),
        (
            lambda scene: scene["directions"].update(right=[1, 2]),
            "scene 0: directions: right: expected 3 finite numbers",
        ),
        (lambda scene: scene["objects"][1].pop("3d_coords"), "scene 0: object 1: expected the key '3d_coords'"),
        (lambda scene: scene["objects"][1].update(color=3), "scene 0: object 1: color: expected text, got 3"),
        (lambda scene: scene["objects"][0]["3d_coords"].append(float("nan")), "3d_coords: expected 3 finite numbers"),
        (lambda scene: scene["objects"].clear(), "scene 0: objects: expected at least one"),
        (lambda scene: scene.update(image_index=99), "expected the scene 0, which a question asks about; found none"),
    ],
)
def test_wrong_scenes(folder, tmp_path, change, message):
    rewrite(folder, tmp_path, "CLEVR_val_scenes.json", lambda content: change(content["scenes"][0]))
    with pytest.raises(DataError, match=rf"CLEVR_val_scenes.json: .*{message}"):
        load(tmp_path)


def test_no_questions(tmp_path):
    (tmp_path / "CLEVR_train_questions.json").write_text('{"questions": []}')
    with pytest.raises(DataError, match=r"CLEVR_train_questions.json: expected questions .*, found none"):
        load(tmp_path)


def test_missing_files(tmp_path):
    with pytest.raises(DataError, match="expected a folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"expected .*questions/CLEVR_train_questions.json or"):
        load(tmp_path)


def test_sources_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"source: expected one of clevr, .*, got 'cifar'"):
        source("cifar", tmp_path)
    with pytest.raises(ValueError, match="source star: got an unexpected keyword argument 'frame'"):
        source("star", tmp_path, frame=3)
    with pytest.raises(ValueError, match="frames: expected an integer of at least 1, got 0"):
        source("clevrer", tmp_path, frames=0)


def test_a_generated_source_makes_its_folder(tmp_path):
    small = {"train_scenes": 2, "val_scenes": 2, "questions_per_scene": 2}
    data = load_data(source("generated", tmp_path / "made", **small))
    assert len(data.train) == len(data.val) == 4


def test_priors_grow_with_what_they_know(data):
    found = priors(data.train, data.train)
    overall = [found[name]["overall"] for name in ("answer", "family", "kind")]
    assert overall == sorted(overall)
    assert 0 < overall[0] <= overall[2] < 1
    assert set(found["answer"]) == {"overall", *data.train.families}
