"""Accuracy by option and by question, of models whose answers are planted."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from iprm.vqa.data.examples import Question, Scene
from iprm.vqa.data.tensors import load
from iprm.vqa.training.multiple_choice import by_question
from iprm.vqa.training.trainer import Schedule, Trainer


def verdicts(*pairs):
    return torch.tensor(pairs, dtype=torch.float64).T


def options(name, *answers, family="why", one_correct=False):
    return [
        Question(f"{name} ; {i}", a, 0, family, options=name, one_correct=one_correct) for i, a in enumerate(answers)
    ]


PLAIN = Question("Big?", "yes", 0, "what")


def test_questions_without_options_have_no_accuracy_by_question():
    assert by_question([PLAIN, PLAIN], verdicts((1, 0.9), (0, 0.2))) == {}
    assert by_question([], torch.zeros(2, 0)) == {}


def test_every_option_must_be_judged_right():
    questions = [*options("a", "wrong", "correct"), PLAIN, PLAIN, *options("b", "wrong", "wrong")]
    right = verdicts((1, 0.9), (0, 0.4), (1, 0.5), (1, 0.9), (1, 0.7), (1, 0.6))
    assert by_question(questions, right) == {"overall by question": 3 / 4, "why by question": 1 / 2}


def test_a_question_is_of_its_first_options_family():
    first, second = options("a", "wrong", "correct")
    found = by_question([first, replace(second, family="how")], verdicts((1, 0.9), (1, 0.9)))
    assert found == {"overall by question": 1, "why by question": 1}


@pytest.mark.parametrize(
    ("truths", "solved"),
    [
        ((0.9, 0.8, 0.9), 1),
        ((0.9, 0.2, 0.9), 1),  # judged wrong, but less so than the others
        ((0.9, 0.2, 0.7), 0),
        ((0.4, 0.9, 0.9), 1),  # another judged correct, but less so
        ((0.0, 0.9, 0.9), 0),
        ((0.5, 0.5, 0.5), 0),  # none is chosen
        ((1.0, 0.0, 1.0), 0),  # an answer that training never saw
    ],
)
def test_the_correct_option_must_be_the_most_probable(truths, solved):
    questions = options("a", "wrong", "correct", "wrong", one_correct=True)
    found = by_question(questions, verdicts(*((truth > 0.5, truth) for truth in truths)))
    assert found == {"overall by question": solved, "why by question": solved}


class Choices:
    """Questions of four options, and of an answer that training never saw."""

    label_columns, number_columns = (), ()

    def questions(self, split, most=None, whole=False):
        asked = [option for name in "abcde" for option in options(name, "wrong", "correct", "wrong", "wrong")]
        return asked if split == "train" else [*asked, replace(PLAIN, answer="perhaps")]

    def scenes(self, split, keys, whole=False):
        return [Scene([()], np.zeros((1, 0), np.float32)) for _ in keys]


class Planted(torch.nn.Module):
    """Answers the same to everything."""

    def __init__(self, answer, answers):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.eye(answers)[answer])

    def forward(self, batch):
        return self.logits.expand(len(batch.answers), -1)


@pytest.mark.parametrize(
    ("answer", "overall", "what"), [("wrong", 15 / 21, 0), ("correct", 5 / 21, 0), ("<unknown>", 0, 0)]
)
def test_always_the_same_solves_nothing(answer, overall, what):
    """Whatever batches cut apart; and what training never saw is not answered right by saying so."""
    data = load(Choices())
    known = data.vocabularies.answers
    trainer = Trainer(Planted(known(answer), len(known)), Schedule(1, 1.0), torch.device("cpu"))
    found = trainer.evaluate(data.val.in_order(3), data.val.families, data.val.questions)
    assert found.pop("why") == pytest.approx(overall * 21 / 20)
    assert found == {
        "overall": pytest.approx(overall),
        "what": what,
        "overall by question": 0,
        "why by question": 0,
    }
