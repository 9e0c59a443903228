"""What is reached without looking: the most frequent training answer, of all questions or of each kind."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable

from iprm.clevr.data import Split

Kind = tuple[str, str]  # family, last function


def _most_frequent(split: Split, group: Callable[[Kind], Hashable]) -> dict[Hashable, int]:
    counts: dict[Hashable, Counter[int]] = defaultdict(Counter)
    for kind, answer in zip(split.kinds, split.answers.tolist(), strict=True):
        counts[group(kind)][answer] += 1
    return {key: counter.most_common(1)[0][0] for key, counter in counts.items()}


def prior_accuracy(train: Split, val: Split, group: Callable[[Kind], Hashable]) -> dict[str, float]:
    """Return the share of `val` that the most frequent answer of the same group in `train` gets right.

    Keys: `overall`, and each family of `val`. A group that training never saw gets nothing right.
    """
    guesses = _most_frequent(train, group)
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for kind, answer in zip(val.kinds, val.answers.tolist(), strict=True):
        for name in ("overall", kind[0]):
            asked[name] += 1
            right[name] += guesses.get(group(kind)) == answer
    return {name: right[name] / asked[name] for name in ("overall", *val.families)}


def priors(train: Split, val: Split) -> dict[str, dict[str, float]]:
    """Return three priors, each stronger than the last.

    `answer`: one answer to everything. `family`: one for each question family. `kind`: one for each family
    and last function, so that a question for a size is answered with a size.
    """
    groups = {"answer": lambda kind: None, "family": lambda kind: kind[0], "kind": lambda kind: kind}
    return {name: prior_accuracy(train, val, group) for name, group in groups.items()}
