"""Tables and figures of an experiment: shown on a terminal, written as Markdown and PNG."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.table import Table as RichTable

if TYPE_CHECKING:
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


def families(runs: Iterable[dict]) -> list[str]:
    """Return `overall` and the families that any run was measured on."""
    names = {name for run in runs for name in run["accuracy"]} - {"overall"}
    return ["overall", *sorted(names)]
