"""What a run leaves: one record in JSON, and, while a part runs, a file of its entries, one a line.

An entry is one finding: the outcome of a test, a variant's times at a point, the kernels of a pass. It has a `key`, the
last of a key counts, and an `outcome`: STARTED until it is found, then one of GOOD, BAD or ABSENT.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

STARTED = "started"
GOOD, BAD, ABSENT = ("passed", "measured"), ("failed", "wrong"), "skipped"
MISSING, AGAIN = 77, 86
"""Exit statuses of a part: it cannot run here; it must go on in a fresh process."""

LOST = re.compile(r"CUDA error|CUDA driver error|illegal memory access|device-side assert|unspecified launch failure")
"""Words of what leaves a process without its device."""

Entry = dict[str, Any]


def note(path: Path, key: str, outcome: str, **facts: Any) -> None:
    """Append an entry, which a kill after it does not undo."""
    with path.open("a") as file:
        file.write(json.dumps({"key": key, "outcome": outcome, **facts}) + "\n")


def entries(path: Path) -> dict[str, Entry]:
    """The last entry of each key. A line that a kill cut short is none."""
    found: dict[str, Entry] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[entry["key"]] = entry
    return found


def restore(path: Path, known: Iterable[Entry]) -> None:
    """The file of a part that goes on: what another machine found counts where there is no such file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text("".join(json.dumps(entry) + "\n" for entry in known))
    elif not path.read_text().endswith("\n"):
        with path.open("a") as file:
            file.write("\n")  # the next entry is not joined to a line that was cut short


def done(found: dict[str, Entry], key: str) -> bool:
    """Whether a key's entry is more than started."""
    return key in found and found[key]["outcome"] != STARTED


def write(path: Path, text: str) -> None:
    """The whole file or, where this is broken off, the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    beside.write_text(text)
    os.replace(beside, path)


def load(path: Path) -> dict[str, Any]:
    """A record, or an empty one."""
    return json.loads(path.read_text()) if path.exists() else {"parts": {}}


def save(path: Path, record: dict[str, Any]) -> None:
    write(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
