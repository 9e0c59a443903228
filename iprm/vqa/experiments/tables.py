"""Tables and figures of an experiment: shown on a terminal, written as Markdown and PNG."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table as RichTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Table(NamedTuple):
    """Rows of text; the first cell of a row names it."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return f"**{self.title}**\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def show(self, console: Console) -> None:
        """Print the table."""
        table = RichTable(*self.header, title=self.title)
        for row in self.rows:
            table.add_row(*row)
        console.print(table)


def figure(draw: Callable[[Figure], None], path: Path, size: tuple[float, float]) -> Path:
    """Write what `draw` draws on a figure of `size` inches."""
    from matplotlib.figure import Figure

    made = Figure(figsize=size, layout="constrained")
    draw(made)
    path.parent.mkdir(parents=True, exist_ok=True)
    made.savefig(path, dpi=150)
    return path


def bars(axes: Axes, names: Sequence[str], groups: dict[str, Sequence[Sequence[float]]]) -> None:
    """Draw for every group a bar over each name: mean and sample standard deviation of its values, in percent."""
    width = 0.8 / len(groups)
    for i, (label, cells) in enumerate(groups.items()):
        places = np.arange(len(names)) + width * (i - (len(groups) - 1) / 2)
        means, spreads = _in_percent(cells)
        axes.bar(places, means, width, yerr=spreads, label=label)
    axes.set_xticks(range(len(names)), names)
    axes.legend(frameon=False, fontsize=8)


def line(axes: Axes, places: Sequence[float], cells: Sequence[Sequence[float]], label: str, **style: Any) -> None:
    """Draw a line through the means of `cells`, in percent, with their sample standard deviations."""
    means, spreads = _in_percent(cells)
    axes.errorbar(places, means, spreads, marker="o", markersize=3, label=label, **style)


def _in_percent(cells: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    means = [100 * np.mean(cell) if len(cell) else np.nan for cell in cells]
    return means, [100 * np.std(cell, ddof=1) if len(cell) > 1 else 0.0 for cell in cells]


def families(runs: Iterable[dict]) -> list[str]:
    """Return `overall` and the families that any run was measured on."""
    names = {name for run in runs for name in run["accuracy"]} - {"overall"}
    return ["overall", *sorted(names)]
