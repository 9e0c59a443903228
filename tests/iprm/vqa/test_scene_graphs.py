"""STAR's situations and AGQA's scene graphs as they are published."""

import json
import os
import pickle

import numpy as np
import pytest
import torch

from iprm import train as command
from iprm.vqa.data.examples import DataError
from iprm.vqa.data.scene_graphs import unpickled
from iprm.vqa.data.sources import source
from iprm.vqa.data.tensors import PAD, load
from iprm.vqa.training.run import accuracy, load_trained, open_split


def situation(*labels, pairs=(), relations=()):
    boxes = [[48.0 * i, 96.0, 240.0, 480.0] if i else None for i in range(len(labels))]
    situation = {"rel_pairs": list(pairs), "rel_labels": list(relations), "actions": ["a082"]}
    return situation | {"bbox": boxes, "bbox_labels": list(labels)}


STAR = {
    "question_id": "Interaction_T1_13",
    "question": "Which object was drunk from by the person?",
    "video_id": "6H78U",
    "start": 11.1,
    "end": 19.6,
    "answer": "The cup/glass/bottle.",
    "question_program": [
        {"function": "Situations", "value_input": []},
        {"function": "Query_Objs", "value_input": []},
    ],
    "choices": [
        {"choice_id": 0, "choice": "The book.", "choice_program": []},
        {"choice_id": 1, "choice": "The cup/glass/bottle.", "choice_program": []},
    ],
    "situations": {
        "000206": situation("o000", "o010", pairs=[["o000", "o010"]] * 2, relations=["r002", "r009"]),
        "000300": situation("o000"),
        "000406": situation("o000", "o010", pairs=[["o000", "o021"]], relations=["r015"]),
    },
}


def write_star(folder, *records):
    for split in ("train", "val"):
        (folder / f"STAR_{split}.json").write_text(json.dumps(records))
    return folder


def test_star_questions(tmp_path):
    wrong, right = source("star", write_star(tmp_path, STAR)).questions("train")
    assert (wrong.answer, right.answer) == ("wrong", "correct")
    assert right.text == "Which object was drunk from by the person? ; The cup/glass/bottle."
    assert (right.family, right.kind) == ("Interaction", "Query_Objs")
    assert right.options == wrong.options == right.scene
    assert right.one_correct
    assert len(source("star", tmp_path).questions("train", 1)) == 2  # choices stay together


def test_star_tokens(tmp_path):
    classes = write_star(tmp_path, STAR) / "STAR_classes"
    classes.mkdir()
    (classes / "object_classes.txt").write_text("o000 person\no010 cup/glass/bottle\no021 sofa/couch")
    (classes / "relationship_classes.txt").write_text("r002 in_front_of\nr009 holding\nr015 sitting_on\n")
    (scene,) = source("star", tmp_path, frames=2).scenes("train", [STAR["question_id"]])
    assert scene.labels == [
        ["person", "", "", "", ""],
        ["cup/glass/bottle", "in_front_of", "holding", "", ""],
        ["person", "", "", "", ""],
        ["cup/glass/bottle", "", "", "", ""],
        ["sofa/couch", "sitting_on", "", "", ""],
    ]
    assert scene.objects == [0, 1, 0, 1, 2]
    np.testing.assert_allclose(scene.numbers[1], [0.1, 0.2, 0.5, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(scene.numbers[4], [0, 0, 0, 0, 1], rtol=1e-6)


def test_star_as_tensors(tmp_path):
    """Without class files, codes are the labels; situations of different sizes are padded."""
    shorter = STAR | {"question_id": "Sequence_T2_1", "situations": {"000300": situation("o000")}}
    data = load(source("star", write_star(tmp_path, STAR, shorter)))
    assert "o010" in data.vocabularies.labels["class"].texts
    batch = data.train.batch(torch.tensor([0, 2]))
    assert batch.visual_mask.sum(1).tolist() == [6, 1]
    assert (batch.labels[1, 1:] == PAD).all()
    assert data.train.families == ["Interaction", "Sequence"]
    assert data.train.true_tokens(0) is None


def test_star_is_trained_and_judged_by_question(tmp_path, capsys):
    tiny = ["model.iprm.dim=8", "model.iprm.num_ops=2", "model.iprm.num_steps=2", "training.batch_size=2"]
    steps = ["training.steps=3", "training.device=cpu", f"folder={tmp_path / 'out'}"]
    data = ["data.source=star", f"data.folder={write_star(tmp_path, STAR)}", "data.val_questions=1"]
    assert command.main([*tiny, *steps, *data]) == 0
    assert "Interaction by question" in capsys.readouterr().out
    trained = load_trained(tmp_path / "out")
    assert set(trained.result["accuracy"]) == {
        f"{name}{by}" for name in ("overall", "Interaction") for by in ("", " by question")
    }
    split = open_split(trained.config, "val", trained.vocabularies)
    assert accuracy(trained, split) == trained.result["accuracy"]


def test_a_situation_that_shows_nothing_is_one_empty_token(tmp_path):
    empty = STAR | {"situations": {"000300": situation()}}
    batch = load(source("star", write_star(tmp_path, empty))).train.batch(torch.tensor([0]))
    assert batch.labels.tolist() == [[[PAD] * 5]]
    assert batch.numbers.tolist() == [[[0] * 5]]


def frame(**changes):
    return {"situations": {"000300": situation("o000", "o010") | changes}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"situations": {}}, "expected at least one frame, got none"),
        ({"situations": {"first": {}}}, "situations: expected the numbers of frames as keys"),
        ({"situations": {"1": {}}}, "situations: 1: expected the key 'bbox_labels'"),
        (frame(bbox=[None]), "situations: 000300: bbox: expected one for each of bbox_labels, got 1"),
        (frame(bbox=[None, [1, 2]]), r"situations: 000300: bbox: expected 4 finite numbers, got \[1, 2\]"),
        (frame(rel_pairs=[["o000"]], rel_labels=["r009"]), "situations: 000300: rel_pairs: expected a pair of codes"),
        (frame(rel_pairs=[["o000", "o010"]]), "situations: 000300: rel_pairs: expected a pair of codes for each"),
    ],
)
def test_wrong_situations(tmp_path, change, message):
    reader = source("star", write_star(tmp_path, STAR | change))
    with pytest.raises(DataError, match=rf"STAR_val.json: question 0: {message}"):
        reader.scenes("val", [STAR["question_id"]])


def test_wrong_star_files(tmp_path):
    reader = source("star", write_star(tmp_path, STAR | {"answer": "The cat."}))
    with pytest.raises(DataError, match=r"STAR_train.json: question 0: answer: expected one of the choices .*The cat"):
        reader.questions("train")
    with pytest.raises(DataError, match="expected the scene 'Feasibility_1', which a question asks about; found none"):
        reader.scenes("train", ["Feasibility_1"])
    (tmp_path / "object_classes.txt").write_text("o000\n")
    with pytest.raises(DataError, match=r"object_classes.txt: expected lines of a code and a name"):
        reader.scenes("train", [STAR["question_id"]])


AGQA = {
    "question": "Did they hold a dish?",
    "answer": "Yes",
    "video_id": "46GP8",
    "global": ["exists"],
    "local": "v-o-r",
    "ans_type": "binary",
    "steps": 1,
    "semantic": "relation",
    "structural": "verify",
    "novel_comp": 0,
    "more_steps": 0,
    "program": "Exists(dish, Iterate(video, Filter(frame, [relations, holding, objects])))",
    "sg_grounding": {},
}


def vertex(frame, kind, code):
    return {"id": f"{code}/{frame}", "type": kind, "class": code, "frame": frame, "next": None}


def graph():
    """Return two frames of a dish that is held, the other invisible in the second, linked as the published ones are."""
    video = {}
    for number, seconds in (("000030", 2.5), ("000012", 1.0)):
        relations = {"attention": ["r1"], "spatial": ["r6"], "contact": ["r15"], "verb": ["v001"]}
        vertices = {kind: [vertex(number, kind, code) for code in codes] for kind, codes in relations.items()}
        dish = vertex(number, "object", "o12") | {"bbox": (48.0, 96.0, 144.0, 192.0), "visible": True} | vertices
        door = vertex(number, "object", "o13") | {"bbox": None, "visible": number == "000012"}
        door |= {kind: [] for kind in relations}
        video[dish["id"]] = dish
        video[number] = {
            "id": number,
            "secs": seconds,
            "type": "frame",
            "metadata": "train",
            "objects": {"names": ["o12", "o13"], "vertices": [dish, door]},
            "actions": ["c118/1"],
        }
    video["c118/1"] = {"id": "c118/1", "type": "action", "phrase": "holding a dish", "all_f": ["000012", "000030"]}
    return video


def linked(video):
    """Return a graph whose objects point at one another in time, in a circle, as pickles can hold them."""
    first, last = video["o12/000012"], video["o12/000030"]
    first["next"], last["prev"] = last, first
    return video


def write_agqa(folder, graphs, dump):
    for split in ("train", "test"):
        (folder / f"{split}_balanced.txt").write_text(json.dumps({"46GP8-1": AGQA}))
        dump({"46GP8": graphs}, folder / f"AGQA_{split}_stsgs")
    (folder / "ENG.txt").write_text(json.dumps({"o12": "dish", "o13": "door", "r6": "in front of", "r15": "holding"}))
    return folder


def as_pickle(content, path):
    path.with_suffix(".pkl").write_bytes(pickle.dumps(content))


def as_json(content, path):
    path.with_suffix(".json").write_text(json.dumps(content))


@pytest.mark.parametrize("dump", [as_pickle, as_json])
def test_agqa(tmp_path, dump):
    video = linked(graph()) if dump is as_pickle else graph()
    data = load(source("agqa", write_agqa(tmp_path, video, dump)), splits=("train", "test"))
    (question,), (scene,) = data.train.questions, data.train.scenes
    assert (question.answer, question.family, question.kind) == ("Yes", "verify", "binary")
    dish = ["dish", "r1", "in front of", "holding", ""]
    assert scene.labels == [dish, ["door", "", "", "", ""], dish]
    assert scene.objects == [0, 1, 0]
    np.testing.assert_allclose(scene.numbers[2], [0.1, 0.2, 0.3, 0.4, 1], rtol=1e-6)
    assert data.val.batch(torch.tensor([0])).visual_mask.sum() == 3


class Trap:
    def __reduce__(self):
        return os.mkdir, ("sprung",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Trap()), "the class (posix|nt).mkdir"),
        (pickle.dumps({"46GP8": np.zeros(2)}), "the class numpy"),
        (pickle.dumps(graph())[:-20], "expected a pickle"),
        (b"", "expected a pickle"),
        (b"{}", "expected a pickle"),
    ],
)
def test_pickles_of_anything_else_are_refused(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"x.pkl: .*{message}"):
        unpickled(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda video: video["000012"].update(secs="one"), "000012: secs: expected a finite number, got 'one'"),
        (lambda video: video["000012"].pop("objects"), "000012: expected the key 'objects'"),
        (
            lambda video: video["000012"]["objects"].update(vertices=["o12"]),
            "000012: objects: 0: expected an object",
        ),
        (
            lambda video: video["o12/000012"].update(bbox=(1, 2)),
            r"object 0: bbox: expected 4 finite numbers, got \(1, 2\)",
        ),
        (lambda video: video["o12/000012"].update(contact=[3]), "object 0: expected relations with a class, got 3"),
        (lambda video: [video.pop(name) for name in ("000012", "000030")], "46GP8: expected at least one frame"),
    ],
)
def test_wrong_graphs(tmp_path, change, message):
    video = linked(graph())
    change(video)
    reader = source("agqa", write_agqa(tmp_path, video, as_pickle))
    with pytest.raises(DataError, match=rf"AGQA_train_stsgs.pkl: .*{message}"):
        reader.scenes("train", ["46GP8"])


def test_wrong_agqa_files(tmp_path):
    reader = source("agqa", write_agqa(tmp_path, graph(), as_json))
    (tmp_path / "train_balanced.txt").write_text("[]")
    with pytest.raises(DataError, match=r"train_balanced.txt: expected {, got \["):
        reader.questions("train")
    (tmp_path / "ENG.txt").write_text('{"o12": 3}')
    with pytest.raises(DataError, match=r"ENG.txt: words: o12: expected text, got 3"):
        reader.scenes("train", ["46GP8"])
    with pytest.raises(DataError, match=r"no questions file: expected .*val_balanced.txt or"):
        reader.questions("val")
