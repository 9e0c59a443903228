"""The Triton backend under the oldest Triton that it serves and the newest, each installed beside the environment's
own.

Of each: the tests that the interpreter runs in a minute or two, and a part of the table of what is compiled ahead of
time. Prints a table; fails where any of it does, or could not be installed.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = {"oldest": ["triton==3.4.0", "numpy<2.4"], "newest": ["triton"]}
"""Triton 3.4's interpreter makes numbers of arrays of one element, which numpy 2.4 refuses."""
TESTS = ROOT / "tests/iprm_kernels/backends/triton"
INTERPRETED = ("test_contract.py", "test_triton_planted.py")
TABLE = ["--arch", "80", "90", "gfx942", "gfx950", "--dtype", "bfloat16", "--width", "256"]
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(str(TESTS / name) for name in INTERPRETED)]
RUNS = {
    "interpreter": (PYTEST, {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}),
    "ahead of time": ([sys.executable, "-m", "benchmarks.ahead_of_time", *TABLE], {}),
}


@dataclass(frozen=True)
class Run:
    """What one of RUNS came to under one version."""

    version: str
    what: str
    ok: bool
    result: str  # in a line
    said: str


def install(requirements: list[str], folder: Path) -> str | None:
    """Put them, and nothing that they need, into the folder; -> why that is impossible, or None."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--no-deps", "--target", str(folder)]
    done = subprocess.run([*command, *requirements], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["pip says nothing"])[-1]


def version_in(folder: Path) -> str:
    """That of the Triton which a run finds there."""
    command = [sys.executable, "-c", "import triton; print(triton.__version__, triton.__file__)"]
    done = subprocess.run(command, env=environment(folder), capture_output=True, text=True, check=True)
    version, file = done.stdout.split()
    assert Path(file).is_relative_to(folder), f"{file} is not in {folder}"
    return version


def environment(folder: Path, **more: str) -> dict[str, str]:
    """In which what lies in the folder comes first."""
    names = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return names | {"PYTHONPATH": str(folder)} | more


def run(version: str, folder: Path, what: str) -> Run:
    """One of RUNS with what lies in the folder; tests that are all skipped are no success."""
    command, more = RUNS[what]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(folder, **more), capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if re.search(r"\d+ passed|\d+ compiled|^not compiled", line)]
    ok = done.returncode == 0 and bool(re.search(r"[1-9]\d* (passed|compiled)", " ".join(lines)))
    return Run(version, what, ok, "; ".join(lines), "" if ok else done.stdout[-8000:] + done.stderr[-2000:])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "build/triton", help="default %(default)s")
    folder = parser.parse_args(arguments).folder.resolve()
    print("| Triton | | result |\n| --- | --- | --- |", flush=True)
    found = []
    for name, requirements in REQUIREMENTS.items():
        if reason := install(requirements, folder / name):
            found.append(Run(" ".join(requirements), "not installed", False, reason, ""))
            print(f"| {found[-1].version} | not installed, nothing run | {reason} |", flush=True)
            continue
        version = version_in(folder / name)
        with ThreadPoolExecutor(2) as pool:  # each takes one core
            for done in pool.map(functools.partial(run, version, folder / name), RUNS):
                found.append(done)
                print(f"| {version} | {done.what} | {'' if done.ok else '**fails** '}{done.result} |", flush=True)
    for failure in (r for r in found if r.said):
        print(f"\n{failure.version} {failure.what}\n{failure.said}")
    print(f"\n{sum(r.ok for r in found)} of {len(found)} passed")
    return 0 if all(r.ok for r in found) else 1


if __name__ == "__main__":
    sys.exit(main())
