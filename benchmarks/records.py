"""The records of a benchmark JSON: one for each case that was measured or refused."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from benchmarks.points import Point
from benchmarks.variants import COMPILED, is_peer

MEASURED = ("forward", "training", "memory")


@dataclass(frozen=True)
class Record:
    """What was found for one variant at one point; `value` in seconds or bytes, None where it was refused."""

    point: Point
    measured: str
    variant: str
    status: str
    message: str = ""
    value: float | None = None
    quartiles: tuple[float, float] | None = None
    rounds: int = 0
    error: float | None = None
    context: tuple[tuple[str, str], ...] = ()

    @property
    def compiled_baseline(self) -> bool:
        return self.variant.endswith(COMPILED) and not self.fused and not is_peer(self.variant)

    @property
    def device(self) -> str:
        return dict(self.context).get("Device", "")

    @property
    def fused(self) -> bool:
        return self.variant.startswith("fast[")


def _context(info: dict) -> tuple[tuple[str, str], ...]:
    """What the report states beside the sizes, as text."""
    machine, versions = info["machine"], info["versions"]
    found = {
        "Device": machine["device"],
        "Machine": f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}",
        "Products of float32": f"{machine['float32_products']} precision",
        "Versions": ", ".join(f"{name} {value}" for name, value in versions.items() if value),
        "Date": info["date"][:10],
    }
    return tuple(found.items())


def _measured(entry: dict) -> Record:
    info, stats = entry["extra_info"], entry["stats"]
    memory = info["measured"] == "memory"
    return Record(
        point=Point(**info["sizes"]),
        measured=info["measured"],
        variant=info["variant"],
        status="ok",
        value=info["memory"] if memory else stats["median"],
        quartiles=None if memory else (stats["q1"], stats["q3"]),
        rounds=stats["rounds"],
        error=info["gate"] and info["gate"]["error"],  # of another mechanism there is none
        context=_context(info),
    )


def _refused(entry: dict) -> Record:
    known = {field.name for field in fields(Record)}
    rest = {name: value for name, value in entry.items() if name in known}
    return Record(point=Point(**entry["sizes"]), **rest)


def load(path: Path) -> list[Record]:
    """All records of a file that pytest-benchmark wrote for these sweeps."""
    return of(json.loads(path.read_text()))


def of(content: dict) -> list[Record]:
    """All records of what such a file holds."""
    measured = [_measured(entry) for entry in content["benchmarks"] if "variant" in entry["extra_info"]]
    return measured + [_refused(entry) for entry in content.get("refused", [])]


def loads(path: Path) -> tuple[float, float] | None:
    """The lowest and highest load average that the cases saw."""
    entries = json.loads(path.read_text())["benchmarks"]
    found = [entry["extra_info"]["machine"]["load"] for entry in entries if "machine" in entry["extra_info"]]
    return (min(found), max(found)) if found else None


def grouped(records: Iterable[Record], over: str) -> dict[Point, list[Record]]:
    """Records that differ in the axis `over` alone; the key has the default there."""
    groups = defaultdict(list)
    for record in records:
        rest = record.point.as_dict()
        rest.pop(over)
        groups[Point(**rest)].append(record)
    return groups


def find(records: Iterable[Record], point: Point, measured: str, variant: str) -> Record | None:
    """The one record of a case, None where there is none."""
    return next((r for r in records if (r.point, r.measured, r.variant) == (point, measured, variant)), None)


def best_compiled(records: Iterable[Record], point: Point, measured: str) -> Record | None:
    """The best of torch.compile's results for PyTorch code at a point."""
    found = [r for r in records if (r.point, r.measured) == (point, measured) and r.compiled_baseline and r.value]
    return min(found, key=lambda record: record.value, default=None)


def ratio(baseline: Record | None, record: Record | None) -> float | None:
    """How many times faster, or smaller, than the baseline."""
    if baseline is None or record is None or not baseline.value or not record.value:
        return None
    return baseline.value / record.value


def variants_in(records: Iterable[Record]) -> list[str]:
    """The variants in the order they were measured in, plain before refused."""
    return list(dict.fromkeys(record.variant for record in records))


def unique(values: Iterable[str]) -> str:
    """Distinct values joined by commas."""
    return ", ".join(dict.fromkeys(values))
