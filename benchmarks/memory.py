"""Peak extra memory of a step, in a process of its own: `python -m benchmarks.memory POINT VARIANT STEP`.

POINT is JSON, STEP "forward" or "training". Extra means above what is there when the step starts: the libraries, the
model, the inputs, their gradients, and what one earlier step left behind. On a GPU the allocator's own peak; on Linux
the peak resident set, reset just before the step; elsewhere the growth of the process's peak, warm-up included.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.points import Point
from benchmarks.workload import Workload

ROOT = Path(__file__).resolve().parents[1]
_RESET_PEAK = "5"  # proc(5): /proc/pid/clear_refs
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}
"""glibc then gives freed blocks back at once. By itself it raises both thresholds as it runs, and a freed
block that it keeps looks resident before the step, which hides what the step takes."""


@dataclass(frozen=True)
class Usage:
    """`peak` extra bytes, the `seconds` of the measured step, and how it was measured."""

    peak: int
    seconds: float
    method: str


def _status(field: str) -> int:
    """A size in /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def _trim() -> None:
    """Give freed memory back to the system."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)


def _reset_peak() -> bool:
    """Set the process's peak resident set to its present one; false where the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
        return _status("VmHWM") > 0
    except (OSError, KeyError):
        return False


def _highest() -> int:
    """The peak resident set since the process began, in bytes."""
    import resource  # of Unix

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _seconds(call: Callable, prepare: Callable) -> float:
    prepare()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def usage_on_gpu(call: Callable, prepare: Callable = lambda: None) -> Usage:
    """Bytes the caching allocator held at most during the second call."""
    _seconds(call, prepare)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    seconds = _seconds(lambda: (call(), torch.cuda.synchronize()), prepare)
    return Usage(torch.cuda.max_memory_allocated() - before, seconds, "max_memory_allocated")


def usage_on_cpu(call: Callable, prepare: Callable = lambda: None) -> Usage:
    """Bytes the resident set grew at most during the second call."""
    highest = _highest()
    _seconds(call, prepare)
    _trim()
    if not _reset_peak():
        seconds = _seconds(call, prepare)
        return Usage(_highest() - highest, seconds, "ru_maxrss, warm-up included")
    before = _status("VmRSS")
    seconds = _seconds(call, prepare)
    return Usage(max(0, _status("VmHWM") - before), seconds, "VmHWM - VmRSS")


def usage_here(name: str, point: Point, measured: str = "training") -> Usage:
    """A step of the variant in this process."""
    torch.set_num_threads(point.threads)
    step = Workload(name, point, measured)
    measure = usage_on_gpu if torch.device(point.device).type == "cuda" else usage_on_cpu
    return measure(step, step.prepare)


def usage_in_fresh_process(name: str, point: Point, measured: str = "training") -> Usage:
    """A step of the variant in a process of its own.

    Raises:
        RuntimeError: the process failed; ends with what it printed last.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | ALLOCATOR | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "benchmarks.memory", json.dumps(point.as_dict()), name, measured]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"memory of {name}: exit status {done.returncode}\n{done.stderr[-2000:]}")
    return Usage(**json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    point, variant, measured = Point(**json.loads(sys.argv[1])), *sys.argv[2:]
    print(json.dumps(dataclasses.asdict(usage_here(variant, point, measured))))
