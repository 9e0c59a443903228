"""How large an experiment is: the short form takes a minute, the full form hours on two cores."""

from __future__ import annotations

from dataclasses import dataclass

from iprm.config import RATES
from iprm.vqa.experiments.running import Run

HELD_OUT = {"held_out_splits": True, "held_out_pairs": True}
SMALL_DATA = {"train_scenes": 100, "val_scenes": 20, "max_objects": 5, "max_length": 10, **HELD_OUT}
FULL_DATA = SMALL_DATA | {"train_scenes": 20_000, "val_scenes": 400}


@dataclass(frozen=True)
class Form:
    """Sizes that every experiment shares."""

    name: str
    data: dict[str, int | bool]
    """Settings of the generator."""
    questions: int
    """Validation questions that accuracies are measured on."""
    dim: int
    steps: int
    """Training steps where many configurations are compared."""
    long_steps: int
    """Training steps where one trained model is looked into."""
    batch_size: int = 64
    seeds: tuple[int, ...] = (0, 1, 2)
    operations: tuple[int, ...] = (1, 2, 4, 6, 9)
    """K, where it is varied."""
    iterations: tuple[int, ...] = (1, 3, 6, 9)
    """T, where it is varied."""
    frames: tuple[int, ...] = (1, 2, 4, 8)
    """Frames, where they are varied."""


FORMS = {
    "short": Form("short", SMALL_DATA, 40, 16, 6, 8, batch_size=8, operations=(1, 2), iterations=(1, 2), frames=(1, 2)),
    "full": Form("full", FULL_DATA, 4000, 64, 8000, 40_000),
}


def overrides(form: Form, **changes: object) -> list[str]:
    """Return the configuration that all experiments start from, with `changes`, as overrides of `training.config`'s.

    Keys of `changes` have `__` for the dot between sections: `model__iprm__num_ops=6`.
    """
    values: dict[str, object] = {
        "data.source": "generated",
        **{f"data.options.{name}": value for name, value in form.data.items()},
        "data.val_questions": form.questions,
        "model.reasoner": "fast",
        "model.iprm.dim": form.dim,
        "model.iprm.num_ops": 4,
        "model.iprm.num_steps": 4,
        **{f"model.iprm.{name}": 0.0 for name in RATES},
        "training.steps": form.steps,
        "training.batch_size": form.batch_size,
        "training.lr": 1e-3,
        "training.threads": 1,
    }
    values |= {name.replace("__", "."): value for name, value in changes.items()}
    return [f"{name}={value}" for name, value in values.items()]


def looked_into(form: Form, once: dict) -> list[Run]:
    """Return the trainings that are long enough to be looked into."""
    return [Run("trained", seed, overrides(form, training__steps=form.long_steps)) for seed in form.seeds]
