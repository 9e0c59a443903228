"""A clock that plays recorded times back, through which interleaved samples reach pytest-benchmark.

pytest-benchmark times one function at a time, which cannot interleave several. So a point is measured once
for all its variants, and each variant's test hands its own samples over: `benchmark.pedantic` reads this
clock before and after `Recording.play`, which moves it on by the next sample. JSON names this clock as the
timer.
"""

from __future__ import annotations

_now = 0.0


def recorded_time() -> float:
    """Seconds on the recorded clock."""
    return _now


class Recording:
    """Samples to be played back one a round."""

    def __init__(self, samples: list[float]):
        self._left = iter(samples)
        self.rounds = len(samples)

    def play(self) -> None:
        """Move the clock on by the next sample."""
        global _now
        _now += next(self._left)
