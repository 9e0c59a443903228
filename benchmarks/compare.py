"""Is this checkout slower than another commit? Both are built, judged and timed in one interleaved run.

    python -m benchmarks.compare HEAD~1
    python -m benchmarks.compare v0.1.0 --num-ops 6 --dtype bfloat16 --measured training --threshold 3

The commit is built in a worktree under build/compare, with this checkout's benchmarks, so that both do the same work.
Each side is a process that is kept while a case is timed; the two are asked in turn, and the idle one sleeps. A fresh
process a call would time its start, and one for all would have to hold two builds of one package. As where a process
happens to lie in memory can make it faster or slower throughout, a case is timed by several pairs of processes.

Rounds give ratios of seconds, this checkout's to the commit's. Each pair gives an interval that holds the median ratio
with 95 %, from the order of its ratios alone (the sign test). A case is slower where the intervals of all pairs lie
beyond the threshold. The exit status is 1 where a case is slower, or wrong and so not timed, and 2 where the commit
cannot be built.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from itertools import accumulate
from math import comb
from pathlib import Path
from statistics import median

from benchmarks import plan
from benchmarks.measure import Effort, interleave
from benchmarks.variants import fast_variants
from benchmarks.workload import STEPS

ROOT = Path(__file__).resolve().parents[1]
CONFIDENCE = 0.95
FEWEST = 11
"""Rounds of a pair: its interval then leaves out the least and the greatest ratio."""


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def built(base: str) -> Path:
    """A worktree of the commit with its kernels, built once.

    Raises:
        subprocess.CalledProcessError: no such commit, or it does not build.
    """
    commit = git("rev-parse", "--verify", f"{base}^{{commit}}")
    tree = ROOT / "build" / "compare" / commit[:12]
    if not tree.exists():
        git("worktree", "add", "--force", "--detach", str(tree), commit)  # force: clean leaves the name registered
    done = tree / ".built"
    if not done.exists():
        subprocess.run([sys.executable, "setup.py", "build_ext", "--inplace"], cwd=tree, check=True, stdout=sys.stderr)
        done.touch()
    shutil.copytree(ROOT / "benchmarks", tree / "benchmarks", dirs_exist_ok=True)
    return tree


class Side:
    """A process with the package of a tree, which is asked and waited for.

    Raises:
        RuntimeError: the process ended, or took its package from elsewhere.
    """

    def __init__(self, tree: Path):
        self.tree = tree
        environment = os.environ | {
            "PYTHONPATH": str(tree),
            "OMP_WAIT_POLICY": "PASSIVE",
        }  # spinning disturbs the other
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.side"],
            cwd=tree, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        if Path(found := self._answer()) != tree:
            raise RuntimeError(f"{tree}: expected the package of this folder, got that of {found}")

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.tree}: its process ended with exit status {self._process.wait()}")
        return json.loads(line)

    def ask(self, question: dict | None):
        """The answer to a question of `benchmarks.side`."""
        print(json.dumps(question), file=self._process.stdin, flush=True)
        return self._answer()

    def prepare(self) -> None:
        """The process prepares each call itself."""

    def __call__(self) -> float:
        """Seconds of one call there."""
        return self.ask(None)


def interval(ratios: list[float]) -> tuple[float, float]:
    """Holds the median with `CONFIDENCE` at least, whatever the distribution; all of it where ratios are few."""
    ordered, n = sorted(ratios), len(ratios)
    outside = accumulate(2 * comb(n, cut) / 2**n for cut in range(n // 2))
    cut = max(0, sum(share <= 1 - CONFIDENCE for share in outside) - 1)
    return ordered[cut], ordered[n - 1 - cut]


@dataclass(frozen=True)
class Comparison:
    """Seconds of both sides in every round of every pair of processes."""

    base: list[list[float]]
    head: list[list[float]]

    @property
    def ratios(self) -> list[list[float]]:
        """This checkout's seconds to the commit's, of every pair."""
        return [[h / b for b, h in zip(*pair, strict=True)] for pair in zip(self.base, self.head, strict=True)]

    @property
    def ratio(self) -> float:
        return median(ratio for pair in self.ratios for ratio in pair)

    @property
    def interval(self) -> tuple[float, float]:
        """From the lowest to the highest end of all pairs' intervals."""
        lows, highs = zip(*map(interval, self.ratios), strict=True)
        return min(lows), max(highs)

    def verdict(self, threshold: float) -> str:
        """ "slower" or "faster" by more than the threshold, a share; "same" within it; "unclear" between."""
        low, high = self.interval
        if low > 1 + threshold:
            return "slower"
        if high < 1 / (1 + threshold):
            return "faster"
        return "same" if 1 / (1 + threshold) <= low and high <= 1 + threshold else "unclear"


def compare(base: Path, head: Path, case: plan.Case, effort: Effort, pairs: int) -> Comparison | str:
    """Both sides of a case, or why it is not timed."""
    seconds = {"base": [], "head": []}
    for pair in range(pairs):
        with Side(base) as first, Side(head) as second:
            sides = {"base": first, "head": second}
            question = {"variant": case.variant, "point": case.point.as_dict(), "step": case.measured}
            for name, side in sides.items():
                answer = side.ask(question | {"judge": pair == 0})
                if answer["status"] != "ok":
                    return f"{name} is {answer['status']}: {answer['message']}"
            for name, samples in interleave(sides, effort, timed=Side.__call__).items():
                seconds[name].append(samples)
    return Comparison(**seconds)


def row(case: plan.Case, found: Comparison | str, threshold: float) -> tuple[str, bool]:
    """A line of the table, and whether the case passes."""
    if isinstance(found, str):
        return f"| {case.label} | | | | | **not timed**, {found} |", False
    base, head = (1e3 * median(s for pair in side for s in pair) for side in (found.base, found.head))
    low, high = found.interval
    verdict = found.verdict(threshold)
    return f"| {case.label} | {base:.2f} | {head:.2f} | {found.ratio:.3f} | {low:.3f} to {high:.3f} | {verdict} |", (
        verdict != "slower"
    )


def cases_of(options) -> list[plan.Case]:
    """What is compared: by default the first fused backend, at the sizes of the short benchmark."""
    names = options.iprm_variants.split(",") if options.iprm_variants else None
    return [
        plan.Case(point, step, variant)
        for point in plan.points_of(options)
        for step in STEPS
        if step in options.iprm_measured.split(",")
        for variant in names or fast_variants(point)[:1]
    ]


def arguments_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", help="the commit to compare with")
    parser.add_argument("--threshold", type=float, default=5.0, help="per cent; default 5")
    parser.add_argument("--pairs", type=int, default=3, help="pairs of processes that time a case; default 3")
    plan.add_options(parser.add_argument_group(plan.TITLE).add_argument)
    parser.set_defaults(iprm_rounds=FEWEST, iprm_short=True)
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = arguments_parser().parse_args(arguments)
    threshold = options.threshold / 100
    try:
        base = built(options.base)
    except subprocess.CalledProcessError as error:
        print(f"error: {options.base}: {(error.stderr or str(error)).strip().splitlines()[-1]}", file=sys.stderr)
        return 2
    print(f"| case | {options.base}, ms | here, ms | ratio | its interval | beyond {options.threshold:g} % |")
    print("| :-- | --: | --: | --: | --: | :-- |", flush=True)
    effort, passed = Effort(fewest=options.iprm_rounds, seconds=options.iprm_seconds or 5.0), True
    for case in cases_of(options):
        found = compare(base, ROOT, case, effort, options.pairs)
        line, good = row(case, found, threshold)
        print(line, flush=True)
        passed &= good
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
