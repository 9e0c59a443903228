"""Questions and scenes to tensors: vocabularies, padding, masks, and batches that a seed decides."""

import numpy as np
import pytest
import torch

from iprm.vqa.data.examples import Question, Scene
from iprm.vqa.data.generate.files import make_questions, make_scenes
from iprm.vqa.data.programs import ATTRIBUTES
from iprm.vqa.data.sources import source
from iprm.vqa.data.tensors import PAD, UNKNOWN, Vocabulary, load, make_split, vocabularies, words


@pytest.fixture(scope="module")
def data(folder):
    return load(source("clevr", folder))


def test_round_trip(data, settings):
    scenes = make_scenes(settings, "train")
    questions = make_questions(settings, "train", scenes)
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


def test_batches_go_on_where_they_were_left(data):
    batches = data.train.shuffled(16, 0)
    rows = [next(batches).rows for _ in range(11)]
    for first in (1, 4, 5, 10):
        assert torch.equal(next(data.train.shuffled(16, 0, first)).rows, rows[first])


def test_dtype_and_device(data):
    batch = data.train.batch(torch.arange(4)).to("cpu", torch.float64)
    assert batch.numbers.dtype == torch.float64
    assert batch.words.dtype == torch.int64


def test_only_so_many_questions(folder):
    data = load(source("clevr", folder), train_questions=5, val_questions=3)
    assert len(data.train) == 5
    assert len(data.val) == 3
    assert len(data.train.scenes) == 1  # scenes that are not asked about are not kept


def test_vocabulary():
    vocabulary = Vocabulary({"b", "a"})
    assert [vocabulary(text) for text in ("a", "b", "c")] == [2, 3, UNKNOWN]
    assert vocabulary.texts[vocabulary("b")] == "b"
    assert len(vocabulary) == 4


def test_words():
    assert words("Is it big; are any, too?") == ["is", "it", "big", ";", "are", "any", ",", "too"]
    assert words("什么颜色？ Größe") == ["什么颜色", "größe"]


@pytest.mark.parametrize("text", ["", "?!", "…"])
def test_a_question_without_a_word_is_one_unknown_word(text):
    known = vocabularies([Question(text, "yes", 0)], [], ())
    assert [known.words(word) for word in words(text)] == [UNKNOWN]


class Pairs:
    """A source of two columns that share a vocabulary; tokens 0 and 2 show object 7."""

    label_columns = ("word", "word", "other")
    number_columns = ()

    def true_objects(self, question, scene):
        return [[7], []]


def test_columns_of_one_name_share_a_vocabulary():
    scene = Scene([["a", "b", "c"], ["b", "", "c"], ["c", "a", "b"]], np.zeros((3, 0), np.float32), objects=[7, 8, 7])
    questions = [Question("One?", "1", "s")]
    known = vocabularies(questions, [scene], Pairs.label_columns)
    split = make_split(Pairs(), questions, [scene], known)
    assert split.batch(torch.tensor([0])).labels[0].tolist() == [[2, 3, 3], [3, PAD, 3], [4, 2, 2]]
    assert split.true_tokens(0).tolist() == [[True, False, True], [False, False, False]]
