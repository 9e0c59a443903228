"""One question of the record as a static picture: a row for each step, a column for each operation.

Needs the extra `plots`. `iprm.attention.draw` shows the bare weights of any module; here they lie on the scene.
"""

from __future__ import annotations

from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

import numpy as np

from iprm.vqa.look.layout import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMALL = 7
"""Font size of all but the question."""
FLOOR, SOFT, ATTENTION = "#eef0f2", "#5b646e", "#e8710a"
_bow = [(np.cos(a), 0.25 * np.sin(a)) for a in np.linspace(0, np.pi, 9)]
CYLINDER = [(0.6 * x, y + 0.8) for x, y in _bow] + [(-0.6 * x, -y - 0.8) for x, y in _bow]
MARKERS = {"cube": "s", "sphere": "o", "cylinder": CYLINDER}
AREAS = {"large": 130.0, "small": 45.0}
"""Of an object, in square points."""
LEAST = 0.15
"""The weight from which a word is named."""


def _objects(axes: Axes, scene: dict[str, Any], weights: list[float], pictured: bool) -> None:
    """Draw every object, unless it is in the picture below, with a ring as wide as its weight."""
    most = max(weights) or 1
    for number, (token, weight) in enumerate(zip(scene["tokens"], weights, strict=True), 1):
        labels, at = token["labels"], (token["x"], token["y"])
        area = AREAS.get(labels.get("size"), 80.0) * scene["scale"] ** 2
        if not pictured:
            edge = {"edgecolors": "white", "linewidths": 1.2} if labels.get("material") == "metal" else {}
            look = {"c": COLORS.get(labels.get("color"), SOFT), "marker": MARKERS.get(labels.get("shape"), "o")}
            axes.scatter(*at, s=area, alpha=0.4 + 0.6 * weight / most, **look, **edge)
        if weight > 0.02:
            width = scene["scale"] * (0.5 + 3 * weight)
            axes.scatter(*at, s=3 * area, c="none", edgecolors=ATTENTION, linewidths=width)
        if len(weights) <= 12:
            offset = (0.9 * area**0.5, -0.9 * area**0.5)
            axes.annotate(str(number), at, offset, textcoords="offset points", fontsize=SMALL - 1, color=SOFT)


def _cells(axes: Axes, scene: dict[str, Any], weights: list[float], pictured: bool) -> None:
    """Draw the weights of the cells over the picture, from nothing to the largest."""
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("attention", [(1, 1, 1, 0.0), ATTENTION])
    extent = (0, scene["width"], scene["height"], 0)
    axes.imshow(np.reshape(weights, scene["cells"]), cmap=shades, vmin=0, extent=extent, alpha=0.8 if pictured else 1)


def _scene(axes: Axes, question: dict[str, Any], weights: list[float], picture: np.ndarray | None) -> None:
    scene = question["scene"]
    width, height = scene["width"], scene["height"]
    axes.set_facecolor(FLOOR)
    axes.spines[:].set_visible(False)
    if picture is not None:
        axes.imshow(picture, extent=(0, width, height, 0))
    (_cells if scene["cells"] else _objects)(axes, scene, weights, picture is not None)
    edge = 0 if scene["cells"] or picture is not None else 45
    axes.set(xlim=(-edge, width + edge), ylim=(height + edge, -edge), aspect="equal", xticks=[], yticks=[])


def _read(words: list[str], weights: list[float]) -> str:
    """Return the two words with most weight, in the order of the question."""
    most = sorted(sorted(range(len(words)), key=lambda i: -weights[i])[:2])
    return " · ".join(f"{words[i]} {weights[i]:.0%}" for i in most if weights[i] >= LEAST) or "–"


def _composition(axes: Axes, step: list[list[float]], labelled: bool) -> None:
    """Draw which operations (columns) each operation (row) looks at."""
    K, columns = len(step), len(step[0])
    axes.imshow(step, cmap="Oranges", vmin=0, vmax=1, aspect="auto")
    axes.set_yticks(range(K), [str(k) for k in range(1, K + 1)], fontsize=SMALL)
    blocks = range(columns // K)
    names = ["this step", *(f"{i} before" for i in blocks[1:])]
    axes.set_xticks([K * i + (K - 1) / 2 for i in blocks], names if labelled else [""] * len(names), fontsize=SMALL)
    axes.tick_params(length=0)
    for i in blocks[1:]:
        axes.axvline(K * i - 0.5, color=SOFT, linewidth=0.8)


def _program(program: list[dict[str, Any]]) -> str:
    """Return the true program, a line a node: its number, function and values, inputs, and what it is about."""
    lines = ["true program"]
    for number, node in enumerate(program, 1):
        inputs = ", ".join(str(i + 1) for i in node["inputs"])
        about = "" if node["tokens"] is None else f"  → {', '.join(str(i + 1) for i in node['tokens']) or 'none'}"
        lines.append(f"{number:2} {' '.join([node['function'], *node['values']])} ({inputs}){about}")
    return "\n".join(lines)


def _title(question: dict[str, Any]) -> str:
    best = question["guesses"][0]
    mark = "right" if best["answer"] == question["answer"] else "wrong"
    answers = f"model: {best['answer']} ({best['probability']:.0%}), {mark}; truth: {question['answer']}"
    return f"{' '.join(question['words'])}\n{answers}"


def draw(
    question: dict[str, Any],
    picture: str | PathLike[str] | None = None,
    path: str | PathLike[str] | None = None,
) -> Figure:
    """Where the steps of one question looked.

    A row for each step, a column for each operation: the scene, its objects ringed by their weight or its cells shaded
    by it, and above it the words that the operation reads. Beside them which operations look at which, and the true
    program with the numbers of its objects. Last, the weight of each operation in the read-out.

    Args:
        question: of `iprm.vqa.look.record.record`.  picture: an image of the scene, shown below the weights.
        path: also write the figure there; the suffix says the format.
    Returns:
        the matplotlib Figure.
    Raises:
        ImportError: matplotlib is missing.  OSError: the picture cannot be read, or the path not written.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.image import imread
    except ImportError as error:
        raise ImportError("drawing needs matplotlib, the extra `plots`: pip install 'iprm-kernels[plots]'") from error
    attention = question["attention"]
    T, K = len(attention["visual"]), len(attention["visual"][0])
    image = None if picture is None else imread(fspath(picture))
    inches = [1.9] * K + [2.0] + ([2.6] if question["program"] else [])
    figure = Figure(figsize=(sum(inches), 1.55 * T + 0.9), layout="constrained")
    figure.suptitle(_title(question), fontsize=SMALL + 3, x=0.02, ha="left")
    cells = figure.add_gridspec(T, len(inches), width_ratios=inches)
    for t in range(T):
        for k in range(K):
            axes = figure.add_subplot(cells[t, k])
            _scene(axes, question, attention["visual"][t][k], image)
            axes.set_title(_read(question["words"], attention["language"][t][k]), fontsize=SMALL, pad=3)
            if k == 0:
                axes.set_ylabel(f"step {t + 1}", fontsize=SMALL + 1)
            if t == T - 1:
                weight = "" if attention["readout"] is None else f"\nread-out {attention['readout'][k]:.0%}"
                axes.set_xlabel(f"operation {k + 1}{weight}", fontsize=SMALL + 1)
        _composition(figure.add_subplot(cells[t, K]), attention["operations"][t], t == T - 1)
    if question["program"]:
        text = figure.add_subplot(cells[:, K + 1])
        text.axis("off")
        text.text(0, 1, _program(question["program"]), va="top", fontsize=SMALL, family="monospace", linespacing=1.6)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
