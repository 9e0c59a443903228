"""What a run found: agreement of the losses, tables for people, a record for programs."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from iprm_kernels.backends import reasons

AGREED_STEPS = 20
PRIORS = (
    "Priors answer without looking, with the most frequent training answer: of all questions (answer), of "
    "the family (family), of the family and the last function of the program (kind)."
)


def relative_difference(a: float, b: float) -> float:
    """Return |a - b| over the larger of the two; infinite where one is no number."""
    if a != a or b != b:
        return float("inf")
    return abs(a - b) / max(abs(a), abs(b), 1e-30)


def agreement(first: Sequence[float], second: Sequence[float], steps: int = AGREED_STEPS) -> float:
    """Return the largest relative difference of two runs' losses over their first `steps` steps."""
    return max(relative_difference(a, b) for a, b in zip(first[:steps], second[:steps], strict=True))


def device_name(device: torch.device) -> str:
    """Return the device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU ({torch.backends.cpu.get_cpu_capability()})"


def kernels(device: torch.device, dtype: torch.dtype, backend: str) -> str:
    """Return the backend that the fast module's kernels run on."""
    usable = [name for name, reason in reasons(device, dtype).items() if reason is None]
    return usable[0] if backend == "auto" else backend


def conditions(device: torch.device, dtype: torch.dtype, backend: str) -> dict[str, Any]:
    """Return what figures depend on besides the settings: versions, device, backend, threads, dtype."""
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": str(device),
        "device_name": device_name(device),
        "kernels": kernels(device, dtype, backend),
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
    }


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def accuracy_table(record: dict[str, Any]) -> Table:
    """Return validation accuracy by family, each variant beside the priors."""
    table = Table(title=f"Validation accuracy, % ({record['sizes']['val_questions']} questions)")
    table.add_column("family", no_wrap=True)
    columns = {f"{name}\nprior": prior for name, prior in record["priors"].items()} | record["accuracy"]
    for name in columns:
        table.add_column(name, justify="right")
    for family in record["accuracy"]["reference"]:
        table.add_row(
            family,
            *(_percent(column[family]) for column in columns.values()),
            end_section=family == "overall",
        )
    return table


def cost_table(record: dict[str, Any]) -> Table:
    """Return loss, speed and memory of each variant."""
    c = record["conditions"]
    table = Table(title=f"Cost ({c['device_name']}, {c['threads']} threads, {c['dtype']}, {c['kernels']} kernels)")
    table.add_column("")
    rows = {"mean loss, last 20 steps": "{final_loss:.4f}", "steps per second": "{steps_per_second:.2f}"}
    for variant in record["cost"]:
        table.add_column(variant, justify="right")
    for title, form in rows.items():
        table.add_row(title, *(form.format(**cost) for cost in record["cost"].values()))
    for name in record["cost"]["reference"]["peak_memory"]:
        peaks = [cost["peak_memory"][name] for cost in record["cost"].values()]
        table.add_row(f"extra peak memory, {name}", *(f"{peak / 2**20:.1f} MiB" for peak in peaks))
    return table


def verdict(record: dict[str, Any]) -> str:
    """Return one line on whether the losses agree."""
    found = record["agreement"]
    line = (
        f"largest relative difference of the losses over the first {found['steps']} steps: "
        f"{found['relative_difference']:.2e} (tolerance {found['tolerance']:.0e})"
    )
    return line if found["agrees"] else f"{line}: the two modules disagree beyond float rounding"


def show(console: Console, record: dict[str, Any]) -> None:
    """Print the tables and the verdict."""
    console.print(accuracy_table(record))
    console.print(PRIORS, style="dim")
    console.print(cost_table(record))
    console.print(verdict(record), style="green" if record["agreement"]["agrees"] else "bold red")
