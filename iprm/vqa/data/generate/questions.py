"""The forms of questions: which chains of relations each has, how it ends, and how long its program is."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, product
from typing import NamedTuple

from iprm.vqa.data.generate.drafts import Draft, Group, Sight
from iprm.vqa.data.generate.scenes import VALUES
from iprm.vqa.data.programs import ATTRIBUTES, Degenerate, answer_text

Chains = tuple[tuple[str, ...], ...]
YES_NO = ("yes", "no")
FEW = ("0", "1")  # larger numbers cannot all be had as often


class Drawn(NamedTuple):
    """A question about a scene, and by what its answers are balanced."""

    words: str
    answer: str
    answers: Sequence[str]  # no answer is to be given more often than the rarest of these; none: as it falls
    nouns: tuple = ()  # which attributes describe what is asked for
    shown: int = 0  # the objects whose attributes the answer tells of, as bits

    @property
    def number(self) -> bool:
        """Whether the answer is a number that is to be balanced."""
        return self.answers is FEW


def _named(*groups: Group) -> tuple:
    return tuple(frozenset(attribute for attribute, _ in group.description) for group in groups)


def _exist(draft: Draft, group: Group, words: str) -> Drawn:
    draft.add("exist", group.node)
    return Drawn(words, answer_text(group.objects > 0), YES_NO, _named(group))


def _count(draft: Draft, group: Group, words: str) -> Drawn:
    draft.add("count", group.node)
    return Drawn(words, answer_text(group.objects.bit_count()), FEW)


def exist(draft: Draft, chains: Chains) -> Drawn:
    """Are there any red cubes left of the sphere?"""
    group = draft.some(draft.place(chains), relative=True)
    return _exist(draft, group, f"Are there any {group.words}?")


def count(draft: Draft, chains: Chains) -> Drawn:
    """How many red cubes left of the sphere are there?"""
    group = draft.some(draft.place(chains), relative=True)
    return _count(draft, group, f"How many {group.words} are there?")


def query(draft: Draft, chains: Chains) -> Drawn:
    """What color is the cube left of the sphere?"""
    attribute = draft.pick(ATTRIBUTES)
    thing = draft.the(draft.place(chains, attribute), attribute)
    draft.add(f"query_{attribute}", thing.node)
    answer = draft.sight.things[thing.index][attribute]
    return Drawn(f"What {attribute} is the {thing.words}?", answer, VALUES[attribute], shown=1 << thing.index)


def compare_attribute(draft: Draft, chains: Chains) -> Drawn:
    """Is the size of the cube left of the sphere the same as that of the red thing?"""
    attribute = draft.pick(ATTRIBUTES)
    a, b = (draft.the(draft.chain(chain, attribute), attribute) for chain in chains)
    if a.index == b.index:
        raise Degenerate("an object is not compared with itself")
    queries = [draft.add(f"query_{attribute}", thing.node) for thing in (a, b)]
    draft.add(f"equal_{attribute}", *queries)
    same = draft.sight.things[a.index][attribute] == draft.sight.things[b.index][attribute]
    words = f"Is the {attribute} of the {a.words} the same as that of the {b.words}?"
    return Drawn(words, answer_text(same), YES_NO, shown=1 << a.index | 1 << b.index)


def _two_groups(draft: Draft, chains: Chains) -> tuple[Group, Group]:
    """Append two sets; by their words, neither is part of the other."""
    a, b = (draft.some(draft.chain(chain)) for chain in chains)
    if a.includes(b) or b.includes(a) or a.words == b.words:
        raise Degenerate("one set is part of the other by its words")
    return a, b


COMPARISONS = {
    "equal_integer": ("Are there as many {} as {}?", int.__eq__),
    "less_than": ("Are there fewer {} than {}?", int.__lt__),
    "greater_than": ("Are there more {} than {}?", int.__gt__),
}


def compare_integer(draft: Draft, chains: Chains) -> Drawn:
    """Are there more cubes left of the sphere than red things?"""
    a, b = _two_groups(draft, chains)
    function = draft.pick(tuple(COMPARISONS))
    words, holds = COMPARISONS[function]
    draft.add(function, *[draft.add("count", group.node) for group in (a, b)])
    truth = holds(a.objects.bit_count(), b.objects.bit_count())
    return Drawn(words.format(a.words, b.words), answer_text(truth), YES_NO, _named(a, b))


def _either(draft: Draft, chains: Chains) -> Group:
    a, b = _two_groups(draft, chains)
    objects = a.objects | b.objects
    wider = [objects | w for w in (*a.wider, *b.wider)]
    if objects in wider:
        raise Degenerate("a relation does no work")
    node = draft.add("union", a.node, b.node)
    return Group(f"either {a.words} or {b.words}", node, objects, [*a.description, *b.description], tuple(wider))


def either_exist(draft: Draft, chains: Chains) -> Drawn:
    """Are there any things that are either red cubes left of the sphere or small things?"""
    group = _either(draft, chains)
    return _exist(draft, group, f"Are there any things that are {group.words}?")


def either_count(draft: Draft, chains: Chains) -> Drawn:
    """How many things are either red cubes left of the sphere or small things?"""
    group = _either(draft, chains)
    return _count(draft, group, f"How many things are {group.words}?")


def _twisted(ending: Callable[[Draft, Group, str], Drawn], words: str, contradictory: bool) -> Callable:
    def make(draft: Draft, chains: Chains) -> Drawn:
        group = draft.twisted(contradictory)
        return ending(draft, group, words.format(group.words))._replace(answers=())

    return make


@dataclass(frozen=True, eq=False)
class Form:
    """A kind of question.

    Every chain begins with a noun that names 1 to 4 attributes and goes on with nouns that name up to 2. The last
    nouns, one that all chains lead to or (`apart`) one at the end of each, name up to `most`; at least 1 in the whole
    scene unless `bare`.
    """

    make: Callable[[Draft, Chains], Drawn]
    weight: float  # how often it is drawn
    chains: Sequence[Chains]  # to choose from
    ending: int  # nodes that follow the chains and their filters
    most: int = 3
    apart: bool = False
    bare: bool = False


class Layout(NamedTuple):
    """A form with its chains, and the program's length decided."""

    form: int  # index into the forms
    chains: Chains
    least: list[int]  # attributes that each noun names at least, in the order of the nouns
    room: list[int]  # the nouns' positions, each as often as it may name one more
    extra: int  # how many more are named in all


def _slots(form: Form, chains: Chains) -> list[tuple[int, int]]:
    """Return how many attributes each noun names, at least and at most, in the order of the nouns."""
    slots = []
    for chain in chains:
        slots += [(1, 4), *[(0, 2)] * (len(chain) - 1)] if chain else []
        if form.apart:
            slots.append((0 if chain else 1, form.most))
    return slots if form.apart else [*slots, (0 if chains[0] or form.bare else 1, form.most)]


def _layouts(forms: Sequence[Form], index: int, length: int) -> list[Layout]:
    """Return every way in which a form's program has `length` nodes."""
    form, found = forms[index], []
    for chains in form.chains:
        slots = _slots(form, chains)
        least = [low for low, _ in slots]
        room = [i for i, (low, high) in enumerate(slots) for _ in range(high - low)]
        extra = length - form.ending - sum(1 + 2 * len(chain) for chain in chains) - sum(least)
        if 0 <= extra <= len(room):
            found.append(Layout(index, chains, least, room, extra))
    return found


RELATED = [(("relate",) * hops,) for hops in (1, 2, 3)]
SAME = [
    (tuple("same" if hop == same else "relate" for hop in range(hops)),) for hops in (1, 2, 3) for same in range(hops)
]
TWO = [a + b for a, b in product([((),), *RELATED], repeat=2)]
BOTH = [a + b for a, b in product(RELATED, repeat=2)]

# The position is the `question_family_index` of the files.
FORMS = (
    Form(exist, 6, [((),)], ending=1, most=4),
    Form(count, 8, [((),)], ending=1, most=4, bare=True),
    Form(query, 14, [((),)], ending=2),
    Form(compare_attribute, 12, TWO, ending=5, apart=True),
    Form(compare_integer, 10, TWO, ending=3, apart=True),
    Form(exist, 5, SAME, ending=1),
    Form(count, 5, SAME, ending=1),
    Form(query, 6, SAME, ending=2),
    Form(exist, 4, RELATED, ending=1),
    Form(count, 4, RELATED, ending=1),
    Form(query, 6, RELATED, ending=2),
    Form(either_exist, 2, TWO, ending=2, apart=True),
    Form(either_count, 2, TWO, ending=2, apart=True),
    Form(exist, 4, BOTH, ending=2),
    Form(count, 4, BOTH, ending=2),
    Form(query, 6, BOTH, ending=3),
)
# Half of these contradict themselves; the others are worded alike and do not.
CONTRADICTORY = tuple(
    Form(_twisted(ending, words, contradictory), 1, [((),)], ending=2)
    for ending, words in ((_exist, "Are there any {}?"), (_count, "How many {} are there?"))
    for contradictory in (True, False)
)


class Menu(NamedTuple):
    """Layouts to draw from, and their weights added up."""

    forms: Sequence[Form]
    layouts: list[Layout]
    weights: list[float]


@cache
def menu(shortest: int, longest: int, forms: Sequence[Form] = FORMS) -> Menu:
    """Return every layout of `shortest` to `longest` nodes: forms by their weights, each form's lengths alike."""
    layouts: list[Layout] = []
    weights: list[float] = []
    for index, form in enumerate(forms):
        of_length = [found for n in range(shortest, longest + 1) if (found := _layouts(forms, index, n))]
        for found in of_length:
            layouts += found
            weights += [form.weight / len(of_length) / len(found)] * len(found)
    return Menu(forms, layouts, list(accumulate(weights)))


def draw(rng: random.Random, sight: Sight, form: Form, layout: Layout) -> tuple[Drawn, Draft]:
    """Return one question of a layout. Raises `Degenerate` where the draw gives none."""
    sizes = list(layout.least)
    for noun in rng.sample(layout.room, layout.extra):
        sizes[noun] += 1
    draft = Draft(rng, sight, sizes)
    return form.make(draft, layout.chains), draft
