"""What a training says while it runs: TensorBoard's files, a progress bar, and a line an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from iprm_kernels.extras import extra


def progress_bar(console: Console, **options: Any) -> Progress:
    """Return a bar whose tasks have a description and a `note`; `options` are those of rich's."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, TextColumn("{task.fields[note]}"), console=console, **options)


class Logs:
    """Writes below `folder` and to `console`.

    Training goes on after step `done` of `steps`: what TensorBoard was told of later steps, before the process was
    killed, no longer counts.
    """

    def __init__(self, folder: Path, console: Console, steps: int, done: int):
        with extra("train"):
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and nothing else needs it

        self.writer = SummaryWriter(folder, purge_step=done + 1)
        self.progress = progress_bar(console, refresh_per_second=2, disable=console.quiet)
        if done:
            console.print(f"going on after step {done}")
        self.task = self.progress.add_task("training", total=steps, completed=done, note="")

    def __enter__(self) -> Logs:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        self.writer.close()

    def steps(self, step: int, loss: float, norm: float, rate: float) -> None:
        """Tell the mean loss and gradient norm of the last steps, and the rate of the last one, `step`."""
        for name, value in (("loss", loss), ("gradient_norm", norm), ("lr", rate)):
            self.writer.add_scalar(f"training/{name}", value, step)
        self.progress.update(self.task, completed=step, note=f"loss {loss:.4f}")

    def evaluation(self, step: int, accuracy: dict[str, float]) -> None:
        """Tell the validation accuracy after `step`, overall and by family."""
        for family, share in accuracy.items():
            self.writer.add_scalar(f"accuracy/{family}", share, step)
        self.progress.console.print(f"step {step}: validation accuracy {100 * accuracy['overall']:.2f} %")

    def flush(self) -> None:
        """Bring what was told so far into the files, before a checkpoint says that it was."""
        self.writer.flush()
