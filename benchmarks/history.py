"""Files a finished benchmark among the records of its machine: `python -m benchmarks.history results/benchmark.json`.

What could tell whose machine it was, the host's name above all, is left out: see benchmarks/records/README.md.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from datetime import datetime
from pathlib import Path

RECORDS = Path(__file__).resolve().parent / "records"
MACHINE = ("machine", "system", "release", "python_version", "python_implementation")
COMMIT = ("id", "time", "dirty")
"""Of what pytest-benchmark notes, all that is kept; names of hosts, branches and folders are not."""


def public(content: dict) -> dict:
    """The content without what is private."""
    kept = {name: content[name] for name in ("datetime", "version", "benchmarks")}
    kept["machine_info"] = {name: content["machine_info"][name] for name in MACHINE}
    kept["commit_info"] = {name: content["commit_info"][name] for name in COMMIT}
    return kept


def place(content: dict) -> Path:
    """Where it belongs in the records: PROCESSOR-CORES/DATE-TIME-COMMIT.json."""
    machine = content["benchmarks"][0]["extra_info"]["machine"]
    name = re.sub(r"\((?:R|TM)\)", "", f"{machine['device']} {machine['cores']} cores")
    folder = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    when = datetime.fromisoformat(content["datetime"]).strftime("%Y%m%d-%H%M%S")
    return Path(folder, f"{when}-{content['commit_info']['id'][:12]}.json")


def add(source: Path, records: Path = RECORDS) -> Path:
    """Write the public part of a benchmark's JSON among the records; the file written.

    Raises:
        ValueError: nothing was measured, something was refused, or it was measured between two commits.
    """
    content = json.loads(source.read_text())
    if not content["benchmarks"]:
        raise ValueError(f"{source}: expected results of `pytest benchmarks`, found none")
    if content.get("refused"):
        raise ValueError(f"{source}: expected a run that refused no variant, got {len(content['refused'])} refused")
    if content["commit_info"].get("dirty", True):
        raise ValueError(f"{source}: expected a run of a commit, got one of changes beyond it")
    target = records / place(content)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(public(content), indent=1) + "\n")
    return target


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.history", description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path, help="what pytest wrote to --benchmark-json")
    try:
        print(add(parser.parse_args(arguments).json))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
