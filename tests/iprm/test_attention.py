"""The picture of an attention record."""

import re
import subprocess
import sys

import pytest
import torch

from iprm import Attention, IPRMConfig, reference
from iprm.attention import draw

pytest.importorskip("matplotlib", reason="needs matplotlib, the extra `plots`")

B, L, N, T, K, W = 2, 5, 12, 3, 4, 2
WORDS = ["is", "it", "red", "?"]


def record(**options):
    torch.manual_seed(0)
    options = {"dim": 8, "num_ops": K, "num_steps": T, "window": W} | options
    module = reference.IPRM(IPRMConfig(**options)).eval()
    language_mask = torch.ones(B, L, dtype=torch.bool)
    language_mask[1, len(WORDS) :] = False
    inputs = torch.randn(B, L, 8), torch.randn(B, 8), torch.randn(B, N, 8), language_mask
    return module(*inputs, return_attention=True)[1]


def images(figure):
    """The array of every map, row by row."""
    return [torch.from_numpy(axes.images[0].get_array().data) for axes in figure.axes if axes.images]


def equal(shown, expected):
    torch.testing.assert_close(shown, expected.detach())


def test_maps_without_grid():
    attention = record()
    figure = draw(attention, 0)
    shown = images(figure)
    assert len(figure.axes) == 3 * T + 1
    for t in range(T):
        equal(shown[3 * t], attention.language[t, 0])
        equal(shown[3 * t + 1], attention.visual[t, 0])
        equal(shown[3 * t + 2], attention.operations[t, 0])
    assert [axes.get_title() for axes in figure.axes[:3]] == ["language", "picture", "operations"]
    assert [axes.get_ylabel() for axes in figure.axes[::3]] == ["step 1", "step 2", "step 3", "read-out"]


def test_maps_with_grid_and_words():
    attention = record()
    figure = draw(attention, 1, WORDS, (3, 4))
    shown, columns = images(figure), K + 2
    assert len(shown) == T * columns
    for t in range(T):
        equal(shown[columns * t], attention.language[t, 1, :, : len(WORDS)])
        for k in range(K):
            equal(shown[columns * t + 1 + k], attention.visual[t, 1, k].reshape(3, 4))
    last = figure.axes[columns * (T - 1)]
    assert [tick.get_text() for tick in last.get_xticklabels()] == WORDS
    assert figure.axes[1].get_title() == "picture, op 1"


def test_blocks_of_operations():
    operations = draw(record(), 0).axes[3 * T - 1]
    assert [line.get_xdata()[0] for line in operations.lines] == [K - 0.5, 2 * K - 0.5]
    assert [tick.get_text() for tick in operations.get_xticklabels()] == ["now", "1 back", "2 back"]


def test_readout():
    attention = record()
    heights = [bar.get_height() for bar in draw(attention, 1).axes[-1].patches]
    assert heights == pytest.approx(attention.readout[1].tolist())
    assert len(draw(record(readout="mean"), 1).axes) == 3 * T


def test_no_operations_without_composition():
    figure = draw(record(composition=False), 0)
    assert [axes.get_title() for axes in figure.axes[:3]] == ["language", "picture", ""]
    assert len(images(figure)) == 2 * T


@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_written_file(tmp_path, suffix):
    path = tmp_path / f"attention.{suffix}"
    draw(record(), 0, WORDS, (4, 3), path)
    assert path.read_bytes().startswith({"png": b"\x89PNG", "pdf": b"%PDF"}[suffix])


def test_record_of_low_precision_and_one_of_each():
    attention = Attention(*(torch.ones(1, 1, 1, 1).bfloat16() for _ in range(3)), torch.ones(1, 1))
    assert len(images(draw(attention, 0, ["yes"], (1, 1)))) == 3


GRID = "grid: expected (height, width), whole and positive, with height x width = 12, got"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"sample": B}, ValueError, "sample: expected 0 to 1, got 2 (int)"),
        ({"sample": -1}, ValueError, "sample: expected 0 to 1, got -1 (int)"),
        ({"sample": 0.5}, ValueError, "sample: expected 0 to 1, got 0.5 (float)"),
        ({"words": WORDS * 2}, ValueError, "words: expected 1 to 5, one for each language token, got 8"),
        ({"words": []}, ValueError, "words: expected 1 to 5, one for each language token, got 0"),
        ({"sample": True}, ValueError, "sample: expected 0 to 1, got True (bool)"),
        ({"sample": None}, ValueError, "sample: expected 0 to 1, got None"),
        ({"sample": torch.tensor(0)}, ValueError, "sample: expected 0 to 1, got () int64 on cpu"),
        ({"words": True}, ValueError, "words: expected a sequence of str, got True (bool)"),
        ({"words": 4}, ValueError, "words: expected a sequence of str, got 4 (int)"),
        ({"words": "is it"}, ValueError, "words: expected a sequence of str, got 'is it' (str)"),
        ({"words": ["is", 2]}, ValueError, "words: expected a sequence of str, got ['is', 2] (list)"),
        ({"grid": (3, 3)}, ValueError, f"{GRID} (3, 3) (tuple)"),
        ({"grid": (12,)}, ValueError, f"{GRID} (12,) (tuple)"),
        ({"grid": (-3, -4)}, ValueError, f"{GRID} (-3, -4) (tuple)"),
        ({"grid": (True, 12)}, ValueError, f"{GRID} (True, 12) (tuple)"),
        ({"grid": (3.0, 4.0)}, ValueError, f"{GRID} (3.0, 4.0) (tuple)"),
        ({"grid": True}, ValueError, f"{GRID} True (bool)"),
        ({"grid": 12}, ValueError, f"{GRID} 12 (int)"),
        ({"grid": "34"}, ValueError, f"{GRID} '34' (str)"),
        ({"path": 3}, TypeError, "path: expected str or os.PathLike, got 3 (int)"),
        ({"path": True}, TypeError, "path: expected str or os.PathLike, got True (bool)"),
        ({"attention": torch.ones(1)}, TypeError, "attention: expected iprm.Attention, got Tensor"),
        ({"attention": None}, TypeError, "attention: expected iprm.Attention, got NoneType"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        draw(**({"attention": record(), "sample": 0} | arguments))


@pytest.mark.parametrize("field", Attention._fields)
@pytest.mark.parametrize("wrong", [torch.Tensor.tolist, torch.Tensor.long, lambda a: a[0]])
def test_wrong_records(field, wrong):
    right = record()
    with pytest.raises(ValueError, match=rf"^attention\.{field}: expected "):
        draw(right._replace(**{field: wrong(getattr(right, field))}), 0)


@pytest.mark.parametrize("field", Attention._fields[:3])
def test_missing_attention(field):
    with pytest.raises(ValueError, match=rf"^attention\.{field}: expected .*, got None"):
        draw(record()._replace(**{field: None}), 0)


@pytest.mark.parametrize("field", Attention._fields[1:])
def test_records_whose_sizes_differ(field):
    right = record()
    twice = torch.cat([getattr(right, field)] * 2)
    with pytest.raises(ValueError, match=rf"^attention\.{field}: expected \(.* float32 on cpu, got"):
        draw(right._replace(**{field: twice}), 0)


def test_lists_are_as_good_as_tuples():
    assert len(images(draw(record(), 1, tuple(WORDS), [3, 4]))) == T * (K + 2)


def test_missing_matplotlib_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=re.escape("the extra `plots`: pip install 'iprm-kernels[plots]'")):
        draw(record(), 0)


def test_import_does_not_need_matplotlib():
    code = "import sys; sys.modules['matplotlib'] = None; import iprm.attention"
    subprocess.run([sys.executable, "-c", code], check=True)
