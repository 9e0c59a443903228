"""A whole training: begun or gone on with in a folder, down to its result.

| in the folder | what it holds |
| --- | --- |
| `config.json` | the configuration that the folder belongs to |
| `checkpoint-*.safetensors` | weights, optimiser, losses; vocabularies, configuration and evaluations as metadata |
| `tensorboard/` | losses, gradient norms, rates, accuracies |
| `result.json` | accuracy, priors, speed, conditions; written last, so a folder that has it is finished |
| `lock` | what the training process holds, so that no second one begins |

Going on gives the same bits as never having stopped: batches and dropout masks are functions of the seed and the step,
and the rest of a step's input is in the checkpoint.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from rich.console import Console
from torch import nn

from iprm.vqa.data.examples import Source
from iprm.vqa.data.sources import source
from iprm.vqa.data.tensors import Batch, Data, Split, Vocabularies, Vocabulary, load, load_split
from iprm.vqa.models.answerer import InputSizes, QuestionAnswerer
from iprm.vqa.models.baselines import parameters
from iprm.vqa.models.reasoners import reasoner
from iprm.vqa.training.checkpoint import held, newest_checkpoint, save_checkpoint, write_whole
from iprm.vqa.training.config import Config, DataConfig, config_from, difference
from iprm.vqa.training.distributed import Ranks, device_of, ranks
from iprm.vqa.training.interruption import Interrupted, interruption
from iprm.vqa.training.logs import Logs
from iprm.vqa.training.multiple_choice import by_question
from iprm.vqa.training.priors import priors
from iprm.vqa.training.report import conditions
from iprm.vqa.training.trainer import Piece, Schedule, Trainer, count, part, shares
from iprm_kernels.backends import select
from iprm_kernels.backends.calls import Call

RESULT = "result.json"
READ_EVERY = 10  # steps: reading a loss makes the host wait for a GPU
EVALUATED_AT_ONCE = 100
QUIET = Console(quiet=True)


@dataclass(frozen=True)
class Trained:
    """A model as its last checkpoint has it, on the CPU in evaluation mode, on whatever kernels run where it is."""

    folder: Path
    config: Config
    model: QuestionAnswerer
    vocabularies: Vocabularies
    sizes: InputSizes
    result: dict[str, Any] | None
    """What `result.json` says; None where training has not finished."""


def train(config: Config, console: Console = QUIET) -> Trained:
    """Train in `config.folder`, going on from its newest checkpoint; a finished training is returned as it is.

    Under `torchrun` the processes train one model together. The threads of torch are set, and stay set.

    Raises:
        ValueError: a value of the configuration, a data file (`DataError`) or a folder that cannot be; kernels that
            cannot run here; a loss that is no longer finite.
        Interrupted: Ctrl-C or SIGTERM, after the checkpoint was written.
    """
    folder = Path(config.folder)
    with ranks() as here, ExitStack() as hold:
        config = _shared_out(config, here)
        with here.leader_first():
            if not _is_finished(folder):
                _check_can_run(config)
                if here.leads:
                    hold.enter_context(held(folder))
            _claim(folder, config, here)
        if not _is_finished(folder):
            _train(folder, config, here, console if here.leads else QUIET)
        here.wait()
    return load_trained(folder)


def load_trained(folder: Path) -> Trained:
    """Return the model of a folder's newest checkpoint. Raises `ValueError` where there is none."""
    loaded = newest_checkpoint(folder)
    if loaded is None:
        raise ValueError(
            f"{folder}: expected a checkpoint, found none; python -m iprm.train small folder={folder} makes one"
        )
    state, record = loaded
    config, sizes = config_from(record["config"]), InputSizes(**record["sizes"])
    model = _initial(config, sizes).eval()
    model.load_state_dict(part(state, "model."))
    known = _vocabularies(record["vocabularies"])
    return Trained(folder, config, model, known, sizes, _json(folder / RESULT) if _is_finished(folder) else None)


def untrained(trained: Trained) -> QuestionAnswerer:
    """Return the model that training began with, on the CPU in evaluation mode."""
    return _initial(trained.config, trained.sizes).eval()


def open_split(config: Config, name: str, known: Vocabularies, whole: bool = False) -> Split:
    """Return a split of the data, of as many questions as the validation split. Raises `DataError`."""
    return load_split(source_of(config.data), name, known, config.data.val_questions, whole)


def accuracy(trained: Trained, split: Split) -> dict[str, float]:
    """Return the share of right answers: `overall`, and of each family that is asked.

    And those of `multiple_choice.by_question`, where there are options.
    """
    counts, verdicts = count(trained.model, split.in_order(EVALUATED_AT_ONCE), len(split.families), len(split))
    return shares(counts, split.families) | by_question(split.questions, verdicts)


def source_of(config: DataConfig) -> Source:
    """Return the reader of the data. Raises `ValueError` for an unknown one or a wrong option, `DataError`."""
    return source(config.source, Path(config.folder), **config.options)


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON: {error}") from error


def _write(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, json.dumps(content, indent=1).encode())


def _shared_out(config: Config, here: Ranks) -> Config:
    """Return the configuration with as many pieces as there are processes, where it does not say."""
    pieces = config.training.pieces or here.size
    if pieces % here.size:
        raise ValueError(f"training.pieces: expected a multiple of the {here.size} processes, got {pieces}")
    return replace(config, training=replace(config.training, pieces=pieces))


def _is_finished(folder: Path) -> bool:
    return (folder / RESULT).exists()


def _check_can_run(config: Config) -> None:
    """Raise `ValueError` where there is no such device here, or the kernels that are asked for do not run on it."""
    device, sizes = device_of(config.training.device), config.model.mechanism()
    R = sizes.reduced_dim if sizes.execution == "full" else 0
    call = Call("recurrence", K=sizes.num_ops, D=sizes.dim, R=R, blocks=1 + sizes.window)
    if config.model.reasoner == "fast":
        try:
            select(config.model.backend, call, device, getattr(torch, config.training.dtype))
        except RuntimeError as error:
            raise ValueError(f"model.backend: {error}") from error


def _claim(folder: Path, config: Config, here: Ranks) -> None:
    """Make the folder that of this configuration. Raises `ValueError` where it is another's."""
    path = folder / "config.json"
    if path.exists():
        _check_same(folder, config, _json(path))
    elif here.leads:
        _write(path, asdict(config))


def _check_same(folder: Path, config: Config, found: dict[str, Any]) -> None:
    """Raise `ValueError` where the folder's configuration, as `asdict` made it, is another."""
    if differs := difference(config, config_from(found)):
        raise ValueError(f"{folder}: holds a training with {differs}; choose another folder")


def _initial(config: Config, sizes: InputSizes, backend: str = "auto") -> QuestionAnswerer:
    """Return the model that training begins with."""
    torch.manual_seed(config.training.seed)
    mechanism = config.model.mechanism()
    module = reasoner(config.model.reasoner, mechanism, backend)
    for path in config.model.zeroed:
        try:
            zeroed = module.get_submodule(path)
        except AttributeError as error:
            raise ValueError(f"model.zeroed: {path}: {error}") from error
        for weight in zeroed.parameters():
            nn.init.zeros_(weight).requires_grad_(False)
    return QuestionAnswerer(module, mechanism.dim, sizes)


def _texts(known: Vocabularies) -> dict[str, Any]:
    labels = {name: vocabulary.texts for name, vocabulary in known.labels.items()}
    return {"words": known.words.texts, "answers": known.answers.texts, "labels": labels}


def _vocabularies(texts: dict[str, Any]) -> Vocabularies:
    labels = {name: Vocabulary(set(found)) for name, found in texts["labels"].items()}
    return Vocabularies(Vocabulary(set(texts["words"])), Vocabulary(set(texts["answers"])), labels)


def _trainer(config: Config, sizes: InputSizes, here: Ranks) -> Trainer:
    t = config.training
    schedule = Schedule(t.steps, t.lr, t.warmup, t.weight_decay, t.clip)
    products = torch.bfloat16 if t.dtype == "bfloat16" else None
    model = _initial(config, sizes, config.model.backend)
    return Trainer(model, schedule, device_of(t.device), products=products, ranks=here)


def _train(folder: Path, config: Config, here: Ranks, console: Console) -> None:
    t, d = config.training, config.data
    torch.set_num_threads(t.threads)
    torch.backends.cudnn.allow_tf32 = False  # its LSTM would round to ten bits
    with here.leader_first():
        console.print(f"{d.folder}: reading the questions of {d.source}")
        data = load(source_of(d), d.train_questions, d.val_questions, (d.train, d.val))
    trainer = _trainer(config, InputSizes.of(data.train.source, data.vocabularies), here)
    run = Run(folder, config, data, trainer)
    run.resume()
    if here.leads:
        with Logs(folder / "tensorboard", console, t.steps, trainer.steps) as logs:
            run.go(logs)
        _write(folder / RESULT, run.result())
    else:
        run.go(None)


@dataclass
class Run:
    """A training under way."""

    folder: Path
    config: Config
    data: Data
    trainer: Trainer

    def __post_init__(self) -> None:
        self.history: list[dict[str, Any]] = []  # of evaluations: step, and accuracy overall and by family

    @property
    def finished(self) -> bool:
        """Whether all steps were taken, or the last evaluations were no better than an earlier one."""
        t = self.config.training
        return self.trainer.steps >= t.steps or (t.patience is not None and _stale(self.history) >= t.patience)

    def resume(self) -> None:
        """Go on from the newest checkpoint, if there is one.

        Raises `ValueError` where it is of another configuration, or saw other data.
        """
        if loaded := newest_checkpoint(self.folder):
            state, record = loaded
            _check_same(self.folder, self.config, record["config"])
            if record["vocabularies"] != _texts(self.data.vocabularies):
                raise ValueError(f"{self.config.data.folder}: holds other data than {self.folder} was trained on")
            self.trainer.load(state)
            self.history = record["history"]

    def go(self, logs: Logs | None) -> None:
        """Take the steps that are left. Raises `Interrupted`."""
        t, trainer = self.config.training, self.trainer
        batches = self.data.train.shuffled(t.batch_size, t.seed, first=trainer.steps)
        with interruption() as asked:
            while not self.finished:
                trainer.update(self._pieces(next(batches)), t.batch_size)
                stop = trainer.ranks.any(asked.is_set())
                self._after(trainer.steps, stop, logs)
                if stop and not self.finished:
                    raise Interrupted(
                        f"stopped after step {trainer.steps}; the same command goes on from {self.folder}"
                    )

    def _pieces(self, batch: Batch) -> list[Piece]:
        """Return this process's pieces of the next step's batch."""
        t, trainer = self.config.training, self.trainer
        first = (t.seed * 1_000_003 + trainer.steps) * 1009
        pieces = zip(*(getattr(batch, field.name).tensor_split(t.pieces) for field in fields(batch)), strict=True)
        own = list(enumerate(pieces))[trainer.ranks.rank :: trainer.ranks.size]
        return [
            Piece(Batch(*tensors).to(trainer.device, trainer.dtype), (first + number) % 2**63)
            for number, tensors in own
        ]

    def _after(self, step: int, stop: bool, logs: Logs | None) -> None:
        """Do what is due after a step."""
        t = self.config.training
        evaluates = step % t.evaluate_every == 0 or step == t.steps
        saves = step % t.checkpoint_every == 0 or stop
        if evaluates or saves or step % READ_EVERY == 0:
            self._read(step, logs)
        if evaluates:
            self._evaluate(step, logs)
        if logs and (saves or self.finished):
            logs.flush()
            save_checkpoint(self.folder, step, self.trainer.state(), self._record(), t.keep)

    def _read(self, step: int, logs: Logs | None) -> None:
        losses, norms = self.trainer.read()
        if not all(map(math.isfinite, losses)):
            raise ValueError(f"step {step}: expected a finite loss, got {losses[-1]}; a lower training.lr may help")
        if logs:
            logs.steps(step, mean(losses), mean(norms), self.trainer.schedule.rate(step - 1))

    def _evaluate(self, step: int, logs: Logs | None) -> None:
        here, val = self.trainer.ranks, self.data.val
        batches = list(torch.arange(len(val)).split(self.config.training.batch_size))[here.rank :: here.size]
        accuracy = self.trainer.evaluate(map(val.batch, batches), val.families, val.questions)
        self.history.append({"step": step} | accuracy)
        if logs:
            logs.evaluation(step, accuracy)

    def _record(self) -> dict[str, Any]:
        return {
            "config": asdict(self.config),
            "sizes": InputSizes.of(self.data.train.source, self.data.vocabularies)._asdict(),
            "vocabularies": _texts(self.data.vocabularies),
            "history": self.history,
        }

    def result(self) -> dict[str, Any]:
        """Return what the training came to."""
        t, trainer, last = self.config.training, self.trainer, self.history[-1]
        ran = conditions(trainer.device, getattr(torch, t.dtype), self.config.model.backend)
        if self.config.model.reasoner != "fast":
            ran["kernels"] = None
        return {
            "config": asdict(self.config),
            "conditions": ran | {"processes": trainer.ranks.size},
            "questions": {"train": len(self.data.train), "val": len(self.data.val)},
            "parameters": parameters(trainer.model),
            "priors": priors(self.data.train, self.data.val),
            "accuracy": {name: share for name, share in last.items() if name != "step"},
            "history": self.history,
            "steps": trainer.steps,
            "final_loss": mean(trainer.losses[-20:]),
            "steps_per_second": trainer.steps_per_second(),
            "seconds": sum(trainer.seconds),
        }


def _stale(history: Sequence[dict[str, Any]]) -> int:
    """Return how many evaluations came after the best one, the first of equals."""
    accuracies = [evaluation["overall"] for evaluation in history]
    return len(accuracies) - 1 - accuracies.index(max(accuracies)) if accuracies else 0
