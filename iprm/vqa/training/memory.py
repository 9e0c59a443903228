"""The extra peak memory of a training step of one variant, measured in a process of its own.

The step of the whole model (encoders, IPRM, head, loss, backward, optimiser) runs on random input of the
given sizes. On a GPU the figure is the allocator's peak over what was allocated before. On the CPU it is the
peak resident memory over that after a small warm-up: Linux resets the peak (`/proc/self/clear_refs`);
elsewhere the process's highest mark is compared, which a large start-up can hide.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from iprm.config import IPRMConfig
from iprm.vqa.data.tensors import Batch
from iprm.vqa.models.answerer import InputSizes, QuestionAnswerer
from iprm.vqa.models.reasoners import REASONERS, reasoner
from iprm.vqa.training.trainer import Schedule, Trainer

STEPS = 3


@dataclass(frozen=True)
class Sizes:
    """What is measured: the sizes of the input and where it runs."""

    batch: int
    words: int
    objects: int
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    backend: str = "auto"


def random_batch(sizes: Sizes) -> Batch:
    """Return a batch of random words and objects without padding."""
    B, L, N = sizes.batch, sizes.words, sizes.objects
    return Batch(
        words=torch.randint(2, 40, (B, L)),
        language_mask=torch.ones(B, L, dtype=torch.bool),
        lengths=torch.full((B,), L),
        labels=torch.randint(2, 5, (B, N, 4)),
        numbers=torch.rand(B, N, 3),
        visual_mask=torch.ones(B, N, dtype=torch.bool),
        answers=torch.randint(2, 30, (B,)),
        families=torch.zeros(B, dtype=torch.int64),
        rows=torch.arange(B),
    )


def random_trainer(variant: str, config: IPRMConfig, sizes: Sizes) -> Trainer:
    """Return a trainer of a variant (one of `REASONERS`) for random batches."""
    made_for = InputSizes(words=42, labels=(5,) * 4, numbers=3, answers=30)
    model = QuestionAnswerer(reasoner(variant, config, sizes.backend), config.dim, made_for)
    device, dtype = torch.device(sizes.device), getattr(torch, sizes.dtype)
    return Trainer(model, Schedule(steps=STEPS + 1, lr=1e-3), device, dtype)


def _status(key: str) -> int:
    """Return a field of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status: no field {key}")


def _highest() -> int:
    """Return the process's highest resident memory so far in bytes."""
    try:
        import resource
    except ImportError as error:
        raise OSError("peak memory on the CPU: this system does not say it") from error
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _reset_highest() -> bool:
    """Bring the kernel's peak mark down to the present; return whether that is possible here."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _resident_peak(run: Callable[[], None]) -> int:
    """Return by how many bytes the resident memory rose at most while `run` ran."""
    if _reset_highest():
        before = _status("VmRSS")
        run()
        return max(0, _status("VmHWM") - before)
    before = _highest()
    run()
    return _highest() - before


def _allocated_peak(run: Callable[[], None], device: torch.device) -> int:
    """Return by how many bytes the GPU's allocated memory rose at most while `run` ran."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def peak(variant: str, config: IPRMConfig, sizes: Sizes) -> int:
    """Return the extra peak memory in bytes, in this process; a fresh one gives the cleaner figure."""
    torch.set_num_threads(sizes.threads)
    trainer = random_trainer(variant, config, sizes)
    small = random_batch(replace(sizes, batch=1, objects=1)).to(trainer.device, trainer.dtype)
    batch = random_batch(sizes).to(trainer.device, trainer.dtype)
    trainer.step(small, seed=0)  # makes the optimiser's states and loads the libraries

    def run() -> None:
        for step in range(STEPS):
            trainer.step(batch, seed=step)

    if trainer.device.type == "cuda":
        return _allocated_peak(run, trainer.device)
    return _resident_peak(run)


def measure(variant: str, config: IPRMConfig, sizes: Sizes) -> int:
    """Return the extra peak memory in bytes, measured in a fresh process.

    Raises `RuntimeError` with the last line of the process's own words where it fails.
    """
    request = json.dumps({"config": asdict(config), "sizes": asdict(sizes)})
    root = str(Path(__file__).resolve().parents[3])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "iprm.vqa.training.memory", variant, request],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"memory of {variant}: the process ended with {done.returncode}: {last}")
    return int(done.stdout.split()[-1])


def main(argv: list[str] | None = None) -> int:
    """Measure one variant and print the bytes."""
    parser = argparse.ArgumentParser(
        prog="python -m iprm.vqa.training.memory", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("variant", choices=REASONERS, metavar="VARIANT", help=", ".join(REASONERS))
    parser.add_argument(
        "request", type=json.loads, help='JSON: {"config": fields of IPRMConfig, "sizes": fields of Sizes}'
    )
    arguments = parser.parse_args(argv)
    request = arguments.request
    print(peak(arguments.variant, IPRMConfig(**request["config"]), Sizes(**request["sizes"])))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
