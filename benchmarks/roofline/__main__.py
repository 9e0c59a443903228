"""Print the tables: python -m benchmarks.roofline."""

from __future__ import annotations

import argparse
from dataclasses import replace

import benchmarks.roofline
from benchmarks.roofline import machine, module
from benchmarks.roofline.cards import CARDS, Card
from benchmarks.roofline.counts import PASSES, Count, Launch, alone, launches, predicted
from benchmarks.roofline.module import HOST, STEPS
from benchmarks.roofline.tiles import Sizes

TIMES = ("floor", "ours", "alone", "earlier", "publ.")


def head(card: Card, s: Sizes) -> list[str]:
    """What the figures of a card hold for."""
    return [
        f"{card.name}, *predicted*, one step: B={s.B} N={s.N} L={s.L} D={s.D} R={s.R} W={s.W} {s.dtype}, dropout"
        f" {'on' if s.dropout else 'off'}, pairs {'kept' if s.kept else 'made again'};"
        f" peak {card.peak(s.dtype) / 1e12:g} TFLOP/s, {card.bandwidth / 1e12:g} TB/s,"
        f" second-level cache {card.cached / 1e12:.1f} TB/s and {card.cache / 1e6:g} MB, {card.multiprocessors}"
        f" multiprocessors at {card.clock / 1e9:g} GHz ({card.source}; bandwidth of the cache: an assumption)",
        f"{'K':>3} {'core and pass':<21} {'GFLOP':>8} {'MB least':>9} {'MB ours':>8} {'MB publ.':>9} {'launches':>12} "
        + " ".join(f"{name + ' us':>10}" for name in TIMES),
    ]


def times(count: Count, card: Card, dtype: str) -> list[float]:
    """The columns; nan where there is no earlier form."""
    return [
        count.floor(card, dtype),
        predicted(count.ours, card, dtype),
        alone(count.ours, card, dtype),
        predicted(count.earlier, card, dtype) if count.earlier else float("nan"),
        predicted(count.published, card, dtype),
    ]


def row(name: str, s: Sizes, card: Card) -> str:
    """One core and pass."""
    count = PASSES[name](s)
    moved = [sum(part.bytes for part in parts) / 1e6 for parts in (count.ours, count.published)]
    cells = (f"{1e6 * t:>10.1f}" if t == t else f"{'-':>10}" for t in times(count, card, s.dtype))
    return (
        f"{s.K:>3} {name:<21} {count.operations / 1e9:>8.1f} {count.bytes / 1e6:>9.1f} {moved[0]:>8.1f}"
        f" {moved[1]:>9.1f} {launches(count.ours):>5} /{launches(count.published):>5} {' '.join(cells)}"
    )


def details(parts: list[Launch], card: Card, dtype: str) -> list[str]:
    """A line for each launch: what each part of the card takes for it, the longest marked."""
    lines = []
    for part in parts:
        terms, longest = part.terms(card, dtype), part.binds(card, dtype)
        cells = (f"{name} {1e6 * t:.1f}{'*' if name == longest else ''}" for name, t in terms.items())
        lines.append(f"    {part.times:>3} x {part.name:<38} {'  '.join(cells)}")
    return lines


def whole(card: Card, s: Sizes, T: int) -> list[str]:
    """The module's forward and training step."""
    lines = []
    for step in STEPS:
        found = module.step_of(step, s, T)
        device = found.device(card, s.dtype)
        outside = predicted(found.others, card, s.dtype)
        lines.append(
            f"{s.K:>3} whole {step}, T={T}, *predicted*: {found.launches} launches; as a graph {1e6 * device:.0f} us,"
            f" of which {1e6 * outside:.0f} outside the cores; eager {1e6 * found.eager(card, s.dtype):.0f} us, the"
            f" host at {1e6 * HOST:.0f} us a launch"
        )
    return lines


def table(card: Card, sizes: list[Sizes], T: int, detail: bool) -> list[str]:
    """Lines for one card: a row for each number of operations and pass, and the whole module."""
    lines = head(card, sizes[0])
    for s in (replace(s, multiprocessors=card.multiprocessors) for s in sizes):
        for name in PASSES:
            lines.append(row(name, s, card))
            lines += details(PASSES[name](s).ours, card, s.dtype) if detail else []
        lines += whole(card, s, T)
    return lines


def main(arguments: list[str] | None = None) -> None:
    """Print the tables, or make the one of the machine code."""
    parser = argparse.ArgumentParser(
        description=benchmarks.roofline.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cards", default=",".join(CARDS), help="default %(default)s")
    parser.add_argument("--num-ops", default="1,2,4,6,8,12,16,32", help="default %(default)s")
    for flag, default in (
        ("batch", 64), ("visual-tokens", 196), ("language-tokens", 24), ("dim", 512), ("reduction", 2), ("window", 2),
        ("num-steps", 9),
    ):  # fmt: skip
        parser.add_argument(f"--{flag}", type=int, default=default, help="default %(default)s")
    parser.add_argument(
        "--dtype", default="bfloat16", choices=("float32", "bfloat16", "float16"), help="default %(default)s"
    )
    parser.add_argument("--dropout", action="store_true", help="at the default rates, in training steps")
    parser.add_argument("--kept", action="store_true", help='with all steps\' pairs kept, memory="fast"')
    parser.add_argument("--detail", action="store_true", help="what bounds each launch")
    parser.add_argument("--compile", action="store_true", help="count the machine code anew, with Triton")
    o = parser.parse_args(arguments)
    if o.compile:
        machine.compile_all()
        return
    of_all = Sizes(
        o.batch, 0, o.visual_tokens, o.language_tokens, o.dim, o.reduction, o.window, o.dtype, o.dropout, kept=o.kept
    )
    sizes = [replace(of_all, K=int(k)) for k in o.num_ops.split(",")]
    for name in o.cards.split(","):
        print("\n".join(table(CARDS[name], sizes, o.num_steps, o.detail)), end="\n\n")


if __name__ == "__main__":
    main()
