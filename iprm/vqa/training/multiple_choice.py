"""Questions of multiple choice judged with all of their options.

Each option is a question of its own, and most are wrong: who always says so is mostly right, and solves no question.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from torch import Tensor

from iprm.vqa.data.examples import CORRECT, Question


class Judged(NamedTuple):
    """A question, or an option of one, as a model answers it."""

    question: Question
    right: bool
    truth: float
    """The probability of the true answer."""


def by_question(questions: Sequence[Question], verdicts: Tensor) -> dict[str, float]:
    """Return the share of questions that are solved: `overall by question`, and `F by question` of a family F.

    A question without options is solved where it is answered right. One whose options are each judged by themselves is
    where all of them are; one with just one correct option where that is the most probable to be so.

    Args:
        questions: Q, with all options of each.
        verdicts: (2, Q) float64: 1 for a right answer and 0 for a wrong one; the probability of the true answer.
    Returns:
        the shares of the families that have options; nothing where none has. A question is of its first option's.
    """
    groups: dict[tuple[Hashable, int | None], list[Judged]] = defaultdict(list)
    for row, judged in enumerate(map(Judged, questions, *verdicts.tolist())):
        options = judged.question.options
        groups[options, row if options is None else None].append(judged)
    families = {group[0].question.family for (options, _), group in groups.items() if options is not None}
    solved: dict[str, list[bool]] = defaultdict(list)
    for group in groups.values():
        for name in ("overall", group[0].question.family):
            solved[name].append(_is_solved(group))
    names = ("overall", *sorted(families)) if families else ()
    return {f"{name} by question": sum(solved[name]) / len(solved[name]) for name in names}


def _is_solved(options: Sequence[Judged]) -> bool:
    if not options[0].question.one_correct:
        return all(option.right for option in options)
    correct = [option.truth for option in options if option.question.answer == CORRECT]
    others = [1 - option.truth for option in options if option.question.answer != CORRECT]
    return max(correct, default=0) > max(others, default=0)
