"""Still scenes seen over several frames: what a video of them would show a detector."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from iprm.vqa.data.clevr import Clevr
from iprm.vqa.data.examples import Key, Question, Scene
from iprm.vqa.data.generate.files import generated

SEEN = 0.7  # the chance that a frame shows an object
JITTER = 0.03  # how far a detected place strays, as a standard deviation, in units of `clevr.REACH`


@dataclass(frozen=True)
class Frames:
    """The scenes of `clevr`, each over `frames` frames: a token is an object in a frame, with the frame's time.

    A frame shows each object with chance `SEEN`, the first frame all of them, and places stray a little from frame to
    frame; so the same questions have the same answers, and as frames grow an object is ever more tokens.
    """

    clevr: Clevr
    frames: int

    label_columns = Clevr.label_columns
    number_columns = (*Clevr.number_columns, "time")

    @property
    def folder(self) -> Path:
        """The folder of the questions."""
        return self.clevr.folder

    def questions(self, split: str, most: int | None = None, whole: bool = False) -> list[Question]:
        """See `Source.questions`."""
        return self.clevr.questions(split, most, whole)

    def scenes(self, split: str, keys: Sequence[Key], whole: bool = False) -> list[Scene]:
        """See `Source.scenes`."""
        scenes = self.clevr.scenes(split, keys, whole)
        return [self._seen(scene, f"{split} {key}") for key, scene in zip(keys, scenes, strict=True)]

    def _seen(self, scene: Scene, seed: str) -> Scene:
        rng = random.Random(seed)
        shown = [
            (frame, i)
            for frame in range(self.frames)
            for i in range(len(scene.labels))
            if frame == 0 or rng.random() < SEEN
        ]
        places = [[x + rng.gauss(0, JITTER) for x in scene.numbers[i]] for _, i in shown]
        times = [[frame / max(1, self.frames - 1)] for frame, _ in shown]
        objects = [i for _, i in shown]
        return Scene(
            labels=[scene.labels[i] for i in objects],
            numbers=np.concatenate([places, times], 1).astype(np.float32),
            objects=objects,
            record=scene.record,
        )

    def true_objects(self, question: Question, scene: Scene) -> list[list[int]] | None:
        """See `Source.true_objects`."""
        return self.clevr.true_objects(question, scene)


def generated_frames(folder: Path, frames: int = 4, **settings: int | bool) -> Frames:
    """Return generated questions (`generate.files.generated`) whose scenes are seen over `frames` frames.

    Raises `ValueError` for a wrong setting.
    """
    if not isinstance(frames, int) or frames < 1:
        raise ValueError(f"frames: expected an integer of at least 1, got {frames!r}")
    return Frames(generated(folder, **settings), frames)
