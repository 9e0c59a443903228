"""Questions asked about scene after scene, so that no answer prevails."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator
from typing import NamedTuple

from iprm.vqa.data.generate.drafts import Draft, Sight
from iprm.vqa.data.generate.questions import Drawn, Layout, Menu, draw
from iprm.vqa.data.generate.scenes import Pairs
from iprm.vqa.data.programs import Degenerate

DRAWS = 8  # of one layout, until its answer is one that is wanted
ENOUGH = 4  # questions for a number to choose from: the one whose answer was given least
LAYOUTS = 200  # tried for one question
ROOM = 1  # how much more often than the rarest an answer may have been given


class Candidate(NamedTuple):
    """A question that may be asked, and the groups of questions within which its answers are balanced."""

    question: Drawn
    draft: Draft
    groups: list[Hashable]


class Balance:
    """How often each answer was given, in every group of questions."""

    def __init__(self) -> None:
        self.given: dict[Hashable, Counter[str]] = defaultdict(Counter)

    def wants(self, candidate: Candidate) -> bool:
        """Return whether in no group the answer was given too often."""
        answer, answers = candidate.question.answer, candidate.question.answers
        return not answers or all(
            given[answer] <= ROOM + min([given[other] for other in answers])
            for given in [self.given[group] for group in candidate.groups]
        )

    def times(self, candidate: Candidate) -> int:
        """Return how often the answer was given to questions of its kind."""
        return self.given[candidate.groups[0]][candidate.question.answer]

    def take(self, candidate: Candidate) -> None:
        """Note that the question is asked."""
        for group in candidate.groups:
            self.given[group][candidate.question.answer] += 1


class Asker:
    """Asks about the scenes of a split: what is on the menu, about held-out pairs as `pairs` says."""

    def __init__(self, rng: random.Random, menu: Menu, pairs: Pairs):
        self.rng, self.menu, self.pairs = rng, menu, pairs
        self.balance = Balance()

    def questions(self, scene: dict, most: int) -> Iterator[dict]:
        """Yield up to `most` questions, all different, as the files have them; fewer where no more are found."""
        sight, seen = Sight(scene), set()
        for _ in range(most):
            found = self._question(sight, seen)
            if found is None:
                return
            seen.add(found["question"])
            yield found

    def _question(self, sight: Sight, seen: set[str]) -> dict | None:
        for _ in range(LAYOUTS):
            layout = self.rng.choices(self.menu.layouts, cum_weights=self.menu.weights)[0]
            candidates = self._candidates(sight, layout, seen)
            if candidates:
                chosen = min(candidates, key=self.balance.times)
                self.balance.take(chosen)
                words, answer = chosen.question.words, chosen.question.answer
                question = {"question_family_index": layout.form, "question": words, "answer": answer}
                return question | {"program": chosen.draft.program()}
        return None

    def _candidates(self, sight: Sight, layout: Layout, seen: set[str]) -> list[Candidate]:
        """Return a question of a layout with an answer that is wanted, or some that ask for a number."""
        found: list[Candidate] = []
        for _ in range(DRAWS):
            try:
                candidate = _candidate(layout, *draw(self.rng, sight, self.menu.forms[layout.form], layout))
            except Degenerate:
                continue
            new = candidate.question.words not in seen
            if new and self._allowed(sight, candidate) and self.balance.wants(candidate):
                found.append(candidate)
                if not candidate.question.number or len(found) == ENOUGH:
                    break
        return found

    def _allowed(self, sight: Sight, candidate: Candidate) -> bool:
        """Return whether the question is about held-out pairs, or is not, as it must.

        It is where it names one, or asks for an attribute of an object that has one. That objects exist or are few
        must not depend on whether they may be asked about, and so does not count.
        """
        if self.pairs == "any":
            return True
        named = candidate.draft.names_held_out()
        return not named if self.pairs == "never" else named or bool(candidate.question.shown & sight.held_out)


def _candidate(layout: Layout, question: Drawn, draft: Draft) -> Candidate:
    """Return a question with its groups: its kind first, then finer ones by what its words may give away."""
    kind = layout.form, draft.nodes[-1][0]
    finer = [] if question.number else [(kind, layout.chains), (kind, question.nouns)]
    return Candidate(question, draft, [kind, *finer])
