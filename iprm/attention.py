"""The attention record of a forward pass (`iprm.Attention`) as a picture. Needs the extra `plots`."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from iprm.reference import Attention
from iprm_kernels.checks import check_floating, check_tensor, described

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMALL = 7
"""Font size of the ticks."""


class Column(NamedTuple):
    """One column of the picture: a map (height, width) for each step, and its width in inches."""

    title: str
    maps: Tensor
    inches: float
    square: bool = False


def _figure() -> type[Figure]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("drawing needs matplotlib, the extra `plots`: pip install 'iprm-kernels[plots]'") from error
    return Figure


def _check_record(attention: Any) -> None:
    if not isinstance(attention, Attention):
        raise TypeError(f"attention: expected iprm.Attention, got {type(attention).__name__}")
    sizes: dict[str, tuple[int | str, ...]] = {"language": ("T", "B", "K", "L")}
    check_floating("attention.language", attention.language)
    if attention.language.dim() == 4:
        T, B, K, _ = attention.language.shape
        sizes |= {"visual": (T, B, K, "N"), "operations": (T, B, K, "columns"), "readout": (B, K)}
    for name, shape in sizes.items():
        value = getattr(attention, name)
        if name == "readout" and value is None:
            continue
        check_floating(f"attention.{name}", value)
        check_tensor(f"attention.{name}", value, shape, value.dtype, value.device)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_view(attention: Attention, sample: Any, words: Any, grid: Any) -> None:
    B, (L, N) = attention.language.shape[1], (a.shape[-1] for a in attention[:2])
    if not (_whole(sample) and 0 <= sample < B):
        raise ValueError(f"sample: expected 0 to {B - 1}, got {described(sample)}")
    if words is not None:
        listed = isinstance(words, Sequence) and all(isinstance(word, str) for word in words)
        if not listed or isinstance(words, str):
            raise ValueError(f"words: expected a sequence of str, got {described(words)}")
        if not 0 < len(words) <= L:
            raise ValueError(f"words: expected 1 to {L}, one for each language token, got {len(words)}")
    if grid is not None:
        pair = isinstance(grid, Sequence) and len(grid) == 2 and all(_whole(size) and size > 0 for size in grid)
        if not pair or grid[0] * grid[1] != N:
            expected = f"(height, width), whole and positive, with height x width = {N}"
            raise ValueError(f"grid: expected {expected}, got {described(grid)}")


def _columns(
    attention: Attention, sample: int, words: Sequence[str] | None, grid: tuple[int, int] | None
) -> list[Column]:
    language, visual, operations = (a[:, sample].detach().float().cpu() for a in attention[:3])
    (T, K, _), N = language.shape, visual.shape[-1]
    if words is not None:
        language = language[..., : len(words)]
    columns = [Column("language", language, max(2.0, 0.22 * language.shape[-1]))]
    if grid is None:
        columns.append(Column("picture", visual, min(8.0, max(2.0, 0.05 * N))))
    else:
        maps = visual.reshape(T, K, *grid).unbind(1)
        columns += [Column(f"picture, op {k}", m, 1.1 * grid[1] / max(grid), True) for k, m in enumerate(maps, 1)]
    if operations.any():  # all zero without composition
        columns.append(Column("operations", operations, max(2.0, 0.14 * operations.shape[-1])))
    return columns


def _ticks(count: int) -> range:
    """Not more than a dozen."""
    return range(0, count, 1 + (count - 1) // 12)


def _show(axes: Axes, column: Column, step: int) -> None:
    image = column.maps[step].numpy()
    aspect = "equal" if column.square else "auto"
    axes.imshow(image, cmap="viridis", vmin=0.0, aspect=aspect, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    if not column.square:
        axes.set_yticks(_ticks(len(image)), [str(k + 1) for k in _ticks(len(image))], fontsize=SMALL)
    if step == 0:
        axes.set_title(column.title, fontsize=SMALL + 2)


def _separate(axes: Axes, K: int, width: int, labelled: bool) -> None:
    """Lines between the operations of this step and those of each earlier one."""
    blocks = range(width // K)
    for i in blocks[1:]:
        axes.axvline(K * i - 0.5, color="white", linewidth=1.5)
    if labelled:
        names = ["now", *(f"{i} back" for i in blocks[1:])]
        axes.set_xticks([K * i + (K - 1) / 2 for i in blocks], names, fontsize=SMALL)


def draw(
    attention: Attention,
    sample: int,
    words: Sequence[str] | None = None,
    grid: tuple[int, int] | None = None,
    path: str | PathLike[str] | None = None,
) -> Figure:
    """Where one sample's steps looked: a row for each step, and the read-out below.

    In a row: language (operations x words); picture (one map for each operation, or without `grid` operations
    x tokens); operations (operations x those of this step and of the steps before, left out without
    composition). The colours of every map run from 0 to its own largest weight.

    Args:
        attention: what `forward(..., return_attention=True)` returned.
        sample: which of the B samples.
        words: names of the language tokens; tokens beyond them (padding) are not drawn.
        grid: (height, width) of the visual tokens, row by row.
        path: also write the picture there; the suffix says the format.
    Returns:
        the matplotlib Figure.
    Raises:
        ImportError: matplotlib is missing.  TypeError: `attention` is no `iprm.Attention`, or `path` no path.
        ValueError: `attention` holds something else than it says, there is no such sample, or words or grid do not
            fit the tokens. All name the argument, what was expected and what came.
    """
    figure_class = _figure()
    _check_record(attention)
    _check_view(attention, sample, words, grid)
    if not (path is None or isinstance(path, str | PathLike)):
        raise TypeError(f"path: expected str or os.PathLike, got {described(path)}")
    T, _, K, _ = attention.language.shape
    columns = _columns(attention, sample, words, grid)
    rows = T if attention.readout is None else T + 1
    row_inches = min(2.5, max(1.1, 0.15 * K))
    size = (1.0 + sum(c.inches for c in columns), 1.2 + rows * row_inches)
    figure = figure_class(figsize=size, layout="constrained")
    cells = figure.add_gridspec(rows, len(columns), width_ratios=[c.inches for c in columns])
    for step in range(T):
        panels = [figure.add_subplot(cells[step, i]) for i in range(len(columns))]
        for axes, column in zip(panels, columns, strict=True):
            _show(axes, column, step)
            if column.title == "operations":
                _separate(axes, K, column.maps.shape[-1], step == T - 1)
        panels[0].set_ylabel(f"step {step + 1}", fontsize=SMALL + 2)
        if words is not None and step == T - 1:
            panels[0].set_xticks(range(len(words)), words, rotation=90, fontsize=SMALL)
    if attention.readout is not None:
        axes = figure.add_subplot(cells[T, 0])
        axes.bar(range(1, K + 1), attention.readout[sample].detach().float().cpu().numpy())
        axes.set_xticks([k + 1 for k in _ticks(K)])
        axes.tick_params(labelsize=SMALL)
        axes.set_ylabel("read-out", fontsize=SMALL + 2)
        axes.set_xlabel("operation", fontsize=SMALL)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
