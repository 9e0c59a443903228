"""What every reader of a data set gives: questions, and the scenes that they ask about.

A scene is a set of visual tokens: objects of a picture, objects of every frame of a video, or the cells of a feature
map. What is known of a token in words (its colour, its class, a relation) is in its *labels*, which the model embeds;
what is known in numbers (its place, its time, a feature vector) is in its *numbers*, which the model projects.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

Key = Hashable
"""What names a scene in its data set: an image index, a video's name."""


CORRECT = "correct"
"""The answer to an option that is right; that to the others is `wrong`."""


class DataError(ValueError):
    """A file that is missing or does not hold what its format says; names the file and what was expected of it."""


@dataclass(frozen=True)
class Scene:
    """N visual tokens, at least one."""

    labels: Sequence[Sequence[str]]
    """(N, A): one row a token, one word for each of the source's `label_columns`; "" where there is none."""
    numbers: np.ndarray
    """(N, P) float32: one row a token, in the order of the source's `number_columns`."""
    objects: Sequence[int] | None = None
    """(N,): which object each token shows, as programs number them; None: token n shows object n."""
    record: Any = None
    """The scene as it was read, where the reader was asked to keep it."""


@dataclass(frozen=True)
class Question:
    """A question about a scene."""

    text: str
    answer: str
    scene: Key
    family: str = "all"
    """The group whose accuracy is told apart: a question family of CLEVR, a question type of a video data set."""
    kind: str = ""
    """What kind of answer is asked for: the last function of the program."""
    program: list[dict] | None = None
    """The functional program (`iprm.vqa.data.programs`), where known and asked for."""
    options: Key | None = None
    """Questions with the same value here are the options of one question of multiple choice."""
    one_correct: bool = False
    """Whether just one of the options is correct, so that a model chooses one; else it judges each by itself."""


class Source(Protocol):
    """A data set on disk. Each reader is a frozen dataclass whose first field is its folder.

    `whole` asks for what only looking inside needs: programs of questions and records of scenes, which training
    over a large file leaves unread.
    """

    @property
    def folder(self) -> Path:
        """Where its files are."""
        ...

    label_columns: ClassVar[tuple[str, ...]]
    """The names of `Scene.labels`' columns. Columns of the same name share a vocabulary."""
    number_columns: tuple[str, ...]
    """The names of `Scene.numbers`' columns."""

    def questions(self, split: str, most: int | None = None, whole: bool = False) -> list[Question]:
        """Return the first `most` questions of a split (None: all). Raises `DataError`.

        Options stay together: those of the last question are all returned, beyond `most` where need be.
        """
        ...

    def scenes(self, split: str, keys: Sequence[Key], whole: bool = False) -> Sequence[Scene]:
        """Return the scenes of a split that `keys` name, in their order. Raises `DataError` where one is missing.

        A sequence that reads a scene when it is taken (features too large for memory) is as good as a list.
        """
        ...

    def true_objects(self, question: Question, scene: Scene) -> list[list[int]] | None:
        """Return for every step of the question's program the objects that it is about; None where that is unknown."""
        ...
