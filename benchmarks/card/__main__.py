"""The command line, see benchmarks.card."""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import benchmarks.card
from benchmarks.card import record as records
from benchmarks.card.parts import LIMIT, Part, parts_of
from benchmarks.card.run import ABSENT_PART, DONE, ROOT, Run, public

LEAST = 45.0
"""Seconds left of --minutes under which no part begins."""
PAGES, DRY = ROOT / "docs" / "cards", ROOT / "build" / "card"


def facts() -> dict[str, Any]:
    """What `benchmarks.card.facts` finds, in a process of its own: this one holds no device.

    Raises:
        SystemExit: torch or the package cannot be imported.
    """
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.card.facts"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise SystemExit(f"error: {sys.executable} cannot run this\n{run.stderr.strip()}")
    return json.loads(run.stdout.splitlines()[-1])


def name_of(device: dict[str, Any]) -> str:
    """`nvidia-h200`; of a processor `dry-run`."""
    return re.sub(r"[^a-z0-9]+", "-", device["name"].lower()).strip("-") if device["kind"] == "cuda" else "dry-run"


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.card", description=benchmarks.card.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--parts", metavar="LIST", help="default: all; --list names them")
    parser.add_argument("--again", action="store_true", help="also those that are finished, from the beginning")
    parser.add_argument("--minutes", type=float, help="of this call, all parts together; default: no limit")
    parser.add_argument("--limit", type=float, default=LIMIT, help="minutes of a part; default %(default)g")
    parser.add_argument("--out", type=Path, help="folder of record and page; default docs/cards, dry build/card")
    parser.add_argument("--list", action="store_true", help="name the parts, and run none")
    return parser


def chosen(options: argparse.Namespace, parts: list[Part]) -> list[Part]:
    """The parts that are asked for.

    Raises:
        SystemExit: there is no part of a name.
    """
    if not options.parts:
        return parts
    known = {part.name: part for part in parts}
    if unknown := set(options.parts.split(",")) - known.keys():
        raise SystemExit(f"error: --parts: expected some of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    return [known[name] for name in options.parts.split(",")]


def write_page(run: Run) -> Path:
    """The page beside the record."""
    from benchmarks.card.page import page  # imports torch, which is for the parts

    target = run.path.with_suffix(".md")
    records.write(target, page(run.record))
    return target


def perform(run: Run, parts: list[Part], options: argparse.Namespace) -> int:
    """Run what is not finished while there is time; the exit status."""
    until = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    waiting = []
    for part in run.left(parts):
        seconds = min(60 * options.limit, until - time.monotonic())
        if seconds < min(LEAST, 60 * options.limit):
            waiting.append(part.name)
            continue
        print(f"{part.name}: {part.what}, {seconds / 60:.1f} minutes at most", flush=True)
        found = run.part(part, seconds)
        print(f"{part.name}: {found['outcome']} {found['message']} ({found['seconds']:.0f} s)", flush=True)
        write_page(run)
    if waiting:
        print(f"left for another call: {', '.join(waiting)}")
    known = [run.record["parts"][part.name]["outcome"] for part in parts if part.name in run.record["parts"]]
    if any(outcome not in (DONE, ABSENT_PART) for outcome in known):
        return 1
    return 3 if waiting else 0


def begun(run: Run, found: dict[str, Any], options: argparse.Namespace, parts: list[Part]) -> None:
    """Put into the record what it is of.

    Raises:
        SystemExit: it has parts that other versions found, which do not belong on one page.
    """
    for part in parts if options.again else ():
        run.forget(part)
    other = {name: run.record.get(name) for name in ("device", "versions")}
    if run.record["parts"] and other != {name: found[name] for name in other}:
        raise SystemExit(f"error: {public(str(run.path))} is of {other}: --again begins anew, --out goes elsewhere")
    run.record |= {"dry": found["device"]["kind"] != "cuda", **found}
    run.save()


def stop(*_: object) -> None:
    """Ends the part that runs, too."""
    raise KeyboardInterrupt


def main(given: list[str] | None = None) -> int:
    options = arguments().parse_args(given)
    found = facts()
    device = found["device"]["kind"]
    parts = parts_of(device)
    if options.list:
        print("\n".join(f"{part.name:<16} {part.what}" for part in parts))
        return 0
    wanted = chosen(options, parts)
    name = name_of(found["device"])
    run = Run((options.out or (PAGES if device == "cuda" else DRY)).resolve() / f"{name}.json", DRY / name)
    begun(run, found, options, wanted)
    signal.signal(signal.SIGTERM, stop)
    status = perform(run, wanted, options)
    print(f"{public(str(run.path))} and {write_page(run).name}")
    return status


if __name__ == "__main__":
    sys.exit(main())
