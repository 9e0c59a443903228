"""What is reached without looking: the most frequent training answer, of all questions or of each kind."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable

from iprm.vqa.data.examples import Question
from iprm.vqa.data.tensors import Split


def _most_frequent(split: Split, group: Callable[[Question], Hashable]) -> dict[Hashable, str]:
    counts: dict[Hashable, Counter[str]] = defaultdict(Counter)
    for question in split.questions:
        counts[group(question)][question.answer] += 1
    return {key: counter.most_common(1)[0][0] for key, counter in counts.items()}


def prior_accuracy(train: Split, val: Split, group: Callable[[Question], Hashable]) -> dict[str, float]:
    """Return the share of `val` that the most frequent answer of the same group in `train` gets right.

    Keys: `overall`, and each family of `val`. A group that training never saw gets nothing right.
    """
    guesses = _most_frequent(train, group)
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for question in val.questions:
        for name in ("overall", question.family):
            asked[name] += 1
            right[name] += guesses.get(group(question)) == question.answer
    return {name: right[name] / asked[name] for name in ("overall", *val.families)}


def priors(train: Split, val: Split) -> dict[str, dict[str, float]]:
    """Return three priors, each stronger than the last.

    `answer`: one answer to everything. `family`: one for each question family. `kind`: one for each family
    and last function, so that a question for a size is answered with a size.
    """
    groups = {"answer": lambda q: None, "family": lambda q: q.family, "kind": lambda q: (q.family, q.kind)}
    return {name: prior_accuracy(train, val, group) for name, group in groups.items()}
