"""One side of a comparison: times the package that it was started with, one call at a time, when asked.

    python -m benchmarks.side

Questions and answers are JSON, one a line, on standard input and output. The first line says where the package lies.
{"variant", "point", "step", "judge"} makes a workload, judged by the gate where that is true, and is answered by
{"status", "message"}; null runs the workload once and is answered by the seconds. It ends with its input.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path

import torch

import iprm
from benchmarks.measure import judged, stopwatch
from benchmarks.points import Point
from benchmarks.workload import Workload


def opened(question: dict) -> tuple[Workload | None, dict]:
    """The workload, if it may be timed, and what became of it."""
    name, point, step = question["variant"], Point(**question["point"]), question["step"]
    torch.set_num_threads(point.threads)
    if not question["judge"]:
        return Workload(name, point, step), {"status": "ok", "message": ""}
    workloads, outcomes = judged([name], point, step)
    return workloads.get(name), {"status": outcomes[name].status, "message": outcomes[name].message}


def seconds(workload: Workload) -> float:
    """Of one call."""
    workload.prepare()
    return stopwatch(workload.point.device)(workload)


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    print(json.dumps(str(Path(iprm.__file__).parents[1])), file=answers)
    workload = None
    gc.disable()
    for line in sys.stdin:
        question = json.loads(line)
        if question is None:
            answer = seconds(workload)
        else:
            workload, answer = opened(question)
            gc.collect()
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
