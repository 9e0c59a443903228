"""The settings of generated data, and the splits that they come to.

| split | its scenes and questions |
|---|---|
| `train`, `val` | as the settings say |
| `val_longer` | programs longer than any in training |
| `val_objects` | more objects than in any training scene |
| `val_pairs` | scenes with held-out pairs of color and shape, and questions about them |
| `val_contradictory` | half of the questions contradict themselves (`metal cubes that are spheres`; no, or 0) |

`val` follows training. The others differ from it as is said, and therefore in more: with the settings of `EXPERIMENTS`

- `val_longer` has no question of the families exist, count and query attribute, whose programs are shorter, and nearly
  twice as many of compare integer, spatial relation and same attribute;
- `val_objects` has counts that no training scene reaches;
- `val_pairs` has more questions of compare attribute and query attribute, and about half as many of and / or and
  compare integer;
- `val_contradictory` has questions of exist and count alone.

So accuracies are to be compared family by family.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from iprm.vqa.data.generate.questions import CONTRADICTORY, FORMS, Form
from iprm.vqa.data.generate.scenes import MOST_OBJECTS, Pairs

LONGEST = 20  # nodes of a program


@dataclass(frozen=True)
class Settings:
    """What the files depend on, and nothing else.

    Raises `ValueError` for a setting of the wrong type or out of its range.
    """

    seed: int = 0
    train_scenes: int = 6000
    val_scenes: int = 400
    """Scenes of each split but `train`."""
    questions_per_scene: int = 10
    min_objects: int = 3
    max_objects: int = 4
    min_length: int = 2
    """The fewest nodes of a program."""
    max_length: int = 6
    """The most nodes of a program, but for `val_longer`."""
    held_out_splits: bool = False
    """Whether splits unlike training are made: `val_longer`, `val_objects`, `val_pairs`, `val_contradictory`."""
    held_out_pairs: bool = False
    """Whether training leaves out the pairs of color and shape in `scenes.HELD_OUT`; only then is `val_pairs` made."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not type(field.default):
                raise ValueError(f"{field.name}: expected {type(field.default).__name__}, got {value!r}")
        for name in ("train_scenes", "val_scenes", "questions_per_scene"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        self._check_range("objects", MOST_OBJECTS)
        self._check_range("length", LONGEST)

    def _check_range(self, what: str, most: int) -> None:
        low, high = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
        if not 2 <= low <= high <= most:
            names = f"min_{what}, max_{what}"
            raise ValueError(f"{names}: expected 2 <= min_{what} <= max_{what} <= {most}, got {low}, {high}")


EASY = Settings()
"""Short questions about few objects, made in seconds."""
EXPERIMENTS = Settings(train_scenes=20_000, val_scenes=1000, max_objects=6, max_length=12, held_out_splits=True)
"""The data of the experiments: 200,000 training questions of all families."""


@dataclass(frozen=True)
class Split:
    """What a split holds. Ranges include both ends."""

    scenes: int
    objects: tuple[int, int]
    lengths: tuple[int, int]
    pairs: Pairs
    forms: Sequence[Form] = FORMS


def splits(settings: Settings) -> dict[str, Split]:
    """Return the splits by their names. `val_longer` and `val_objects` are left out where there is nothing beyond."""
    s = settings
    objects, lengths = (s.min_objects, s.max_objects), (s.min_length, s.max_length)
    val = Split(s.val_scenes, objects, lengths, "never" if s.held_out_pairs else "any")
    found = {"train": replace(val, scenes=s.train_scenes), "val": val}
    if not s.held_out_splits:
        return found
    if s.max_length < LONGEST:
        found["val_longer"] = replace(val, lengths=(s.max_length + 1, LONGEST))
    if s.max_objects < MOST_OBJECTS:
        found["val_objects"] = replace(val, objects=(s.max_objects + 1, MOST_OBJECTS))
    if s.held_out_pairs:
        found["val_pairs"] = replace(val, pairs="always")
    return found | {"val_contradictory": replace(val, lengths=(2, LONGEST), forms=CONTRADICTORY)}
