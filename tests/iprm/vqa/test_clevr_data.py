"""Files to tensors: vocabularies, padding, masks, batches, and the layouts that are accepted."""

import json

import pytest
import torch

from iprm.vqa.data import records as stream
from iprm.vqa.data.examples import DataError
from iprm.vqa.data.generate.files import Settings, make_questions, make_scenes, write
from iprm.vqa.data.programs import ATTRIBUTES
from iprm.vqa.data.records import find, records
from iprm.vqa.data.sources import source
from iprm.vqa.data.tensors import PAD, UNKNOWN, Vocabulary, words
from iprm.vqa.data.tensors import load as load_data
from iprm.vqa.training.priors import priors

SETTINGS = Settings(train_scenes=12, val_scenes=4, questions_per_scene=6, min_objects=3, max_objects=5)


def load(folder, *args, **options):
    return load_data(source("clevr", folder), *args, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clevr")
    write(folder, SETTINGS)
    return folder


@pytest.fixture(scope="module")
def data(folder):
    return load(folder)


def rewrite(source, target, name, change):
    """Copy the files to `target`, side by side, one of them changed."""
    for path in source.rglob("CLEVR_*.json"):
        content = json.loads(path.read_text())
        if path.name == name:
            change(content)
        (target / path.name).write_text(json.dumps(content))


def test_round_trip(folder, data):
    scenes = make_scenes(SETTINGS, "train")
    questions = make_questions(SETTINGS, "train", scenes)
    batch = data.train.batch(torch.arange(len(questions)))
    v = data.vocabularies
    for row, question in enumerate(questions):
        kept = batch.words[row][batch.language_mask[row]]
        assert [v.words.texts[i] for i in kept] == words(question["question"])
        assert v.answers.texts[batch.answers[row]] == question["answer"]
        things = scenes[question["image_index"]]["objects"]
        assert batch.visual_mask[row].sum() == len(things)
        for code, thing in zip(batch.labels[row], things, strict=False):
            texts = [vocabulary.texts[i] for vocabulary, i in zip(v.labels.values(), code, strict=True)]
            assert texts == [thing[a] for a in ATTRIBUTES]


def test_places_are_the_viewers(data):
    scene = make_scenes(SETTINGS, "train")[0]
    right = data.train.scenes[0].numbers[:, 0]
    for i, lefts in enumerate(scene["relationships"]["left"]):
        assert all(right[j] < right[i] for j in lefts)


def test_padding_and_masks(data):
    batch = next(data.train.shuffled(16, seed=3))
    B, L = batch.words.shape
    assert B == 16
    assert batch.lengths.max() == L
    assert batch.language_mask.shape == (B, L)
    assert torch.equal(batch.language_mask.sum(1), batch.lengths)
    assert (batch.words[~batch.language_mask] == PAD).all()
    assert (batch.words[batch.language_mask] > UNKNOWN).all()
    N = batch.labels.shape[1]
    assert batch.numbers.shape == (B, N, 3)
    assert batch.visual_mask.shape == (B, N)
    assert batch.visual_mask.any(0).all()  # no column that all of the batch pads
    assert (batch.labels[~batch.visual_mask] == PAD).all()
    assert (batch.numbers[~batch.visual_mask] == 0).all()


def test_batches_follow_the_seed(data):
    def first(seed, count=10):
        batches = data.train.shuffled(16, seed)
        return torch.cat([next(batches).answers for _ in range(count)])

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))
    assert sum(len(batch.answers) for batch in data.val.in_order(7)) == len(data.val)
    with pytest.raises(ValueError, match="batch size"):
        next(data.train.shuffled(10_000, 0))


def test_dtype_and_device(data):
    batch = data.train.batch(torch.arange(4)).to("cpu", torch.float64)
    assert batch.numbers.dtype == torch.float64
    assert batch.words.dtype == torch.int64


def test_vocabulary():
    vocabulary = Vocabulary({"b", "a"})
    assert [vocabulary(text) for text in ("a", "b", "c")] == [2, 3, UNKNOWN]
    assert vocabulary.texts[vocabulary("b")] == "b"
    assert len(vocabulary) == 4


def test_words():
    assert words("Is it big; are any, too?") == ["is", "it", "big", ";", "are", "any", ",", "too"]


def test_only_so_many_questions(folder):
    data = load(folder, train_questions=5, val_questions=3)
    assert len(data.train) == 5
    assert len(data.val) == 3
    assert len(data.train.scenes) == 1  # scenes that are not asked about are not kept


def test_flat_layout(folder, tmp_path, data):
    rewrite(folder, tmp_path, "", None)
    flat = load(tmp_path)
    assert torch.equal(flat.train.words, data.train.words)
    assert torch.equal(flat.val.batch(torch.arange(9)).numbers, data.val.batch(torch.arange(9)).numbers)


def test_streams_across_chunks(folder, monkeypatch):
    path = find(folder, "questions", "train")
    monkeypatch.setattr(stream, "CHUNK", 100)
    assert list(records(path, "questions")) == json.loads(path.read_text())["questions"]


@pytest.mark.parametrize("key", ["answer", "program", "question", "image_index"])
def test_question_without_a_key(folder, tmp_path, key):
    rewrite(folder, tmp_path, "CLEVR_train_questions.json", lambda content: content["questions"][1].pop(key))
    with pytest.raises(DataError, match=rf"CLEVR_train_questions.json: question 1: expected the key '{key}'"):
        load(tmp_path)


def test_unknown_function(folder, tmp_path):
    def change(content):
        content["questions"][0]["program"][0]["function"] = "smell"

    rewrite(folder, tmp_path, "CLEVR_val_questions.json", change)
    with pytest.raises(DataError, match=r"CLEVR_val_questions.json: question 0: .*unknown function 'smell'"):
        load(tmp_path)


def test_missing_scene(folder, tmp_path):
    rewrite(folder, tmp_path, "CLEVR_val_scenes.json", lambda content: content["scenes"].pop(0))
    with pytest.raises(DataError, match=r"CLEVR_val_scenes.json: expected a scene with image_index 0"):
        load(tmp_path)


def test_object_without_coordinates(folder, tmp_path):
    def change(content):
        del content["scenes"][0]["objects"][1]["3d_coords"]

    rewrite(folder, tmp_path, "CLEVR_train_scenes.json", change)
    with pytest.raises(DataError, match="expected the key '3d_coords'"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected {, got the end of the file"),
        ("[]", "expected {"),
        ('{"info": {}}', "expected a key 'questions'"),
        ('{"questions": {}}', "expected \\["),
        ('{"questions": [1]}', "expected an array of objects, got int"),
        ('{"questions": [{"a": 1}', "expected the key 'question'"),
        ('{"questions": [{"a": ', "not JSON"),
        ('{"questions": []}', "expected questions, found none"),
    ],
)
def test_wrong_json(tmp_path, text, message):
    (tmp_path / "CLEVR_train_questions.json").write_text(text)
    with pytest.raises(DataError, match=f"CLEVR_train_questions.json: .*{message}"):
        load(tmp_path)


def test_file_that_ends_early(tmp_path):
    path = tmp_path / "cut.json"
    path.write_text('{"questions": [{"a": 1}')
    with pytest.raises(DataError, match=r"cut.json: expected , or \], got the end of the file"):
        list(records(path, "questions"))


def test_missing_files(tmp_path):
    with pytest.raises(DataError, match="expected a folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"expected .*questions/CLEVR_train_questions.json or"):
        load(tmp_path)


def test_priors_grow_with_what_they_know(data):
    found = priors(data.train, data.train)
    overall = [found[name]["overall"] for name in ("answer", "family", "kind")]
    assert overall == sorted(overall)
    assert 0 < overall[0] <= overall[2] < 1
    assert set(found["answer"]) == {"overall", *data.train.families}
