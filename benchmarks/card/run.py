"""Runs parts, each as a process with a limit, and keeps the record."""

from __future__ import annotations

import datetime
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.card import record as records
from benchmarks.card.parts import Part
from benchmarks.card.record import ABSENT, AGAIN, BAD, GOOD, MISSING, STARTED

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = ("TRITON_INTERPRET", "IPRM_CUDA_ON_HOST")
"""Variables that take the kernels away from the device."""
DONE, FAILED, CUT, RUNNING, ABSENT_PART = "done", "failed", "out of time", "running", "cannot run here"
FINISHED = (DONE, FAILED)
TICK = 10.0
"""Seconds after which the record of a part that runs is written again, so that little is lost with the machine."""
TAIL = 3000
"""Characters of the output that are kept of what failed."""


def commit() -> dict[str, Any]:
    """The commit, and whether there are changes beyond it; nothing where this is no checkout."""
    found = {}
    for name, arguments in {"id": ("rev-parse", "HEAD"), "dirty": ("status", "--porcelain", "-uno")}.items():
        run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
        if run.returncode:
            return {}
        found[name] = run.stdout.strip() if name == "id" else bool(run.stdout.strip())
    return found


def command_of(part: Part, path: Path) -> list[str]:
    module, *arguments = part.command
    return [sys.executable, "-m", f"benchmarks.card.{module}", str(path), *arguments]


def end(process: subprocess.Popen) -> None:
    """The process and all that it started."""
    for signal_, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, signal_)
            process.wait(patience)
        except ProcessLookupError:
            pass
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def public(text: str) -> str:
    """Without the names of folders that tell whose machine it is."""
    return text.replace(str(ROOT), ".").replace(str(Path.home()), "~")


class Run:
    """One part at a time, each into the record at `path`.

    Args:
        path: of the record.  work: the folder of the files of entries and of logs.
        command: that of a part, from it and the path of its entries.
    """

    def __init__(self, path: Path, work: Path, command: Callable[[Part, Path], Sequence[str]] = command_of):
        self.path, self.work, self.command = path, work, command
        self.record = records.load(path)

    def save(self) -> None:
        records.save(self.path, self.record)

    def left(self, parts: list[Part]) -> list[Part]:
        """Those that are not finished."""
        known = self.record["parts"]
        return [part for part in parts if known.get(part.name, {}).get("outcome") not in FINISHED]

    def forget(self, part: Part) -> None:
        """Run it as if for the first time."""
        self.record["parts"].pop(part.name, None)
        self.entries(part).unlink(missing_ok=True)

    def entries(self, part: Part) -> Path:
        return self.work / f"{part.name}.jsonl"

    def note(self, part: Part, **facts: Any) -> None:
        """Put what is known of a part into the record."""
        found = list(records.entries(self.entries(part)).values())
        self.record["parts"].setdefault(part.name, {}).update(facts, entries=found)
        self.save()

    def part(self, part: Part, seconds: float) -> dict[str, Any]:
        """Run a part, or what is left of it, for so long at most; what the record has of it."""
        before = self.record["parts"].get(part.name, {})
        path, spent = self.entries(part), before.get("seconds", 0.0)
        if not before:
            path.unlink(missing_ok=True)  # of a record that is no more
        records.restore(path, before.get("entries", ()))
        date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        self.note(part, what=part.what, outcome=RUNNING, date=date, commit=commit(), seconds=spent, message="", tail="")
        start, log = time.monotonic(), self.work / f"{part.name}.log"
        log.write_text("")
        while True:
            known = len(records.entries(path))
            status = self.process(part, path, log, seconds - (time.monotonic() - start))
            crashed = status is not None and (status < 0 or status == AGAIN)
            if crashed:
                self.blame(path, status)
            if not crashed or len(records.entries(path)) == known:
                break
        self.note(part, seconds=round(spent + time.monotonic() - start, 1), **self.judged(path, status, log))
        return self.record["parts"][part.name]

    def process(self, part: Part, path: Path, log: Path, seconds: float) -> int | None:
        """The exit status of the part's process, None where it was ended."""
        environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
        limit = time.monotonic() + seconds
        with log.open("a") as output:
            process = subprocess.Popen(
                self.command(part, path), cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            try:
                while (left := limit - time.monotonic()) > 0:
                    try:
                        return process.wait(min(TICK, left))
                    except subprocess.TimeoutExpired:
                        self.note(part)
                return None
            finally:
                end(process)

    def blame(self, path: Path, status: int) -> None:
        """What had been started when the process ended by itself has failed, and is not tried again."""
        for entry in records.entries(path).values():
            if entry["outcome"] == STARTED:
                records.note(path, entry["key"], BAD[0], message=f"its process ended with exit status {status}")

    def judged(self, path: Path, status: int | None, log: Path) -> dict[str, Any]:
        """Outcome and message of a part, and the end of its output where there is something to mend."""
        found = records.entries(path).values()
        bad, good = (sum(entry["outcome"] in kind for entry in found) for kind in (BAD, GOOD))
        output = public(log.read_text(errors="replace")).strip()
        if status == MISSING:
            return {"outcome": ABSENT_PART, "message": output.rpartition("\n")[2]}
        if status is None:
            open_ = [entry["key"] for entry in found if entry["outcome"] == STARTED]
            return {"outcome": CUT, "message": f"in {', '.join(open_)}" if open_ else "", "tail": output[-TAIL:]}
        if status:
            return {"outcome": FAILED, "message": f"exit status {status}", "tail": output[-TAIL:]}
        if bad:
            return {"outcome": FAILED, "message": f"{bad} failed", "tail": output[-TAIL:]}
        if not good:
            reasons = [entry.get("message", "") for entry in found if entry["outcome"] == ABSENT]
            return {"outcome": ABSENT_PART, "message": max(reasons, key=reasons.count, default="found nothing to run")}
        return {"outcome": DONE}
