"""Train the reference module and the fast module side by side on CLEVR's questions.

    python -m iprm.vqa.training.side_by_side              # questions generated into build/questions
    python -m iprm.vqa.training.side_by_side --clevr-dir CLEVR_v1.0   # the real data set (or $CLEVR_DIR)

Both start from the same weights and take the same batches, with the generator of torch at the same seed in
each step, so that the same dropout masks are drawn; the losses of the first steps therefore agree to
rounding, and the program fails where they do not. Later they drift apart, as training amplifies rounding.
Then: validation accuracy of each against the answer priors, steps per second, peak memory, and all of it in a
JSON record.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from iprm_kernels.extras import extra

with extra("train", __name__):
    from rich.console import Console
    from rich.progress import Progress

    from iprm.config import IPRMConfig
    from iprm.vqa.data.generate import files as generate
    from iprm.vqa.data.sources import source
    from iprm.vqa.data.tensors import Batch, Data, load
    from iprm.vqa.models.answerer import InputSizes, QuestionAnswerer
    from iprm.vqa.models.reasoners import VARIANTS, reasoner
    from iprm.vqa.training import memory, report
    from iprm.vqa.training.logs import progress_bar
    from iprm.vqa.training.priors import priors
    from iprm.vqa.training.trainer import Schedule, Trainer

# In float32 on a CPU the first 20 losses were seen to differ by up to 2e-7, relatively. A dropout rate of 0.14 in
# place of 0.15 at one site gives 2e-4, a site left out 1e-3, other masks throughout 7e-3: the tolerance lies
# between, with room for other devices' rounding.
TOLERANCE = {"float32": 5e-5, "float64": 1e-10}
# On a machine that others use too, torch's threads wait for one another: at these sizes, two took 18 times as long
# as one on a busy machine of two cores, and 0.7 times as long on a quieter one.
THREADS = "threads of torch on the CPU; more pay off for larger models on an idle machine"
TOLERATED = "largest relative difference of the first 20 losses; default 5e-5, in float64 1e-10"
REPORT_EVERY = 25
EVAL_BATCH = 500


def arguments_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m iprm.vqa.training.side_by_side", description=(__doc__ or "").partition("\n")[0]
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--clevr-dir",
        type=Path,
        default=os.environ.get("CLEVR_DIR"),
        help="the real data set; default $CLEVR_DIR",
    )
    data.add_argument(
        "--cache",
        type=Path,
        default=Path("build/questions"),
        help="where generated files are kept; default %(default)s",
    )
    data.add_argument("--max-questions", type=int, help="training questions read; default: as many as the steps use")
    data.add_argument("--eval-questions", type=int, default=4000, help="validation questions; default %(default)s")
    generate.add_arguments(parser.add_argument_group("generated data"))
    _training_arguments(parser.add_argument_group("training"))
    _model_arguments(parser.add_argument_group("model"))
    return parser


def _training_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--steps", type=int, default=600, help="of training; default %(default)s")
    group.add_argument("--batch-size", type=int, default=128, help="questions a step; default %(default)s")
    group.add_argument("--lr", type=float, default=1e-3, help="highest learning rate; default %(default)s")
    group.add_argument("--warmup", type=float, default=0.1, help="share of the steps; default %(default)s")
    group.add_argument("--weight-decay", type=float, default=0.0, help="default %(default)s")
    group.add_argument("--clip", type=float, default=1.0, help="largest gradient norm; default %(default)s")
    group.add_argument("--seed", type=int, default=0, help="of weights, order and dropout; default %(default)s")
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default %(default)s")
    group.add_argument("--dtype", choices=tuple(TOLERANCE), default="float32", help="default %(default)s")
    group.add_argument("--threads", type=int, default=1, help=f"{THREADS}; default %(default)s")
    group.add_argument("--tolerance", type=float, help=TOLERATED)
    group.add_argument(
        "--memory-objects",
        type=int,
        nargs="*",
        default=[196],
        help="also measure memory at these token counts; default %(default)s",
    )
    group.add_argument("--no-memory", action="store_true", help="measure no memory")
    group.add_argument(
        "--record", type=Path, default=Path("build/questions/train.json"), help="the JSON record; default %(default)s"
    )


def _model_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--backend", default="auto", help="of the fast module's kernels; default %(default)s")
    group.add_argument("--dim", type=int, default=128, help="width D; default %(default)s")
    group.add_argument("--num-ops", type=int, default=4, help="parallel operations K; default %(default)s")
    group.add_argument("--num-steps", type=int, default=3, help="reasoning steps T; default %(default)s")
    group.add_argument("--window", type=int, default=2, help="steps looked back, W; default %(default)s")
    group.add_argument("--reduction", type=int, default=2, help="r, of R = D / r; default %(default)s")
    group.add_argument("--no-norms", action="store_true", help="leave out IPRM's layer norms")


@dataclass(frozen=True)
class Run:
    """What parsed arguments come to."""

    arguments: argparse.Namespace
    device: torch.device
    dtype: torch.dtype
    config: IPRMConfig

    @property
    def tolerance(self) -> float:
        """The largest relative difference of the first losses that passes."""
        given = self.arguments.tolerance
        return TOLERANCE[self.arguments.dtype] if given is None else given


def configuration(a: argparse.Namespace) -> IPRMConfig:
    """Return IPRM's configuration: the published dropout rates, memory begun from question and scene."""
    names = ("formation_norm", "execution_norm", "update_norm", "composition_norm")
    norms = dict.fromkeys(names, not a.no_norms)
    sizes = {name: getattr(a, name) for name in ("dim", "num_ops", "num_steps", "window", "reduction")}
    return IPRMConfig(**sizes, **norms, op_init="language", result_init="visual")


def prepare(a: argparse.Namespace) -> Run:
    """Choose device, dtype and threads. Raises `ValueError` for what cannot be."""
    for name in ("steps", "batch_size", "eval_questions", "max_questions", "threads"):
        if getattr(a, name) is not None and getattr(a, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')}: expected at least 1, got {getattr(a, name)}")
    kind = a.device if a.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: expected a CUDA device, torch sees none")
    torch.set_num_threads(a.threads)
    torch.backends.cudnn.allow_tf32 = False  # its LSTM would round to ten bits
    return Run(a, torch.device(kind), getattr(torch, a.dtype), configuration(a))


def data_folder(a: argparse.Namespace, progress: Progress) -> Path:
    """Return the folder given, or one with generated files."""
    if a.clevr_dir:
        return Path(a.clevr_dir)
    settings = generate.settings_from(a)
    task = progress.add_task("questions", total=settings.train_scenes + settings.val_scenes, note="")
    folder = generate.cached(a.cache, settings, lambda: progress.advance(task))
    progress.remove_task(task)
    return folder


def trainers(run: Run, data: Data) -> dict[str, Trainer]:
    """Return one trainer a variant, all from the same weights."""
    a = run.arguments
    schedule = Schedule(a.steps, a.lr, a.warmup, a.weight_decay, a.clip)
    torch.manual_seed(a.seed)
    made_for = InputSizes.of(data.train.source, data.vocabularies)
    models = {v: QuestionAnswerer(reasoner(v, run.config, a.backend), a.dim, made_for) for v in VARIANTS}
    weights = models["reference"].state_dict()
    for model in models.values():
        model.load_state_dict(weights)
    return {v: Trainer(model, schedule, run.device, run.dtype) for v, model in models.items()}


def train(run: Run, data: Data, both: dict[str, Trainer], progress: Progress) -> None:
    """Take every step with each trainer in turn, from the same batch and seed; print their losses."""
    a = run.arguments
    batches: Iterator[Batch] = data.train.shuffled(a.batch_size, a.seed)
    task = progress.add_task("training", total=a.steps, note="")
    progress.console.print(f"{'step':>6}  {'reference':>12}  {'fast':>12}  {'difference':>10}", style="bold")
    for step in range(a.steps):
        batch = next(batches).to(run.device, run.dtype)
        seed = a.seed * 1_000_003 + step
        losses = [trainer.step(batch, seed) for trainer in both.values()]
        difference = report.relative_difference(*losses)
        line = f"{losses[0]:12.7f}  {losses[1]:12.7f}  {difference:10.1e}"
        progress.update(task, advance=1, note=f"{losses[0]:.4f} | {losses[1]:.4f}")
        if step < report.AGREED_STEPS or (step + 1) % REPORT_EVERY == 0:
            progress.console.print(f"{step + 1:6}  {line}", highlight=False)
    progress.remove_task(task)


def peaks(run: Run, data: Data, progress: Progress) -> dict[str, dict[str, int]]:
    """Return the extra peak memory of each variant by the size it was measured at."""
    a = run.arguments
    if a.no_memory:
        return {variant: {} for variant in VARIANTS}
    batch = next(data.train.shuffled(a.batch_size, a.seed))
    words, objects = batch.words.shape[1], batch.labels.shape[1]
    shared = {
        "device": str(run.device),
        "dtype": a.dtype,
        "threads": torch.get_num_threads(),
        "backend": a.backend,
    }
    found: dict[str, dict[str, int]] = {variant: {} for variant in VARIANTS}
    task = progress.add_task("memory", total=len(VARIANTS) * (1 + len(a.memory_objects)), note="")
    for tokens in (objects, *a.memory_objects):
        sizes = memory.Sizes(a.batch_size, words, tokens, **shared)
        for variant in VARIANTS:
            found[variant][f"{tokens} visual tokens"] = memory.measure(variant, run.config, sizes)
            progress.advance(task)
    progress.remove_task(task)
    return found


def make_record(run: Run, data: Data, both: dict[str, Trainer], accuracy: dict, memories: dict) -> dict[str, Any]:
    """Return everything the run found, and under which conditions."""
    first, second = (both[variant].losses for variant in VARIANTS)
    difference = report.agreement(first, second)
    cost = {
        variant: {
            "final_loss": sum(trainer.losses[-20:]) / len(trainer.losses[-20:]),
            "steps_per_second": trainer.steps_per_second(),
            "seconds": sum(trainer.seconds),
            "peak_memory": memories[variant],
        }
        for variant, trainer in both.items()
    }
    return {
        "conditions": report.conditions(run.device, run.dtype, run.arguments.backend),
        "arguments": {name: str(v) if isinstance(v, Path) else v for name, v in vars(run.arguments).items()},
        "config": asdict(run.config),
        "sizes": sizes(data),
        "agreement": {
            "steps": min(report.AGREED_STEPS, len(first)),
            "relative_difference": difference,
            "tolerance": run.tolerance,
            "agrees": difference <= run.tolerance,
        },
        "priors": priors(data.train, data.val),
        "accuracy": accuracy,
        "cost": cost,
        "losses": {variant: trainer.losses for variant, trainer in both.items()},
    }


def sizes(data: Data) -> dict[str, Any]:
    """Return the sizes of the data."""
    return {
        "folder": str(data.train.source.folder),
        "train_questions": len(data.train),
        "val_questions": len(data.val),
        "train_scenes": len(data.train.scenes),
        "val_scenes": len(data.val.scenes),
        "most_objects": max(len(scene.numbers) for scene in data.train.scenes),
        "most_words": data.train.words.shape[1],
        "words": len(data.vocabularies.words),
        "answers": len(data.vocabularies.answers),
    }


def evaluate(data: Data, both: dict[str, Trainer]) -> dict[str, dict[str, float]]:
    """Return the validation accuracy of each variant."""
    return {v: t.evaluate(data.val.in_order(EVAL_BATCH), data.val.families) for v, t in both.items()}


def set_up(a: argparse.Namespace, progress: Progress) -> tuple[Run, Data, dict[str, Trainer]]:
    """Return the run, its data and its trainers. Raises `ValueError` for wrong arguments or files."""
    run = prepare(a)
    folder = data_folder(a, progress)
    wanted = a.steps * a.batch_size if a.max_questions is None else a.max_questions
    data = load(source("clevr", folder), wanted, a.eval_questions)
    if a.batch_size > len(data.train):
        raise ValueError(
            f"--batch-size: expected at most {len(data.train)}, the training questions, got {a.batch_size}"
        )
    progress.console.print(f"{folder}: {len(data.train)} training and {len(data.val)} validation questions")
    return run, data, trainers(run, data)


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 where the losses agree, 1 where they do not, 2 for wrong arguments or files."""
    arguments = arguments_parser().parse_args(argv)
    console = Console()
    with progress_bar(console) as progress:
        try:
            run, data, both = set_up(arguments, progress)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        train(run, data, both, progress)
        accuracy = evaluate(data, both)
        memories = peaks(run, data, progress)
    record = make_record(run, data, both, accuracy, memories)
    report.show(console, record)
    arguments.record.parent.mkdir(parents=True, exist_ok=True)
    arguments.record.write_text(json.dumps(record, indent=1))
    console.print(f"record: {arguments.record}")
    return 0 if record["agreement"]["agrees"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
