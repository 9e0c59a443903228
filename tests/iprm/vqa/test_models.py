"""The reasoning modules that are compared: of one size, blind to padding, and each looking at what it should."""

import pytest
import torch
from torch import nn

from iprm.config import IPRMConfig
from iprm.vqa.models.answerer import InputSizes, QuestionAnswerer
from iprm.vqa.models.baselines import of_equal_size, parameters
from iprm.vqa.models.encoders import LanguageEncoder
from iprm.vqa.models.reasoners import BASELINES, REASONERS, VARIANTS, reasoner
from iprm.vqa.training import memory

CONFIG = IPRMConfig(dim=16, num_ops=3, num_steps=2, op_init="language")
SIZES = InputSizes(words=42, labels=(5,) * 4, numbers=3, answers=30)


def inputs(B=3, L=5, N=7, D=16):
    language_mask, visual_mask = torch.ones(B, L, dtype=torch.bool), torch.ones(B, N, dtype=torch.bool)
    return [torch.randn(B, L, D), torch.randn(B, D), torch.randn(B, N, D), language_mask, visual_mask]


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize(
    "changes",
    [{}, {"dim": 64, "num_ops": 9}, {"dim": 64, "num_ops": 9, "op_init": "learned"}, {"dim": 64, "num_ops": 1}],
)
def test_baselines_have_as_many_parameters(name, changes):
    config = IPRMConfig(**{"dim": 16, "num_ops": 3, "op_init": "language"} | changes)
    wanted = parameters(reasoner("reference", config))
    assert abs(parameters(reasoner(name, config)) / wanted - 1) < 0.03


def test_a_baseline_that_cannot_be_as_small():
    with pytest.raises(ValueError, match=r"model: expected a block of 10 parameters, and \d+ are the fewest"):
        of_equal_size(lambda feedforward: BASELINES["cross_attention"](CONFIG, feedforward), 10)


def test_baselines_drop_at_the_rate_of_the_configuration():
    args = inputs()
    for rate in (0.0, 0.5):
        module = reasoner("concat_attention", IPRMConfig(dim=16, num_ops=3, operation_dropout=rate)).train()
        assert torch.equal(module(*args), module(*args)) == (rate == 0.0)


@pytest.mark.parametrize("name", REASONERS)
def test_what_is_masked_changes_nothing(name):
    module = reasoner(name, CONFIG).eval()
    args = inputs()
    args[3][:, 3:] = False
    args[4][:, 4:] = False
    want = module(*args)
    args[0][:, 3:] = 9.0
    args[2][:, 4:] = 9.0
    torch.testing.assert_close(module(*args), want)
    cut = [args[0][:, :3], args[1], args[2][:, :4], args[3][:, :3], args[4][:, :4]]
    torch.testing.assert_close(module(*cut), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lengths", [[1], [5, 5], [3, 1, 7, 4]], ids=str)
def test_words_are_read_as_by_one_lstm_of_both_directions(lengths):
    encoder, lengths = LanguageEncoder(42, 16).double(), torch.tensor(lengths)
    whole = nn.LSTM(16, 8, batch_first=True, bidirectional=True).double()
    backward = encoder.backward_lstm.state_dict()
    whole.load_state_dict(encoder.forward_lstm.state_dict() | {f"{k}_reverse": v for k, v in backward.items()})
    words = torch.randint(1, 42, (len(lengths), int(lengths.max())))
    words[torch.arange(words.shape[1]) >= lengths[:, None]] = 0

    embedded = encoder.embedding(words)
    packed = nn.utils.rnn.pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
    outputs, (last, _) = whole(packed)
    want = nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True)[0], torch.cat([*last], -1)
    found = encoder(words, lengths)
    torch.testing.assert_close(found, want, rtol=0, atol=1e-14)

    weights = [torch.randn_like(t) for t in want]
    gradients = [torch.autograd.grad(outputs, encoder.embedding.weight, weights)[0] for outputs in (found, want)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", REASONERS)
def test_only_the_question_only_block_is_blind(name):
    module = reasoner(name, CONFIG).eval()
    args = inputs()
    want = module(*args)
    args[2] = torch.randn_like(args[2])
    assert torch.equal(module(*args), want) == (name == "question_only")


@pytest.mark.parametrize("name", REASONERS)
def test_every_weight_is_trained(name):
    model = QuestionAnswerer(reasoner(name, CONFIG), CONFIG.dim, SIZES)
    model(memory.random_batch(memory.Sizes(4, 6, 5))).square().sum().backward()
    still = {n for n, p in model.reasoner.named_parameters() if p.grad is None or not p.grad.any()}
    constants = ("f.bias", "w.bias", "c.bias", "p.bias", "in_proj_bias")  # shift whole rows of logits
    assert {n for n in still if not n.endswith(constants)} == set()


@pytest.mark.parametrize("name", VARIANTS)
def test_look_gives_the_logits_and_the_attention(name):
    model = QuestionAnswerer(reasoner(name, CONFIG), CONFIG.dim, SIZES).eval()
    batch = memory.random_batch(memory.Sizes(4, 6, 5))
    logits, attention = model.look(batch)
    torch.testing.assert_close(logits, model(batch))
    assert attention.visual.shape == (2, 4, 3, 5)
    torch.testing.assert_close(attention.visual.sum(-1), torch.ones(2, 4, 3))
