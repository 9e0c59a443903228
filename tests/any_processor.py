"""The numerical tests under the settings that change how a processor and its library sum.

Each run has another seed and another combination, in a process of its own. Prints a table; fails where any run does.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UNSET = "-"
AXES = {
    "ATEN_CPU_CAPABILITY": ("default", "avx2", UNSET),
    "IPRM_CPU_AMX": ("0", "1"),
    "IPRM_CPU_BFLOAT16": ("0", "1"),
    "OMP_NUM_THREADS": ("1", "2", "4"),
    "MKL_CBWR": ("COMPATIBLE", UNSET),
}
OF_PROCESSORS = {"IPRM_CPU_AMX": "amx_tile", "IPRM_CPU_BFLOAT16": "avx512_bf16"}
"""Settings that change something where a processor has what they are about."""


def applies(name: str) -> bool:
    """Whether a setting changes anything on this processor."""
    info = Path("/proc/cpuinfo")
    return name not in OF_PROCESSORS or (info.exists() and OF_PROCESSORS[name] in info.read_text())


def combinations() -> list[dict[str, str]]:
    """Every combination, in an order in which those beside each other differ in all that they can."""
    axes = {name: values for name, values in AXES.items() if applies(name)}
    every = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    stride = next(n for n in range(len(every) // 2 - 1, 0, -1) if math.gcd(n, len(every)) == 1)
    return [every[i * stride % len(every)] for i in range(len(every))]


@dataclass(frozen=True)
class Run:
    """What a run of the tests came to."""

    settings: dict[str, str]
    passed: int
    failed: int
    seconds: float
    said: str

    @property
    def ok(self) -> bool:
        return self.passed > 0 and self.failed == 0


def run(settings: dict[str, str], arguments: list[str]) -> Run:
    """The numerical tests with these variables; a run that breaks off counts as a failure."""
    environment = {name: value for name, value in os.environ.items() if name not in AXES}
    environment |= {name: value for name, value in settings.items() if value != UNSET}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "numerical", "-p", "no:cacheprovider", *arguments]
    start = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    counts = {what: int(n) for n, what in re.findall(r"(\d+) (passed|failed|error)", done.stdout[-2000:])}
    failed = counts.get("failed", 0) + counts.get("error", 0) or int(done.returncode != 0)
    said = done.stdout[-20000:] + done.stderr[-2000:] if failed else ""
    return Run(settings, counts.get("passed", 0), failed, time.monotonic() - start, said)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog="What is left over goes to pytest.")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=1)
    options, rest = parser.parse_known_args(arguments)
    names = ["IPRM_TEST_SEED", *combinations()[0]]
    print("| " + " | ".join([*names, "passed", "failed", "seconds"]) + " |")
    print("| --- " * (len(names) + 3) + "|", flush=True)
    found = []
    for index, settings in zip(range(options.runs), itertools.cycle(combinations()), strict=False):
        found.append(run({"IPRM_TEST_SEED": str(options.first_seed + index)} | settings, rest))
        last = found[-1]
        cells = [*(last.settings[name] for name in names), last.passed, last.failed, f"{last.seconds:.0f}"]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    for failure in (r for r in found if not r.ok):
        print(f"\n{failure.settings}\n{failure.said}")
    print(f"\n{sum(r.ok for r in found)} of {len(found)} runs passed")
    return 0 if all(r.ok for r in found) else 1


if __name__ == "__main__":
    sys.exit(main())
