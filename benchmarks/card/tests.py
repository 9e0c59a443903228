"""The tests that run on a device, under pytest: python -m benchmarks.card.tests ENTRIES [pytest's arguments].

Of the folders named, those tests that ask for the fixture `device` and neither for the interpreter nor for the CPU; of
files, all. Each outcome is noted at once. Tests that have one are left out; one that was broken off comes last, so that
a test that hangs holds up no other. After an error that CUDA does not recover from, all that follows in a process
fails: then it ends, to be started again.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from benchmarks.card.record import AGAIN, BAD, LOST, MISSING, STARTED, done, entries, note

ELSEWHERE = {"on_host", "interpreted"}
"""Fixtures of tests that run on the CPU only."""


class Outcomes:
    """A plugin of pytest that notes outcomes, and goes on from those of an earlier run."""

    def __init__(self, path: Path):
        self.path, self.known = path, entries(path)

    def pytest_collection_modifyitems(self, config, items):
        left = [item for item in items if wanted(item) and not done(self.known, item.nodeid)]
        config.hook.pytest_deselected(items=[item for item in items if item not in left])
        items[:] = sorted(left, key=lambda item: item.nodeid in self.known)

    def pytest_collectreport(self, report):
        if report.failed:
            note(self.path, report.nodeid or "collection", BAD[0], message=last_line(report))

    def pytest_runtest_logstart(self, nodeid):
        note(self.path, nodeid, STARTED)

    def pytest_runtest_logreport(self, report):
        """Of the three phases of a test, the one that decides."""
        if report.failed or (report.when == "call" and not report.skipped):
            facts = {"message": last_line(report)} if report.failed else {}
            note(self.path, report.nodeid, report.outcome, seconds=round(report.duration, 2), **facts)
        elif report.skipped:
            note(self.path, report.nodeid, report.outcome, message=reason(report))
        if report.failed and LOST.search(str(report.longrepr)):
            import pytest

            pytest.exit("the process has lost its device", returncode=AGAIN)


def wanted(item) -> bool:
    """Whether a test runs on the device."""
    fixtures = set(item.fixturenames)
    return not ELSEWHERE & fixtures and (named(item) or "device" in fixtures)


def named(item) -> bool:
    """Whether the test's file is an argument."""
    return any(Path(argument.partition("::")[0]).suffix == ".py" for argument in item.config.args)


def last_line(report) -> str:
    """What failed, in one line."""
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = [line for line in str(crash.message if crash else report.longrepr).splitlines() if line.strip()]
    return lines[0 if crash else -1].strip()[:300] if lines else ""


def reason(report) -> str:
    """Why a test was skipped."""
    return report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else last_line(report)


def main(path: Path, arguments: list[str]) -> int:
    if importlib.util.find_spec("pytest") is None:
        print("pytest is not installed")
        return MISSING
    import pytest

    options = ["-q", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    status = pytest.main([*options, *arguments], plugins=[Outcomes(path)])
    # What failed is noted; that all had been run before is no fault.
    return 0 if status in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED) else int(status)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
