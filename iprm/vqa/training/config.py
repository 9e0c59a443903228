"""The configuration of a training: a YAML file, overrides in the form `training.lr=0.001`, and defaults for the rest.

`Config` holds every key with its default; OmegaConf checks keys and types.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from iprm.config import IPRMConfig
from iprm.vqa.models.reasoners import REASONERS
from iprm_kernels.checks import check_choice, check_number

DTYPES = ("float32", "bfloat16")
DEVICES = ("auto", "cpu", "cuda")


def _require(name: str, value: float | None, least: float, strictly: bool = False) -> None:
    """Raise `ValueError` unless the value, where there is one, is a number of at least (or above) `least`."""
    if value is not None and not (value > least if strictly else value >= least):
        raise ValueError(f"{name}: expected {'more than' if strictly else 'at least'} {least}, got {value}")


@dataclass
class DataConfig:
    """What is read.

    source: one of `iprm.vqa.data.sources.SOURCES`.  folder: where its files are.  options: the other fields of its
    reader.  train, val: names of the splits.  train_questions, val_questions: how many of each (null: all).
    """

    source: str = "generated"
    folder: str = "build/questions"
    options: dict[str, Any] = field(default_factory=dict)
    train: str = "train"
    val: str = "val"
    train_questions: int | None = None
    val_questions: int | None = 10_000

    def __post_init__(self) -> None:
        _require("data.train_questions", self.train_questions, 1)
        _require("data.val_questions", self.val_questions, 1)


@dataclass
class ModelConfig:
    """What is trained.

    reasoner: one of `iprm.vqa.models.reasoners.REASONERS`.  backend: the kernels', for `fast`.  iprm: fields of
    `iprm.config.IPRMConfig`; a baseline takes its sizes from them.  zeroed: parts of the reasoner by their paths in it
    (`execution.We`) whose weights are zero and stay so.
    """

    reasoner: str = "fast"
    backend: str = "auto"
    iprm: dict[str, Any] = field(default_factory=lambda: {"dim": 128, "num_ops": 4, "num_steps": 4})
    zeroed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_choice("model.reasoner", self.reasoner, REASONERS)
        self.mechanism()

    def mechanism(self) -> IPRMConfig:
        """Return the options of IPRM. Raises `ValueError`."""
        for name in self.iprm:
            check_choice("model.iprm", name, [f.name for f in dataclasses.fields(IPRMConfig)])
        try:
            return IPRMConfig(**self.iprm)
        except (TypeError, ValueError) as error:
            raise ValueError(f"model.iprm.{error}") from error


@dataclass
class TrainingConfig:
    """How it is trained.

    steps, batch_size: of the optimiser; questions in each.  lr: the highest rate.  warmup: the share of the steps over
    which it is reached.  weight_decay: AdamW's.  clip: the largest gradient norm.  seed: of weights, order and dropout.
    dtype: float32, or bfloat16 for the products of a step (autocast), parameters and optimiser staying in float32.
    device: auto takes CUDA where there is one.  threads: torch's on the CPU.
    pieces: into how many each batch is cut, each piece with dropout of its own; the processes share them out evenly
    (null: one a process). So two pieces in one process and in two train alike.
    evaluate_every, checkpoint_every: in steps.  keep: how many checkpoints stay.
    patience: after how many evaluations without a better validation accuracy training ends early (null: never).
    """

    steps: int = 10_000
    batch_size: int = 64
    lr: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.0
    clip: float = 1.0
    seed: int = 0
    dtype: str = "float32"
    device: str = "auto"
    threads: int = 1
    pieces: int | None = None
    evaluate_every: int = 1000
    checkpoint_every: int = 1000
    keep: int = 2
    patience: int | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "threads", "pieces", "evaluate_every", "checkpoint_every", "keep"):
            _require(f"training.{name}", getattr(self, name), 1)
        for name in ("weight_decay", "warmup"):
            _require(f"training.{name}", getattr(self, name), 0)
        for name in ("lr", "clip"):
            _require(f"training.{name}", getattr(self, name), 0, strictly=True)
        _require("training.patience", self.patience, 1)
        check_number("training.seed", self.seed, below=2**63)
        check_choice("training.dtype", self.dtype, DTYPES)
        check_choice("training.device", self.device, DEVICES)
        if self.warmup > 1:
            raise ValueError(f"training.warmup: expected a share of the steps, at most 1, got {self.warmup}")
        if self.pieces is not None and self.pieces > self.batch_size:
            raise ValueError(
                f"training.pieces: expected at most training.batch_size = {self.batch_size}, got {self.pieces}"
            )


@dataclass
class Config:
    """Everything that a training is a function of, and the folder that it writes to."""

    folder: str = "build/train"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


def _merged(source: str, *parts: Any) -> Config:
    try:
        merged: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), *parts))
        return merged
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if error.full_key else ""
        raise ValueError(f"{source}{key}{str(error).splitlines()[0]}") from error
    except TypeError as error:
        raise ValueError(f"{source}expected mappings and lists where the defaults have them: {error}") from error
    except ValueError as error:
        raise ValueError(f"{source}{error}") from error


def _read(path: Path) -> Any:
    try:
        found = OmegaConf.load(path)
    except YAMLError as error:
        raise ValueError(f"{path}: expected YAML, got {' '.join(str(error).split())}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected a configuration in YAML: {error}") from error
    if not OmegaConf.is_dict(found):
        raise ValueError(f"{path}: expected the sections {', '.join(asdict(Config()))}, got a list")
    return found


def configuration(path: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Return the configuration of a YAML file with overrides (`training.lr=0.001`).

    Raises `ValueError`: no such file, an unknown key, a value of the wrong type or out of range.
    """
    read = {} if path is None else _read(path)
    _merged("" if path is None else f"{path}: ", read)  # so that an error of the file names the file
    try:
        changes = OmegaConf.from_dotlist(list(overrides))
    except YAMLError as error:
        raise ValueError(f"{' '.join(overrides)}: expected key=value, got {' '.join(str(error).split())}") from error
    return _merged("", read, changes)


def config_from(fields: dict[str, Any]) -> Config:
    """Return the configuration that `asdict` made `fields` of. Raises `ValueError`."""
    return _merged("", fields)


def _leaves(fields: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def difference(wanted: Config, found: Config) -> str | None:
    """Return the first key, besides the folder, that two configurations differ in, with both values; None: none."""
    ours, theirs = (dict(_leaves(asdict(config) | {"folder": None})) for config in (wanted, found))
    for key in ours | theirs:
        if ours.get(key) != theirs.get(key):
            return f"{key} = {theirs.get(key)!r}, not {ours.get(key)!r}"
    return None
