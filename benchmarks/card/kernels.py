"""The times of single kernels beside their predictions: python -m benchmarks.card.kernels ENTRIES DEVICE BACKEND.

Each core and pass of benchmarks.roofline runs by itself, at the sizes of the roofline, and torch.profiler says what
each kernel took; before every run the second-level cache is filled with something else. On the processor operators
stand in the place of kernels.

What is predicted is the work of the Triton kernels. A CUDA kernel that does the same work as one of them is held to the
same; for all others there is no prediction. What the library and PyTorch launch is one row, held to the roofline's
parts that are no kernel of ours.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import iprm_kernels
from benchmarks import roofline
from benchmarks.card.record import AGAIN, BAD, GOOD, LOST, MISSING, STARTED, done, entries, note
from benchmarks.measure import stopwatch
from benchmarks.operators import OPERATORS

SIZES = {"cuda": roofline.Sizes(), "cpu": roofline.Sizes(B=2, K=2, N=9, L=5, D=16)}
DTYPES = {"cuda": ("bfloat16", "float32"), "cpu": ("float32",)}
ROUNDS = {"cuda": 11, "cpu": 3}
LIBRARY = "library and PyTorch"
ALIKE = {
    "logits": "logits",
    "pool": "pool",
    "d_tokens": "d_tokens",
    "composition": "composition_forward",
    "operations_backward": "operations_backward",
    "columns_backward": "columns_backward",
}
"""CUDA kernels, and the Triton kernels whose work they do."""


@dataclass
class Row:
    """What a run of a pass spends in one kernel; of the library's, `names` are what the profiler calls them."""

    kernel: str
    launches: int = 0
    seconds: float = 0.0
    predicted: float | None = None
    names: list[str] = field(default_factory=list)


def inputs(core: str, s: roofline.Sizes, device: str) -> list[list[Tensor]]:
    """The inputs of a core, in order; each a list, which the window of composition fills with its states."""
    torch.manual_seed(0)
    window, narrow = 1 + s.W, s.R**-0.5

    def drawn(*shape: int, scale: float = 1.0, count: int = 1) -> list[Tensor]:
        dtype = getattr(torch, s.dtype)
        return [(scale * torch.randn(shape)).to(device, dtype).requires_grad_() for _ in range(count)]

    state, gate = (s.B, s.K, s.D), (s.D,)
    if core == "formation":
        return [drawn(*state), drawn(s.B, s.L, s.D), drawn(*gate, scale=s.D**-0.5)]
    if core == "composition":
        return [drawn(*state), *(drawn(*state, count=window) for _ in range(3)), drawn(*gate, scale=s.D**-0.5)]
    keys, small, square = (s.B, s.N, s.R), (s.B, s.K, s.R), (s.R, s.R)
    chain = [drawn(*square, scale=narrow), drawn(*square, scale=narrow), drawn(s.R), drawn(s.R, scale=narrow)]
    return [drawn(*keys), drawn(*keys), drawn(*small), drawn(*small), *chain, drawn(s.B, s.N, s.D)]


def call_of(name: str, s: roofline.Sizes, device: str, backend: str) -> Callable[[], object]:
    """A core's pass, ready to run as often as one likes."""
    core, direction = name.split()
    given = inputs(core, s, device)
    args = [of if core == "composition" and index in (1, 2, 3) else of[0] for index, of in enumerate(given)]

    def forward():
        return getattr(iprm_kernels, core)(*args, backend=backend)

    if direction == "forward":
        return torch.no_grad()(forward)
    outputs, leaves = forward(), [leaf for of in given for leaf in of]
    gradients = [torch.randn_like(out) for out in outputs]
    return lambda: torch.autograd.grad(outputs, leaves, gradients, retain_graph=True)


def emptier(device: str) -> Callable[[], object]:
    """What fills the second-level cache of a card with something else."""
    if device == "cpu":
        return lambda: None
    return torch.empty(2**28, dtype=torch.int8, device=device).zero_


def events_of(seen: profile, device: str) -> list[tuple[str, float]]:
    """Names and seconds of the kernels, or, on the processor, of operators without those that they call."""
    if device == "cpu":
        found = [(event.name, event.self_cpu_time_total) for event in seen.events()]
        return [(name, spent * 1e-6) for name, spent in found if name.startswith(OPERATORS)]
    kernels = [event for event in seen.events() if event.device_type == DeviceType.CUDA]
    return [(event.name, event.time_range.elapsed_us() * 1e-6) for event in kernels]


def profiled(call: Callable[[], object], device: str) -> list[list[tuple[str, float]]]:
    """The events of every round, after one that is not counted."""
    empty, rounds = emptier(device), []
    activity = ProfilerActivity.CPU if device == "cpu" else ProfilerActivity.CUDA
    for _ in range(1 + ROUNDS[device]):
        empty()
        synchronize(device)
        with profile(activities=[activity]) as seen:
            call()
            synchronize(device)
        rounds.append(events_of(seen, device))
    return rounds[1:]


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def triton_kernels() -> dict[str, str]:
    """What a profiler calls each Triton kernel, and its name."""
    known = importlib.import_module("iprm_kernels.backends.triton.launch").KERNELS
    return {function.__name__: name for name, function in known.items()}


def ours(backend: str) -> Callable[[str], str | None]:
    """Tells the kernels of a backend by the names that the profiler gives them; None for those of a library."""
    if backend == "triton":
        return triton_kernels().get
    if backend == "cuda":
        return lambda name: found[1] if (found := re.search(r"iprm::cuda::.*?(\w+)_kernel\b", name)) else None
    return lambda name: name.removeprefix("iprm::") if name.startswith("iprm::") else None


def rows_of(rounds: list[list[tuple[str, float]]], name_of: Callable[[str], str | None]) -> list[Row]:
    """A row for each kernel of ours, and one for all others: seconds a run, the medians of the rounds."""
    rows: dict[str, Row] = {}
    spent: dict[str, list[float]] = {}
    for index, events in enumerate(rounds):
        for event, seconds in events:
            kernel = name_of(event) or LIBRARY
            row = rows.setdefault(kernel, Row(kernel))
            row.launches += 1
            spent.setdefault(kernel, [0.0] * len(rounds))[index] += seconds
            if kernel == LIBRARY and event not in row.names:
                row.names.append(event)
    for kernel, row in rows.items():
        row.seconds = median(spent[kernel])
        row.launches = round(row.launches / len(rounds))
    return list(rows.values())


def card_of(name: str) -> roofline.Card | None:
    """The card of the roofline, None where it has none of that name."""
    return next((card for known, card in roofline.CARDS.items() if known in name), None)


def predict(rows: list[Row], parts: list, backend: str, seconds: Callable[[list], float]) -> None:
    """Put predictions beside the rows that are parts of the roofline."""
    names = set(triton_kernels().values()) if backend == "triton" else set()
    for row in rows:
        if row.kernel == LIBRARY:
            mine = [part for part in parts if part.name not in names] if names else []
        else:
            name = row.kernel if backend == "triton" else ALIKE.get(row.kernel)
            mine = [part for part in parts if part.name == name]
        row.predicted = seconds(mine) if mine else None


def measured(name: str, s: roofline.Sizes, device: str, backend: str) -> dict:
    """The facts of an entry."""
    call = call_of(name, s, device, backend)
    call()  # compiled, and tuned
    rows = rows_of(profiled(call, device), ours(backend))
    empty, clock = emptier(device), stopwatch(device)
    whole = median((empty(), clock(call))[1] for _ in range(ROUNDS[device]))
    found = {"pass": name, "backend": backend, "sizes": asdict(s), "whole": whole, "floor": None, "predicted": None}
    card = card_of(torch.cuda.get_device_name()) if device != "cpu" else None
    if card:
        count = roofline.PASSES[name](replace(s, multiprocessors=card.multiprocessors))
        found["floor"] = count.floor(card, s.dtype)
        if backend == "triton":
            found["predicted"] = roofline.predicted(count.ours, card, s.dtype)
        predict(rows, count.ours, backend, lambda parts: roofline.predicted(parts, card, s.dtype))
    return found | {"rows": [asdict(row) for row in rows]}


def main(path: Path, device: str, backend: str) -> int:
    if reason := iprm_kernels.reasons(device)[backend]:
        print(f"{backend}: {reason}")
        return MISSING
    for dtype in DTYPES[device]:
        s = replace(SIZES[device], dtype=dtype)
        for name in roofline.PASSES:
            key = f"{name}, {dtype}"
            if done(entries(path), key):
                continue
            note(path, key, STARTED)
            try:
                found = measured(name, s, device, backend)
                seen = bool(found["rows"])
                why = {} if seen else {"message": "the profiler saw no kernel"}
                note(path, key, GOOD[1] if seen else BAD[0], **why, **found)
            except Exception as error:  # what one pass says must not stop the others
                note(path, key, BAD[0], message=f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
                if LOST.search(str(error)):
                    return AGAIN
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
