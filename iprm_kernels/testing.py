"""The one way to judge numbers: whether a computation errs no more than its number format must.

For tests and benchmarks, and for whoever brings a new backend or card. Truth is the definition in float64. The error
of a tensor is a norm over all of it. The unit that it is measured in is the error that rounding must make there, at
the same weights and inputs: the larger of

- (a) the error of the definition itself, run in the format, and
- (b) the change of the float64 answer when every input and weight is moved by one rounding, x (1 ± eps): nothing
  sharper is known of the inputs, and no order of summation changes it.

One ratio error / unit is a matter of luck: where rounding is amplified, or a tensor has one element, both are like one
normal variable each. So `judge` looks at several draws of weights and inputs and at each tensor's typical ratio, the
geometric mean. It passes at once where that is at most `AT_ONCE` after `FEWEST` draws, and where it is at most
`ALLOWED` after `MOST`. It fails sooner only on what rounding cannot do: `GROSS`, `HOPELESS`, what is not finite.

False alarms. Let error, (a) and (b) be independent normal variables of one deviation, the worst that happens (many
elements average it away). Of 10^7 simulated verdicts on such a tensor none fails on its typical ratio, and for an error
of 1.4 times that deviation 5 do with two moves and none with four. A single ratio beyond x needs (a) and both moves to
be below 1 / x of the error: 1.3 / x³, which `GROSS` makes 1e-8.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

Outputs = Mapping[str, Tensor]

FEWEST, AT_ONCE = 2, 1.5
MOST, ALLOWED = 24, 2.0
ENOUGH, HOPELESS = 6, 6.0
"""From how many draws on a typical ratio beyond which fails at once."""
GROSS = 512.0
"""A ratio that fails in a single draw."""
LEAST, GREATEST = 1 / 8, 64.0
"""What one ratio counts as in the mean, at least and at most: neither a lucky zero nor one outlier decides it."""
EXACT, AMPLIFIED = 1e-10, 2.0**10
"""In float64, where truth is rounded too, the unit is `EXACT`, or so many times (b), and one draw can pass."""
ZERO = 1e-10
"""A tensor this much smaller than the largest is zero but for rounding: it is held to the scale of the largest."""


def map_tensors(change: Callable[[Tensor], Tensor], values: Any) -> Any:
    """The nest of dicts, lists and tuples with every floating tensor changed, and everything else as it is."""
    if isinstance(values, Tensor):
        return change(values) if values.is_floating_point() else values
    if isinstance(values, dict):
        return {name: map_tensors(change, value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(map_tensors(change, value) for value in values)
    return values


def rounded(values: Any, dtype: torch.dtype, device: torch.device | str = "cpu") -> Any:
    """Every floating tensor of a nest in float64 on a device, with values that `dtype` has."""
    return map_tensors(lambda x: x.detach().to(dtype).to(device, torch.float64), values)


def moved(values: Any, dtype: torch.dtype) -> Any:
    """Every floating tensor of a nest moved by one rounding: x (1 ± eps), the signs at random."""
    eps = torch.finfo(dtype).eps

    def change(x: Tensor) -> Tensor:
        signs = 2.0 * torch.randint(0, 2, x.shape, device=x.device, dtype=x.dtype) - 1.0
        return x * (1.0 + eps * signs)

    return map_tensors(change, values)


@contextlib.contextmanager
def seeded(seed: int) -> Generator[None]:
    """Within it torch draws from `seed`; the CPU's generator is put back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class Draw:
    """One draw of weights and inputs, with what is true there and what rounding must make of it."""

    def __init__(self, draws: Draws, seed: int) -> None:
        self._draws, self._seed = draws, seed
        with seeded(seed):
            self.values = draws.sample()
        self.exact = draws.exact(self.values)
        self._norms = {name: t.norm().item() for name, t in self.exact.items()}
        largest = max(self._norms.values(), default=0.0)
        self._scales = {name: norm if norm > ZERO * largest else largest for name, norm in self._norms.items()}

    def errors(self, found: Outputs) -> dict[str, float]:
        """The relative error of each tensor; infinite where one is not finite.

        Raises:
            ValueError: other names or shapes than the definition's.
        """
        if found.keys() != self.exact.keys():
            raise ValueError(f"outputs: expected those of the definition, {found.keys() ^ self.exact.keys()} differ")
        return {name: self._error(name, t) for name, t in found.items()}

    def _error(self, name: str, found: Tensor) -> float:
        truth = self.exact[name]
        if found.shape != truth.shape:
            raise ValueError(f"{name}: expected {tuple(truth.shape)}, got {tuple(found.shape)}")
        error = (found.to(truth.device, torch.float64) - truth).norm().item() / (self._scales[name] or 1.0)
        return error if math.isfinite(error) else math.inf

    @cached_property
    def own(self) -> dict[str, float]:
        """Unit (a), no less than one rounding of every element; no more where the definition itself overflows."""
        draws, info = self._draws, torch.finfo(self._draws.dtype)
        if draws.dtype == torch.float64:
            return dict.fromkeys(self.exact, EXACT)
        smallest = info.smallest_normal * info.eps  # the spacing of what is too small for eps to hold
        least = {
            name: max(info.eps, smallest * t.numel() ** 0.5 / (self._scales[name] or 1.0))
            for name, t in self.exact.items()
        }
        found = self.errors(draws.own(self.values))
        return {name: max(error, least[name]) if math.isfinite(error) else least[name] for name, error in found.items()}

    @cached_property
    def unit(self) -> dict[str, float]:
        """The larger of (a) and (b)."""
        draws, squares = self._draws, dict.fromkeys(self.exact, 0.0)
        factor = AMPLIFIED if draws.dtype == torch.float64 else 1.0
        with seeded(self._seed + 1):
            nearby = [moved(self.values, draws.dtype) for _ in range(draws.moves)]
        for values in nearby:
            for name, error in self.errors(draws.exact(values)).items():
                squares[name] += (factor * error) ** 2 / draws.moves
        return {name: max(own, math.sqrt(squares[name])) for name, own in self.own.items()}


class Draws:
    """The draws on which a computation is judged: made when first asked for, and shared by all its candidates.

    Args:
        dtype: the format that is judged.
        sample: a nest (dicts, lists, tuples) of weights and inputs, drawn from torch's generator: floating tensors in
            float64 with values that can be stored in the format (see `rounded`); seeds, masks and the like as they are.
        exact: the outputs and gradients of the definition in float64 at such a nest, by name.
        own: those of the definition run in the format, at the same nest.
        smooth: False where a slope jumps (relu): there rounding may take the other side, and no single draw fails.
        moves: how often the float64 run is moved in a draw, so that its change is not small by accident; two suffice.
        seed: of the first draw; from torch's generator where None.
    """

    def __init__(
        self,
        dtype: torch.dtype,
        sample: Callable[[], Any],
        exact: Callable[[Any], Outputs],
        own: Callable[[Any], Outputs],
        *,
        smooth: bool = True,
        moves: int = 4,
        seed: int | None = None,
    ) -> None:
        self.dtype, self.sample, self.exact, self.own = dtype, sample, exact, own
        self.smooth, self.moves = smooth, moves
        self._seed = int(torch.randint(2**48, ())) if seed is None else seed
        self._made: list[Draw] = []

    def __getitem__(self, index: int) -> Draw:
        while len(self._made) <= index:
            self._made.append(Draw(self, self._seed + 2 * len(self._made)))
        return self._made[index]


@dataclass(frozen=True)
class Verdict:
    """What was found of the tensor that is furthest from, or nearest to, what rounding must make.

    where: its name.  error: its typical error, relative to its norm.  ratio: the same in units.
    allowed: the ratio that passes.  draws: how many were looked at.
    """

    where: str
    error: float
    ratio: float
    allowed: float
    draws: int

    @property
    def passed(self) -> bool:
        return self.ratio <= self.allowed  # false for NaN

    def __str__(self) -> str:
        return (
            f"{self.where}: error {self.error:.2g} is {self.ratio:.2g} times what rounding must make, "
            f"{'within' if self.passed else 'beyond'} the allowed {self.allowed:g} ({self.draws} draws)"
        )


def typical(values: list[float]) -> float:
    """The geometric mean of positive numbers."""
    return math.exp(sum(map(math.log, values)) / len(values))


def _decided(
    errors: list[dict[str, float]], units: list[dict[str, float]], fewest: int, gross: float
) -> Verdict | None:
    """The verdict on the draws so far; None where more are needed."""
    ratios = [{name: row[name] / unit[name] for name in row} for row, unit in zip(errors, units, strict=True)]
    count, last = len(ratios), ratios[-1]
    where = max(last, key=last.__getitem__)
    if last[where] > gross:
        return Verdict(where, errors[-1][where], last[where], gross, count)
    mean = {name: typical([min(max(row[name], LEAST), GREATEST) for row in ratios]) for name in last}
    where = max(mean, key=mean.__getitem__)
    error = typical([max(row[where], 1e-300) for row in errors])
    verdict = Verdict(where, error, mean[where], ALLOWED, count)
    at_once = count >= fewest and verdict.ratio <= AT_ONCE
    hopeless = count >= ENOUGH and verdict.ratio > HOPELESS
    return verdict if at_once or hopeless or count == MOST else None


def judge(draws: Draws, candidate: Callable[[Any], Outputs]) -> Verdict:
    """Whether the candidate errs no more than the format must.

    Args:
        draws: of the computation.
        candidate: its outputs and gradients at a nest of weights and inputs, with the definition's names and shapes.
    Raises:
        ValueError: other names or shapes.
    """
    fewest = 1 if draws.dtype == torch.float64 else FEWEST
    gross = GROSS if draws.smooth else sys.float_info.max
    seen: list[Draw] = []
    errors: list[dict[str, float]] = []
    verdict = None
    while verdict is None:
        seen.append(draws[len(seen)])
        errors.append(seen[-1].errors(candidate(seen[-1].values)))
        verdict = _decided(errors, [draw.own for draw in seen], fewest, gross)
        undecided = verdict is None and len(seen) >= fewest
        if undecided or (verdict and not verdict.passed):  # (b) costs more and only ever allows more
            verdict = _decided(errors, [draw.unit for draw in seen], fewest, gross)
    return verdict
