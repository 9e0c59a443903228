"""Looking inside: the record of a model's attention, where tokens are drawn, the static picture, the command."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from iprm.config import IPRMConfig
from iprm.vqa.data.examples import Scene
from iprm.vqa.data.generate.files import Settings, write
from iprm.vqa.data.sources import source
from iprm.vqa.data.tensors import load, load_split, vocabularies
from iprm.vqa.look import command
from iprm.vqa.look.figure import draw
from iprm.vqa.look.layout import HEIGHT, WIDTH, layout
from iprm.vqa.look.record import record
from iprm.vqa.models.answerer import InputSizes, QuestionAnswerer
from iprm.vqa.models.reasoners import reasoner
from iprm.vqa.training.config import configuration
from iprm.vqa.training.run import train

T, K, W = 3, 2, 2
CONFIG = IPRMConfig(dim=8, num_ops=K, num_steps=T, window=W)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clevr")
    write(folder, Settings(train_scenes=4, val_scenes=4, questions_per_scene=5, min_objects=3, max_objects=6))
    return folder


@pytest.fixture(scope="module")
def known(folder):
    reader = source("clevr", folder)
    questions = reader.questions("train")
    scenes = reader.scenes("train", list(dict.fromkeys(question.scene for question in questions)))
    return vocabularies(questions, scenes, reader.label_columns)


@pytest.fixture(scope="module")
def split(folder, known):
    return load_split(source("clevr", folder), "val", known, whole=True)


def answerer(split, known, name="reference", config=CONFIG):
    torch.manual_seed(0)
    return QuestionAnswerer(reasoner(name, config), config.dim, InputSizes.of(split.source, known))


def the_record(split, known, rows=None, **options):
    model = answerer(split, known, config=replace(CONFIG, **options))
    return record(model, split, range(len(split)) if rows is None else rows, known.answers.texts)


def test_the_record_is_what_the_model_says_without_padding(split, known):
    model = answerer(split, known).train()
    rows = [7, 0, 12]
    found = record(model, split, rows, known.answers.texts)
    assert model.training  # as it was
    with torch.no_grad():
        logits, attention = model.eval().look(split.batch(torch.tensor(rows)))
    for sample, (row, question) in enumerate(zip(rows, found, strict=True)):
        L, N = len(question["words"]), len(question["scene"]["tokens"])
        assert split.lengths[row] == L
        assert len(split.scenes[split.scene_rows[row]].numbers) == N
        for name, size in (("language", L), ("visual", N), ("operations", K * (1 + W))):
            shown = torch.tensor(question["attention"][name])
            assert shown.shape == (T, K, size)
            torch.testing.assert_close(shown, getattr(attention, name)[:, sample, :, :size], atol=1e-4, rtol=0)
        torch.testing.assert_close(
            torch.tensor(question["attention"]["readout"]), attention.readout[sample], atol=1e-4, rtol=0
        )
        best = question["guesses"][0]
        assert best["answer"] == known.answers.texts[logits[sample].argmax()]
        assert best["probability"] == pytest.approx(logits[sample].softmax(-1).max().item(), abs=1e-4)


def test_the_record_tells_the_question_its_scene_and_its_program(split, known):
    found = json.loads(json.dumps(the_record(split, known)))
    for row, shown in enumerate(found):
        question, scene = split.questions[row], split.scenes[split.scene_rows[row]]
        assert " ".join(shown["words"]) == question.text.lower().rstrip("?")
        assert (shown["answer"], shown["family"]) == (question.answer, question.family)
        things = scene.record["objects"]
        assert [[t["x"], t["y"]] for t in shown["scene"]["tokens"]] == [t["pixel_coords"][:2] for t in things]
        assert [t["name"] for t in shown["scene"]["tokens"]] == [" ".join(labels) for labels in scene.labels]
        assert [node["function"] for node in shown["program"]] == [node["function"] for node in question.program]
        assert [node["tokens"] for node in shown["program"]] == split.source.true_objects(question, scene)


def test_without_readout_attention_and_composition(split, known):
    (shown,) = the_record(split, known, [0], readout="mean", composition=False)
    assert shown["attention"]["readout"] is None
    assert not np.any(shown["attention"]["operations"])
    draw(shown)


def test_what_cannot_be_recorded_is_said(split, known):
    answers, model = known.answers.texts, answerer(split, known)
    for rows in ([], [0, len(split)], [-1]):
        with pytest.raises(ValueError, match=r"^rows: expected one at least, each of 0 to \d+, got \["):
            record(model, split, rows, answers)
    with pytest.raises(ValueError, match=r"^model: expected IPRM, whose attention is recorded, got CrossAttention$"):
        record(answerer(split, known, "cross_attention"), split, [0], answers)
    torch.nn.init.constant_(model.answer.layers[0].bias, torch.nan)
    with pytest.raises(ValueError, match=r"^model: expected finite logits and attention, got NaN or infinity$"):
        record(model, split, [0], answers)


def test_a_feature_map_without_programs(tmp_path):
    """Of six rows of two cells: its shape is not the one nearest to a square."""
    np.save(tmp_path / "train_features.npy", np.zeros((1, 3, 6, 2), np.float32))
    asked = {"question": "what is it", "answer": "a cat", "image_index": 0}
    (tmp_path / "CLEVR_train_questions.json").write_text(json.dumps({"questions": [asked]}))
    data = load(source("features", tmp_path), splits=("train", "train"))
    (shown,) = the_record(data.train, data.vocabularies)
    assert shown["program"] is None
    assert shown["scene"]["cells"] == (6, 2)
    width, height = WIDTH / 2, HEIGHT / 6
    places = [(token["x"], token["y"]) for token in shown["scene"]["tokens"]]
    assert places[:3] == [
        (width / 2, round(height / 2)),
        (width * 3 / 2, round(height / 2)),
        (width / 2, height * 3 / 2),
    ]
    maps = [axes.images[0].get_array() for axes in draw(shown).axes if axes.get_title()]
    assert {array.shape for array in maps} == {(6, 2)}


def test_where_tokens_are_drawn():
    plane = Scene([("red",)] * 2, np.array([[0, 0], [1, -1]], np.float32))
    assert layout(plane, ("right", "behind")).places == [(240, 160), (390, 250)]
    frames = Scene([("red",)] * 3, np.array([[0], [0], [1]], np.float32), objects=[3, 5, 3])
    film = layout(frames, ("time",))
    assert film.places == [(120, 80), (120, 240), (360, 80)]
    assert (film.scale, film.cells) == (1.0, None)
    crowd = Scene([("red",)] * 12, np.arange(12, dtype=np.float32)[:, None], objects=[0] * 12)
    assert layout(crowd, ("time",)).scale == 0.5
    assert [layout(Scene([()] * n, np.zeros((n, 1), np.float32)), ("it",)).cells for n in (196, 98, 7)] == [
        (14, 14),
        (7, 14),
        (1, 7),
    ]


def test_a_picture_of_one_question(split, known, tmp_path):
    (shown,) = the_record(split, known, [3])
    figure = draw(shown, path=tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 10_000
    assert shown["guesses"][0]["answer"] in figure.get_suptitle()
    assert [axes.get_xlabel() for axes in figure.axes if "operation" in axes.get_xlabel()] == [
        f"operation {k + 1}\nread-out {weight:.0%}" for k, weight in enumerate(shown["attention"]["readout"])
    ]
    rings = [c for c in figure.axes[0].collections if len(c.get_linewidths()) and c.get_facecolor().size == 0]
    assert len(rings) == sum(weight > 0.02 for weight in shown["attention"]["visual"][0][0])
    maps = [axes.images[0].get_array().tolist() for axes in figure.axes if axes.images]
    assert maps == shown["attention"]["operations"]
    program = figure.axes[-1].texts[0].get_text().splitlines()[1:]
    assert len(program) == len(shown["program"])
    assert shown["program"][-1]["function"] in program[-1]


def test_a_picture_on_the_image_of_the_scene(split, known, tmp_path):
    from matplotlib.image import imsave

    imsave(tmp_path / "scene.png", np.full((4, 6, 3), 0.5))
    figure = draw(the_record(split, known, [0])[0], picture=tmp_path / "scene.png")
    assert figure.axes[0].images[0].get_array().shape[:2] == (4, 6)


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """The folder of a training of one step."""
    where = tmp_path_factory.mktemp("train") / "run"
    sizes = ["model.iprm.dim=8", f"model.iprm.num_ops={K}", f"model.iprm.num_steps={T}"]
    data = ["data.source=clevr", f"data.folder={folder}"]
    train(configuration(overrides=[*data, *sizes, "training.steps=1", "training.batch_size=4", f"folder={where}"]))
    return where


def test_the_command(trained, folder, tmp_path, capsys, monkeypatch):
    opened = []
    monkeypatch.setattr(command.webbrowser, "open", opened.append)
    page, figures = tmp_path / "deep" / "look.html", tmp_path / "figures"
    arguments = ["--checkpoint", str(trained), "--questions", "2", "--out", str(page), "--figures", str(figures)]
    assert command.main([*arguments, "--open"]) == 0
    assert f"{trained}, split val, 2 questions" in page.read_text()
    assert sorted(path.name for path in figures.iterdir()) == ["question-001.png", "question-002.png"]
    assert opened == [page.as_uri()]
    assert str(page) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--checkpoint", "nowhere"], "nowhere: expected a checkpoint, found none; python -m iprm.train"),
        (["--questions", "0"], "--questions: expected at least 1, got 0"),
        (["--split", "moon"], "CLEVR_moon_questions.json"),
        (["--images", "nowhere"], "nowhere/CLEVR_val_000000.png: expected a picture, got No such file"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(trained, tmp_path, capsys, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    assert command.main(["--checkpoint", str(trained), *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert expected in said
    assert said.count("\n") == 1
    assert not list(Path(tmp_path).rglob("*.html"))
