"""Execution's share of what the cores can do at most: `python -m benchmarks.stage`.

The peak is that of a loop of multiply-adds in registers (`peak.c`), compiled for the same instructions and run on as
many threads, in the same rounds as the forward and the backward of the op. Counted are the products over pairs, 2
forward and 6 backward of 2·B·K·N·R² operations each; activations, softmax and pooling take time and count as nothing.
With AMX the op multiplies in tiles, which this loop does not: a share above 1 is then no error.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import torch

from benchmarks.conditions import device_name
from iprm_kernels.backends import cpu

SOURCE = Path(__file__).with_name("peak.c")
FLAGS = ("-O3", "-ffp-contract=fast", "-shared", "-fPIC")
INSTRUCTIONS = {"AVX512": ("-mavx512f",), "AVX2": ("-mavx2", "-mfma"), "DEFAULT": ()}
"""Those that the kernels may use, by `torch.backends.cpu.get_cpu_capability()`."""
REPEATS = 1_500_000
"""Some forty milliseconds."""


def peak_loop(folder: Path) -> ctypes.CDLL:
    """The loop, compiled.

    Raises:
        RuntimeError: no C compiler, or its complaint.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if not compiler:
        raise RuntimeError("the peak needs a C compiler, and none was found")
    library = folder / "peak.so"
    flags = (*FLAGS, *INSTRUCTIONS.get(torch.backends.cpu.get_cpu_capability(), ("-march=native",)))
    run = subprocess.run([compiler, *flags, str(SOURCE), "-o", str(library)], capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"the loop of multiply-adds does not compile:\n{run.stderr}")
    loop = ctypes.CDLL(str(library))
    loop.multiply_add.restype = ctypes.c_int64
    loop.multiply_add.argtypes = [ctypes.c_int64, ctypes.c_float, ctypes.POINTER(ctypes.c_float)]
    return loop


def peak(loop: ctypes.CDLL, pool: ThreadPoolExecutor, threads: int, repeats: int) -> float:
    """Operations a second of all threads together."""

    def run(_: int) -> int:
        return loop.multiply_add(repeats, 1e-3, ctypes.byref(ctypes.c_float()))

    start = time.perf_counter()
    operations = sum(pool.map(run, range(threads)))
    return operations / (time.perf_counter() - start)


def stage(B: int, K: int, N: int, D: int, R: int) -> dict[str, tuple[Callable[[], object], int]]:
    """Forward and backward of execution as the recurrence calls them, and the operations of their products."""
    torch.manual_seed(0)
    v, u, g, l, x = (torch.randn(B, n, width) for n, width in ((N, R), (N, R), (K, R), (K, R), (N, D)))
    C1a, C2, c2, w = torch.randn(R, R) / R**0.5, torch.randn(R, R) / R**0.5, torch.randn(R), torch.randn(R)
    pair = 2 * B * K * N * R**2
    rest = (None, 0, 0.0, 0.0, "elu")
    forms, both = cpu.pack(C1a, C2, N, False), cpu.pack(C1a, C2, N, True)
    _, a = cpu.execution(v, u, g, l, C1a, C2, c2, w, x, None, *rest, *forms)
    d = torch.randn(B, K, D)
    needs = [True] * 9
    return {
        "forward": (lambda: cpu.execution(v, u, g, l, C1a, C2, c2, w, x, None, *rest, *forms), 2 * pair),
        "backward": (
            lambda: cpu.execution_backward(d, None, v, u, g, l, C1a, C2, c2, w, x, a, *rest, needs, *both),
            6 * pair,
        ),
    }


def shares(threads: int, rounds: int, **sizes: int) -> dict[str, list[float]]:
    """Of each round: the peak in operations a second, and the shares of it."""
    torch.set_num_threads(threads)
    calls, found = stage(**sizes), {"peak": [], "forward": [], "backward": []}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(threads) as pool:
        loop = peak_loop(Path(folder))
        for index in range(rounds + 1):  # the first is not counted
            around = [peak(loop, pool, threads, REPEATS)]
            seconds = {}
            for name, (call, _) in calls.items():
                start = time.perf_counter()
                call()
                seconds[name] = time.perf_counter() - start
                around.append(peak(loop, pool, threads, REPEATS))
            if index == 0:
                continue
            most = max(around)
            found["peak"].append(most)
            for name, (_, operations) in calls.items():
                found[name].append(operations / seconds[name] / most)
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stage", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("batch", 8), ("num-ops", 6), ("visual-tokens", 196), ("dim", 512), ("reduced", 256)):
        parser.add_argument(f"--{name}", type=int, default=default, help="default %(default)s")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="default %(default)s")
    parser.add_argument("--rounds", type=int, default=9, help="default %(default)s")
    o = parser.parse_args(arguments)
    sizes = {"B": o.batch, "K": o.num_ops, "N": o.visual_tokens, "D": o.dim, "R": o.reduced}
    found = shares(o.threads, o.rounds, **sizes)
    text = ", ".join(f"{letter} = {size}" for letter, size in sizes.items())
    print(f"{device_name('cpu')}, {o.threads} threads, torch {torch.__version__}; {text}, float32")
    print(f"peak of multiply-adds: {median(found['peak']) / 1e9:.0f} GFLOP/s (median of {o.rounds} rounds)")
    for name in ("forward", "backward"):
        line = found[name]
        print(f"{name}: {median(line):.1%} of it ({min(line):.1%} to {max(line):.1%})")


if __name__ == "__main__":
    main()
