"""What the cores must cost on a card: bytes, operations and launches, and the times they predict.

    python -m benchmarks.roofline
    python -m benchmarks.roofline --num-ops 1,6,16,32 --batch 64 --dim 512 --cards H100

Every figure is *predicted*: nothing here ran on a card. Three columns for each core and pass:

    floor      the larger of operations / peak and compulsory bytes / bandwidth: inputs read once,
               outputs written once
    ours       the launches of the Triton kernels: for each, the larger of the two, never less than
               a launch
    published  the published form in eager PyTorch: one launch an operator, every intermediate
               written and read

Rules of the count: a tensor that a launch reads or writes moves once between the chip and its
memory, even where it could stay in the second-level cache; products run at PEAK_SHARE of the
datasheet's dense peak and memory at BANDWIDTH_SHARE, the same for ours and the published form;
elementwise operations count as bytes only.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from iprm_kernels.backends.triton.configs import BUFFER_BYTES, WEIGHT_COLUMNS, WEIGHT_PROGRAMS

PEAK_SHARE, BANDWIDTH_SHARE = 0.6, 0.85
"""What well-made kernels reach of the datasheet's figures."""
LAUNCH = 3e-6
"""Seconds from one kernel to the next on a stream that is kept full; eager PyTorch issues no faster."""


@dataclass(frozen=True)
class Card:
    """Datasheet figures: dense operations per second by number format, bytes per second, multiprocessors, and bytes of
    the second-level cache."""

    name: str
    half: float
    float32: float
    bandwidth: float
    multiprocessors: int
    cache: int
    source: str

    def peak(self, dtype: str) -> float:
        return self.float32 if dtype == "float32" else self.half


CARDS = {
    card.name: card
    for card in (
        Card(
            "A100", 312e12, 19.5e12, 2.039e12, 108, 40 * 10**6,
            "NVIDIA A100 Tensor Core GPU datasheet, A100 80GB SXM; A100 Tensor Core GPU Architecture whitepaper",
        ),
        Card(
            "H100", 989e12, 67e12, 3.35e12, 132, 50 * 10**6,
            "NVIDIA H100 Tensor Core GPU datasheet, H100 SXM, dense: half of its figure, which is with sparsity;"
            " H100 Tensor Core GPU Architecture whitepaper, SXM5",
        ),
        Card(
            "H200", 989e12, 67e12, 4.8e12, 132, 50 * 10**6,
            "NVIDIA H200 Tensor Core GPU datasheet, H200 SXM, dense: half of its figure; the chip is that of the H100",
        ),
        Card(
            "B200", 2250e12, 75e12, 7.7e12, 148, 126 * 10**6,
            "NVIDIA Blackwell datasheet, a GPU of HGX B200, dense: half of its figure; multiprocessors and cache as the"
            " driver reports them",
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """One step at one size, letters as in the mechanism."""

    B: int = 64
    K: int = 6
    N: int = 196
    L: int = 24
    D: int = 512
    r: int = 2
    W: int = 2
    dtype: str = "bfloat16"

    @property
    def R(self) -> int:
        return self.D // self.r

    @property
    def columns(self) -> int:
        return self.K * (1 + self.W)

    @property
    def pairs(self) -> int:
        return self.B * self.K * self.N

    @property
    def width(self) -> int:
        """Bytes of an element."""
        return 4 if self.dtype == "float32" else 2


@dataclass(frozen=True)
class Launch:
    """One kernel, or `times` of the same: operations of its products, bytes it moves."""

    name: str
    operations: float
    bytes: float
    times: int = 1

    def seconds(self, card: Card, dtype: str) -> float:
        compute = self.operations / (PEAK_SHARE * card.peak(dtype))
        memory = self.bytes / (BANDWIDTH_SHARE * card.bandwidth)
        return max(compute, memory, LAUNCH * self.times)


@dataclass(frozen=True)
class Count:
    """A core's pass: the floor's operations and bytes, our launches, and those of the published form."""

    operations: float
    bytes: float
    ours: list[Launch]
    published: list[Launch]

    def floor(self, card: Card, dtype: str) -> float:
        return max(self.operations / card.peak(dtype), self.bytes / card.bandwidth)


def elementwise(name: str, elements: float, width: int, reads: int = 1, writes: int = 1) -> Launch:
    """An operator over tensors of so many elements."""
    return Launch(name, 0, elements * width * (reads + writes))


def attention_sizes(s: Sizes, tokens: int) -> tuple[float, float, float]:
    """Bytes of (B, K, D), of (B, tokens, D), and of (B, K, tokens) in float32."""
    return s.B * s.K * s.D * s.width, s.B * tokens * s.D * s.width, 4 * s.B * s.K * tokens


def formation_forward(s: Sizes) -> Count:
    q, x, a = attention_sizes(s, s.L)
    product, cells = 2 * s.B * s.K * s.L * s.D, s.B * s.K * s.L * s.D
    ours = [Launch("products", product, q + x + a), Launch("pool", product, a + x + q + a)]
    published = [
        elementwise("q ⊙ x", cells, s.width),
        Launch("f ·", product, cells * s.width + a),
        Launch("softmax", 0, 2 * a),
        elementwise("a ⊙ x", cells, s.width),
        elementwise("Σ", cells, s.width, writes=0),
    ]
    return Count(2 * product, 2 * q + x + a, ours, published)


def formation_backward(s: Sizes) -> Count:
    q, x, a = attention_sizes(s, s.L)
    product, cells = 2 * s.B * s.K * s.L * s.D, s.B * s.K * s.L * s.D
    ours = [
        Launch("products", product, q + x + 2 * a),
        Launch("slope", 0, 3 * a),
        Launch("d_tokens", 2 * product, 2 * a + 2 * q + x),
        Launch("d_query", product, a + x + 3 * q),
        Launch("sum of df", 0, 4 * s.B * s.D),
    ]
    published = [
        elementwise("da ⊙ x", cells, s.width),
        elementwise("Σ", cells, s.width, writes=0),
        elementwise("a ⊙ dz", cells, s.width),
        elementwise("Σ over k", cells, s.width, writes=0),
        Launch("softmax", 0, 3 * a),
        Launch("f ·, its two products", 2 * product, 2 * cells * s.width, 2),
        elementwise("dq and dx of q ⊙ x", cells, s.width, 1, 2),
        elementwise("Σ, twice", cells, s.width, 2, 0),
    ]
    return Count(4 * product, 3 * q + 2 * x + 2 * a, ours, published)


def chunks_of(s: Sizes) -> int:
    """How often the backward pass fills its buffers."""
    per_chunk = max(1, BUFFER_BYTES // (3 * s.K * s.N * s.R * s.width))
    return -(-s.B // per_chunk)


def execution_forward(s: Sizes) -> Count:
    q, x, a = attention_sizes(s, s.N)
    keys, small, weights = s.B * s.N * s.R * s.width, s.B * s.K * s.R * s.width, 2 * s.R * s.R * s.width
    pair = s.pairs * s.R * s.width
    chain, pool = 4 * s.pairs * s.R**2, 2 * s.B * s.K * s.N * s.D
    ours = [Launch("logits", chain, 2 * keys + 2 * small + weights + a), Launch("pool", pool, a + x + q + a)]
    published = [
        Launch("g ⊙ v", 0, 2 * pair),
        Launch("[g ⊙ v ; v]", 0, 4 * pair),
        Launch("C1", 2 * s.pairs * 2 * s.R * s.R, 3 * pair),
        Launch("φ", 0, 2 * pair),
        Launch("C2", 2 * s.pairs * s.R**2, 2 * pair),
        Launch("⊙ l", 0, 2 * pair),
        Launch("φ", 0, 2 * pair),
        Launch("w ·", 2 * s.pairs * s.R, pair + a),
        Launch("softmax", 0, 2 * a),
        Launch("Wv x̃", 2 * s.B * s.N * s.D**2, 2 * x),
        Launch("a Wv x̃", pool, x + q + a),
    ]
    return Count(chain + pool, 2 * keys + 2 * small + weights + x + q + a, ours, published)


def execution_backward(s: Sizes) -> Count:
    q, x, a = attention_sizes(s, s.N)
    keys, small, weights = s.B * s.N * s.R * s.width, s.B * s.K * s.R * s.width, 2 * s.R * s.R * s.width
    pair, times = s.pairs * s.R * s.width, chunks_of(s)
    parts = 4 * WEIGHT_PROGRAMS * WEIGHT_COLUMNS[s.width] ** 2  # of one weight's gradient
    product, pool = 2 * s.pairs * s.R**2, 2 * s.B * s.K * s.N * s.D
    ours = [
        Launch("products", pool, q + x + 2 * a),
        Launch("slope", 0, 3 * a),
        Launch("d_tokens", pool, a + q + x),
        Launch("recompute", 2 * product, 2 * pair + 2 * keys + 2 * small + a, times),
        Launch("chain_backward", 2 * product, 3 * pair + 2 * keys + 2 * small, times),
        Launch("weights", 2 * product, 3 * pair + keys + 2 * small + 2 * parts, 2 * times),
        Launch("sums of dC1a, dC2, dg, dl, dc2 and dw", 0, 2 * parts + 4 * s.pairs * s.R / 64, 6),
    ]
    published = [
        Launch("a Wv x̃", 2 * pool, 2 * x + 2 * q + 2 * a, 2),
        Launch("Wv x̃", 4 * s.B * s.N * s.D**2, 4 * x, 2),
        Launch("softmax", 0, 3 * a),
        Launch("w ·", 4 * s.pairs * s.R, 2 * pair + 2 * a, 2),
        Launch("φ", 0, 3 * pair),
        Launch("⊙ l", 0, 5 * pair, 3),
        Launch("C2", 2 * product, 4 * pair, 3),
        Launch("φ", 0, 3 * pair),
        Launch("C1", 4 * product, 6 * pair, 3),
        Launch("[g ⊙ v ; v]", 0, 4 * pair, 2),
        Launch("g ⊙ v", 0, 5 * pair, 4),
    ]
    # the floor keeps nothing of the forward pass: two products again, four of the gradients
    moved = 4 * keys + 4 * small + 2 * weights + 2 * x + q + 2 * a
    return Count(6 * product + 2 * pool, moved, ours, published)


def composition_sizes(s: Sizes) -> tuple[float, float, float, float]:
    """Bytes of (B, K, D), of a (B, columns, D), of (B, K, columns) float32, and of (B, K, columns, D)."""
    state = s.B * s.K * s.D * s.width
    return state, state * (1 + s.W), 4 * s.B * s.K * s.columns, s.K * state * (1 + s.W)


def composition_forward(s: Sizes) -> Count:
    state, window, a, cells = composition_sizes(s)
    product = 2 * s.B * s.K * s.columns * s.D
    ours = [Launch("composition_forward", 0, 3 * window + 3 * state + a)]
    published = [
        Launch("three windows joined", 0, 6 * window, 3),
        Launch("q ⊙ k", 0, window + state + cells),
        Launch("c ·", product, cells + a),
        Launch("mask and softmax", 0, 4 * a, 2),
        Launch("a ⊙ ō, a ⊙ ē", 0, 2 * cells + 2 * window, 2),
        Launch("Σ, twice", 0, 2 * cells + 2 * state, 2),
    ]
    return Count(3 * product, 3 * window + 3 * state + a, ours, published)


def composition_backward(s: Sizes) -> Count:
    state, window, a, cells = composition_sizes(s)
    product = 2 * s.B * s.K * s.columns * s.D
    float_state = 4 * s.B * s.K * s.D
    ours = [
        Launch("operations_backward", 0, 3 * window + 4 * state + 3 * a + float_state),
        Launch("columns_backward", 0, 3 * window + 3 * state + 2 * a),
        Launch("sum of dc", 0, float_state, 2),
    ]
    published = [
        Launch("Σ ⊙, four gradients", 0, 8 * cells, 8),
        Launch("softmax", 0, 3 * a),
        Launch("c ·", 2 * product, 2 * cells, 2),
        Launch("q ⊙ k", 0, 4 * cells, 4),
        Launch("windows split", 0, 6 * window, 9),
    ]
    return Count(6 * product, 6 * window + 4 * state + 2 * a, ours, published)


PASSES: dict[str, Callable[[Sizes], Count]] = {
    "formation forward": formation_forward,
    "formation backward": formation_backward,
    "execution forward": execution_forward,
    "execution backward": execution_backward,
    "composition forward": composition_forward,
    "composition backward": composition_backward,
}


def launches(parts: list[Launch]) -> int:
    """How many kernels."""
    return sum(part.times for part in parts)


def predicted(parts: list[Launch], card: Card, dtype: str) -> float:
    """Seconds of the launches, one after the other."""
    return sum(part.seconds(card, dtype) for part in parts)


def table(card: Card, sizes: list[Sizes]) -> list[str]:
    """Lines for one card: a row for each number of operations and pass."""
    lines = [
        f"{card.name}, *predicted*, one step: B={sizes[0].B} N={sizes[0].N} L={sizes[0].L} D={sizes[0].D}"
        f" R={sizes[0].R} W={sizes[0].W} {sizes[0].dtype}; peak {card.peak(sizes[0].dtype) / 1e12:g} TFLOP/s,"
        f" {card.bandwidth / 1e12:g} TB/s, {card.multiprocessors} multiprocessors, {card.cache / 1e6:g} MB of cache"
        f" ({card.source})",
        f"{'K':>3} {'core and pass':<21} {'GFLOP':>8} {'MB least':>9} {'MB ours':>8} {'MB publ.':>9} {'launches':>12}"
        f" {'floor us':>9} {'ours us':>9} {'publ. us':>10} {'publ./ours':>10}",
    ]
    for s in sizes:
        totals = [0.0, 0.0, 0.0]
        for name, count_of in PASSES.items():
            count = count_of(s)
            times = [count.floor(card, s.dtype), *(predicted(p, card, s.dtype) for p in (count.ours, count.published))]
            totals = [total + time for total, time in zip(totals, times, strict=True)]
            moved = [sum(part.bytes for part in parts) / 1e6 for parts in (count.ours, count.published)]
            lines.append(
                f"{s.K:>3} {name:<21} {count.operations / 1e9:>8.1f} {count.bytes / 1e6:>9.1f} {moved[0]:>8.1f}"
                f" {moved[1]:>9.1f} {launches(count.ours):>5} /{launches(count.published):>5}  {_times(times)}"
            )
        lines.append(f"{s.K:>3} {'all':<65} {_times(totals)}")
    return lines


def _times(times: list[float]) -> str:
    floor, ours, published = (1e6 * t for t in times)
    return f"{floor:>9.1f} {ours:>9.1f} {published:>10.1f} {published / ours:>9.1f}x"


def main(arguments: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cards", default=",".join(CARDS), help="default %(default)s")
    parser.add_argument("--num-ops", default="1,2,4,6,8,12,16,32", help="default %(default)s")
    for flag, default in (("batch", 64), ("visual-tokens", 196), ("language-tokens", 24), ("dim", 512), ("window", 2)):
        parser.add_argument(f"--{flag}", type=int, default=default, help="default %(default)s")
    parser.add_argument("--reduction", type=int, default=2, help="default %(default)s")
    parser.add_argument(
        "--dtype", default="bfloat16", choices=("float32", "bfloat16", "float16"), help="default %(default)s"
    )
    o = parser.parse_args(arguments)
    sizes = [
        Sizes(o.batch, int(k), o.visual_tokens, o.language_tokens, o.dim, o.reduction, o.window, o.dtype)
        for k in o.num_ops.split(",")
    ]
    for name in o.cards.split(","):
        print("\n".join(table(CARDS[name], sizes)), end="\n\n")


if __name__ == "__main__":
    main()
