"""CLEVRER's annotations and questions as they are published, and CLEVRER-Humans' questions about them."""

import json

import numpy as np
import pytest
import torch

from iprm.vqa.data.clevrer import sampled
from iprm.vqa.data.examples import DataError
from iprm.vqa.data.sources import source
from iprm.vqa.data.tensors import PAD, load

FRAMES = 128
THINGS = [
    {"object_id": 0, "color": "purple", "material": "rubber", "shape": "sphere"},
    {"object_id": 1, "color": "cyan", "material": "metal", "shape": "cube"},
]
DESCRIPTIVE = {
    "question_id": 0,
    "question": "What is the shape of the object to collide with the purple object?",
    "question_type": "descriptive",
    "question_subtype": "query_shape",
    "program": ["events", "objects", "purple", "filter_color", "unique", "query_shape"],
    "answer": "cube",
}
EXPLANATORY = {
    "question_id": 1,
    "question": "Which of the following is responsible for the collision?",
    "question_type": "explanatory",
    "program": ["events", "filter_ancestor", "belong_to"],
    "choices": [
        {"choice_id": 0, "choice": "the presence of the cube", "program": ["objects"], "answer": "correct"},
        {"choice_id": 1, "choice": "the sphere's entering the scene", "program": ["objects"], "answer": "wrong"},
    ],
}
HUMANS = {
    "question_id": 0,
    "question": "Which of the following is responsible for the purple ball stops?",
    "question_type": "explanatory",
    "choices": [{"choice_id": 0, "choice": "the cyan cube hits it", "answer": "correct"}],
}


def annotation(number):
    """The sphere moves right at the speed 1.5 all along; the cube is out of view in the first half."""
    trajectory = [
        {
            "frame_id": frame,
            "objects": [
                {
                    "object_id": thing,
                    "location": [frame * 0.03, float(thing), 0.2],
                    "orientation": [0.0, 0.0, 0.0],
                    "velocity": [1.5, 0.0, 0.0],
                    "angular_velocity": [0.0, 0.0, 0.0],
                    "inside_camera_view": thing == 0 or frame >= FRAMES // 2,
                }
                for thing in (1, 0)
            ],
        }
        for frame in range(FRAMES)
    ]
    video = {"scene_index": number, "video_filename": f"video_{number:05d}.mp4"}
    return video | {"object_property": list(THINGS), "motion_trajectory": trajectory, "collision": []}


def write_annotation(folder, number, content):
    path = folder / f"annotation_{number // 1000:02d}000-{number // 1000 + 1:02d}000" / f"annotation_{number:05d}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def video(number, *questions):
    return {"scene_index": number, "video_filename": f"video_{number:05d}.mp4", "questions": list(questions)}


def write_questions(folder, name, *videos):
    (folder / name).write_text(json.dumps(videos))


@pytest.fixture
def folder(tmp_path):
    for split, number in (("train", 7), ("validation", 10003)):
        write_annotation(tmp_path / f"annotation_{split}", number, annotation(number))
        write_questions(tmp_path, f"{split}.json", video(number, DESCRIPTIVE, EXPLANATORY))
    return tmp_path


def test_questions(folder):
    descriptive, *choices = source("clevrer", folder).questions("val")
    assert (descriptive.answer, descriptive.family, descriptive.kind) == ("cube", "descriptive", "query_shape")
    assert descriptive.options is None
    assert [choice.answer for choice in choices] == ["correct", "wrong"]
    assert choices[0].text == "Which of the following is responsible for the collision? ; the presence of the cube"
    assert choices[0].options == choices[1].options == (10003, 1)
    assert {question.scene for question in (descriptive, *choices)} == {10003}
    assert not choices[0].one_correct


@pytest.mark.parametrize(("most", "count"), [(1, 1), (2, 3), (3, 3), (4, 4), (5, 6), (None, 6)])
def test_choices_stay_together(folder, most, count):
    write_questions(folder, "train.json", *[video(number, DESCRIPTIVE, EXPLANATORY) for number in (7, 8)])
    assert len(source("clevrer", folder).questions("train", most)) == count


def test_no_more_is_read_than_is_asked_for(folder):
    write_questions(folder, "train.json", video(7, DESCRIPTIVE, EXPLANATORY, {"question": "What?"}))
    assert len(source("clevrer", folder).questions("train", 2)) == 3


def test_tokens_are_the_objects_in_view_of_every_frame(folder):
    (scene,) = source("clevrer", folder, frames=2).scenes("train", [7], whole=True)
    assert scene.objects == (0, 1, 0)
    assert [tuple(labels) for labels in scene.labels] == [
        ("purple", "rubber", "sphere"),
        ("cyan", "metal", "cube"),
        ("purple", "rubber", "sphere"),
    ]
    end = [127 * 0.01, 0, 0.2 / 3, 0.5, 0, 0, 1]
    np.testing.assert_allclose(scene.numbers[0], [0, 0, 0.2 / 3, 0.5, 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(scene.numbers[2], end, rtol=1e-6)
    assert scene.record["scene_index"] == 7


def test_as_tensors(folder):
    data = load(source("clevrer", folder, frames=4))
    batch = data.val.batch(torch.arange(3))
    assert batch.visual_mask.sum(1).tolist() == [6, 6, 6]
    assert set(data.train.families) == {"descriptive", "explanatory"}
    assert data.train.true_tokens(0) is None


def test_questions_of_clevrer_humans(folder, tmp_path):
    asked = tmp_path / "humans"
    asked.mkdir()
    for name, number in (("train", "7"), ("valid", "10003")):
        (asked / f"{name}.json").write_text(json.dumps({number: {"questions": [HUMANS]}}))
    data = load(source("clevrer", folder, questions_folder=str(asked)))
    (question,) = data.val.questions
    assert (question.scene, question.answer, question.kind) == (10003, "correct", "")
    assert question.text.endswith("the purple ball stops? ; the cyan cube hits it")


@pytest.mark.parametrize(
    ("count", "most", "frames"),
    [(128, 1, [0]), (128, 2, [0, 127]), (9, 5, [0, 2, 4, 6, 8]), (3, 8, [0, 1, 2]), (0, 8, [])],
)
def test_frames_are_taken_evenly(count, most, frames):
    assert sampled(count, most) == frames


@pytest.mark.parametrize("count", range(1, 40))
def test_as_many_frames_as_asked_for(count):
    assert all(len(sampled(count, most)) == min(count, most) for most in range(1, 40))


def test_a_video_that_shows_nothing_is_one_empty_token(folder):
    content = annotation(7)
    for frame in content["motion_trajectory"]:
        frame["objects"].clear()
    write_annotation(folder / "annotation_train", 7, content)
    batch = load(source("clevrer", folder)).train.batch(torch.tensor([0]))
    assert batch.labels.tolist() == [[[PAD] * 3]]
    assert batch.numbers.tolist() == [[[0] * 7]]
    assert batch.visual_mask.all()


def wrong(folder, change):
    content = annotation(7)
    change(content)
    write_annotation(folder / "annotation_train", 7, content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("object_property"), "video: expected the key 'object_property'"),
        (lambda c: c["object_property"].pop(), r"object 0: object_id: expected one of object_property's, \[0\], got 1"),
        (lambda c: c["motion_trajectory"].clear(), "motion_trajectory: expected at least one frame"),
        (
            lambda c: c["motion_trajectory"][-1]["objects"][0].update(velocity=[1, None, 2]),
            r"video: frame 127: object 0: velocity: expected 3 finite numbers, got \[1, None, 2\]",
        ),
    ],
)
def test_wrong_annotations(folder, change, message):
    wrong(folder, change)
    with pytest.raises(DataError, match=f"annotation_00007.json: .*{message}"):
        source("clevrer", folder).scenes("train", [7])


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        ([], "expected questions of the split 'train', found none"),
        ([{"questions": []}], "video 0: expected the key 'scene_index'"),
        ([video(7, {"question": "What?"})], "video 0: question 0: expected the key 'question_type'"),
        ([video(7, DESCRIPTIVE | {"answer": None})], "video 0: question 0: answer: expected text, got None"),
        (
            [video(7, EXPLANATORY | {"choices": [{"choice_id": 0, "choice": "this"}]})],
            r"video 0: question 0: choice 0: expected the key 'answer' \(the test split has none\)",
        ),
    ],
)
def test_wrong_questions(folder, videos, message):
    write_questions(folder, "train.json", *videos)
    with pytest.raises(DataError, match=f"train.json: {message}"):
        source("clevrer", folder).questions("train")


def test_what_is_missing(folder, tmp_path):
    with pytest.raises(DataError, match=r"expected annotation_00008.json, whose video a question asks about"):
        source("clevrer", folder).scenes("train", [8])
    with pytest.raises(DataError, match=r"no questions file: expected .*questions/test.json or"):
        source("clevrer", folder).questions("test")
    (tmp_path / "train.json").write_text('{"seven": {"questions": []}}')
    with pytest.raises(DataError, match="video seven: expected the number of a video as its key"):
        source("clevrer", folder).questions("train")
