"""The launches of the cores: operations of their products, bytes they move, and the program that runs them; beside ours
those of the published form in eager PyTorch, and of the earlier kernels of execution."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.roofline.cards import Card
from benchmarks.roofline.tiles import Code, Sizes, Work, chunks, shares
from iprm_kernels.backends.triton.configs import cdiv

SUSTAINED, BANDWIDTH_SHARE, CACHE_SHARE = 0.75, 0.85, 0.75
"""What large products of the library reach of the datasheet's peak under a card's power limit, and well-made kernels
of the bandwidths of its memory and of its second-level cache: assumptions."""
RATES = {("HMMA", 90): 0.62, ("HMMA", 100): 0.25, ("UTCHMMA", 64): 0.5}
"""Of the peak: what the warps' own product reaches where the architecture has a greater one (assumptions, by
microbenchmarks), and a tile of 64 rows where the product has 128 lanes."""
GAP = 1.5e-6
"""Seconds of the device from one kernel to the next, on a stream that is kept full or in a graph: an assumption."""


@dataclass(frozen=True)
class Launch:
    """One kernel, or `times` of the same, which share the work: operations of its products, and bytes that it moves
    between chip and memory. `work` says all else of a Triton kernel; of an earlier one there are only figures: how
    often it executes each product, bytes through the second-level cache, and warp instructions by architecture."""

    name: str
    operations: float
    bytes: float
    times: int = 1
    work: Work | None = None
    executed: float = 1.0
    cached: float = 0.0
    issued: Mapping[int, float] = field(default_factory=dict)

    def terms(self, card: Card, dtype: str) -> dict[str, float]:
        """Seconds that each of a card's parts takes."""
        executed = 1.0 if card.architecture == 100 else self.executed  # whose product is no warp's
        found = {
            "products": executed * self.operations / (SUSTAINED * card.peak(dtype)),
            "memory": self.bytes / (BANDWIDTH_SHARE * card.bandwidth),
            "cache": self.cached / (CACHE_SHARE * card.cached),
            "issue": self.issued.get(card.architecture, 0.0) / (card.issued * card.multiprocessors),
        }
        if work := self.work:
            programs = work.programs(card)
            busiest = cdiv(programs, card.multiprocessors) * card.multiprocessors
            found["cache"] = self.times * work.cached(card) / (CACHE_SHARE * card.cached)
            found["products"] *= busiest / programs * self.execution(card)
            if code := work.code(card):
                each = cdiv(programs, card.multiprocessors) * code.instructions / card.issued
                found["issue"] = self.times * each
        return found

    def execution(self, card: Card) -> float:
        """Products that are executed for each that is needed, over the share of the peak that their instruction can
        reach. Rows that no pair fills count, and so do sums that are taken as products."""
        work, code = self.work, self.code(card)
        if not work or not code or not self.operations or work.s.dtype == "float32" or not code.products:
            return 1.0
        b = work.blocks(card)
        executed = work.needed(b) * work.programs(card) * self.times / self.operations
        slow = {name: operations / rate_of(name, card, b) for name, operations in code.products.items()}
        of_one = sum(code.products.values())
        return executed * (sum(slow.values()) / of_one if of_one else 1.0)

    def code(self, card: Card) -> Code | None:
        """What is known of its machine code."""
        return self.work.code(card) if self.work else None

    def seconds(self, card: Card, dtype: str) -> float:
        """As long as the part that takes longest, and the gap before it."""
        return max(self.terms(card, dtype).values()) + GAP * self.times

    def binds(self, card: Card, dtype: str) -> str:
        """Which part that is."""
        terms = self.terms(card, dtype)
        return max(terms, key=lambda name: terms[name])

    def alone(self, card: Card, dtype: str) -> float:
        """The same where a multiprocessor holds one block, whose products and other instructions wait for each other:
        they take their times one after the other."""
        terms, code = self.terms(card, dtype), self.code(card)
        if code and code.blocks == 1:
            terms["issue"] += terms["products"]
        return max(terms.values()) + GAP * self.times


def rate_of(product: str, card: Card, b: dict[str, int]) -> float:
    """The share of the peak that an instruction can reach.

    The warp group's product of 64 rows reads 32 N bytes of the right factor from shared memory, of 128 bytes a clock,
    and 2048 of the left one unless that is in registers, in N / 2 clocks.
    """
    if product.startswith("HGMMA"):
        N = int(product.split(".")[1].split("x")[1])
        clocks = N / 4 + (0 if "registers" in product else 16)
        return min(1.0, N / 2 / clocks)
    name = product.split(".")[0]
    if name == "UTCHMMA":
        return RATES["UTCHMMA", 64] if b.get("BM", b.get("BN", 128)) < 128 else 1.0
    return RATES.get((name, card.architecture), 1.0)


@dataclass(frozen=True)
class Count:
    """A core's pass: the floor's operations and bytes, our launches, those of the published form, and of earlier
    kernels where they are to be compared."""

    operations: float
    bytes: float
    ours: list[Launch]
    published: list[Launch]
    earlier: list[Launch] = field(default_factory=list)

    def floor(self, card: Card, dtype: str) -> float:
        return max(self.operations / card.peak(dtype), self.bytes / card.bandwidth)


def words(*parts: str) -> str:
    """Those that are not empty."""
    return " ".join(filter(None, parts))


def elementwise(name: str, elements: float, width: int, reads: int = 1, writes: int = 1) -> Launch:
    """An operator over tensors of so many elements."""
    return Launch(name, 0, elements * width * (reads + writes))


def attention_sizes(s: Sizes, tokens: int) -> tuple[float, float, float]:
    """Bytes of (B, K, D), of (B, tokens, D), and of (B, K, tokens) in float32."""
    return s.B * s.K * s.D * s.width, s.B * tokens * s.D * s.width, 4 * s.B * s.K * tokens


def formation_forward(s: Sizes) -> Count:
    q, x, a = attention_sizes(s, s.L)
    product, cells = 2 * s.B * s.K * s.L * s.D, s.B * s.K * s.L * s.D
    ours = [
        Launch("products", product, q + x + a, work=Work("products", s, s.L, "gated")),
        Launch("pool", product, a + x + q + a, work=Work("pool", s, s.L)),
    ]
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
        Launch("products", product, q + x + 2 * a, work=Work("products", s, s.L)),
        Launch("slope", 0, 3 * a, work=Work("slope", s, s.L)),
        Launch("d_tokens", 2 * product, 2 * a + 2 * q + x, work=Work("d_tokens", s, s.L, "gated")),
        Launch("d_query", product, a + x + 3 * q, work=Work("d_query", s, s.L)),
        Launch("add_parts", 0, 4 * s.B * s.D),
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


EARLIER = {
    "logits": {80: 635.5, 89: 648.0, 90: 530.0, 100: 530.3},
    "logits drop": {80: 802.0, 89: 798.0, 90: 678.4, 100: 679.9},
    "recompute": {80: 584.5, 89: 594.1, 90: 439.1, 100: 427.5},
    "chain_backward": {80: 447.5, 89: 449.8, 90: 323.5, 100: 301.5},
}
"""The earlier chains of execution, at R = 256 in 16 bits: warp instructions of a pair by architecture, counted like
those of `machine.json`, in tiles of 64 pairs under 8 warps, which executed the first product twice."""


def earlier_chain(name: str, s: Sizes, operations: float, moved: float, written: float, times: int = 1) -> Launch:
    """One of them. Its tiles read both weights through the second-level cache, and rows of two tensors once."""
    pair = s.pairs * s.R * s.width
    cached = cdiv(s.pairs, 64) * 2 * s.R * s.R * s.width + 2 * pair + written
    known = EARLIER[name] if (s.R, s.width) == (256, 2) else {}
    issued = {architecture: s.pairs * each for architecture, each in known.items()}
    return Launch(name.split()[0], operations, moved, times, executed=1.5, cached=cached, issued=issued)


def execution_forward(s: Sizes) -> Count:
    q, x, a = attention_sizes(s, s.N)
    keys, small, weights = s.B * s.N * s.R * s.width, s.B * s.K * s.R * s.width, 2 * s.R * s.R * s.width
    pair = s.pairs * s.R * s.width
    chain, pool = 4 * s.pairs * s.R**2, 2 * s.B * s.K * s.N * s.D
    pooled = Launch("pool", pool, a + x + q + a, work=Work("pool", s, s.N))
    moved, drop = 2 * keys + 2 * small + weights + a, "drop" * s.dropout
    work = Work("logits", s, s.N, words("keep" * s.kept, drop))
    ours = [Launch("logits", chain, moved + 2 * pair * s.kept, work=work), pooled]
    earlier = [earlier_chain(f"logits {drop}".strip(), s, chain, moved, 0), pooled]
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
    return Count(chain + pool, 2 * keys + 2 * small + weights + x + q + a, ours, published, earlier)


def execution_backward(s: Sizes) -> Count:
    q, x, a = attention_sizes(s, s.N)
    keys, small, weights = s.B * s.N * s.R * s.width, s.B * s.K * s.R * s.width, 2 * s.R * s.R * s.width
    pair, times = s.pairs * s.R * s.width, chunks(s)
    parts, drop = 4 * shares(s)[1] * s.R**2, "drop" * s.dropout  # of one weight's gradient
    product, pool = 2 * s.pairs * s.R**2, 2 * s.B * s.K * s.N * s.D
    attention = [
        Launch("products", pool, q + x + 2 * a, work=Work("products", s, s.N)),
        Launch("slope", 0, 3 * a, work=Work("slope", s, s.N)),
        Launch("d_tokens", pool, a + q + x, work=Work("d_tokens", s, s.N)),
    ]
    tiles = 4 * s.pairs * s.R / 64  # of dw
    again = (2 * times - 1) * parts  # later chunks add to what is there
    inputs = 2 * keys + 2 * small
    recompute = Launch(
        "recompute", 2 * product, 2 * pair + inputs + a + tiles, times, Work("recompute", s, s.N, drop)
    )  # fmt: skip
    kept = Work("chain_backward", s, s.N, words("kept", drop))
    chain = (
        [Launch("chain_backward", 2 * product, 4 * pair + inputs + a + tiles, times, kept)]
        if s.kept
        else [
            recompute,
            Launch("chain_backward", 2 * product, 3 * pair + inputs, times, Work("chain_backward", s, s.N)),
        ]
    )
    ours = [
        *attention,
        *chain,
        Launch("weights", product, 2 * pair + 3 * small + again, times, Work("weights", s, s.N)),
        Launch("weights", product, pair + keys + 3 * small + again, times, Work("weights", s, s.N, "tokens")),
        Launch("add_parts", 0, 2 * parts + 6 * small + tiles, 3),  # dC1a and dC2, dg and dl, dc2 and dw
        Launch("zeros for the parts of dw", 0, tiles),
    ]
    earlier = [
        *attention,
        earlier_chain("recompute", s, 2 * product, 3 * pair + 2 * keys + small, 3 * pair, times),
        Launch("gate_backward", 0, 2 * pair + 2 * small + a, times),
        Launch("dC2", product, 2 * pair, 2 * times),
        earlier_chain("chain_backward", s, 2 * product, 4 * pair, 2 * pair, times),
        Launch("reduce", 0, 3 * pair + 3 * keys, times),
        Launch("dC1a", product, 2 * pair, 2 * times),
        Launch("sums of dg, dw and dc2", 0, 4 * s.pairs * s.R / 32 + 8 * s.B * s.K * s.R, 3),
    ]  # fmt: skip
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
    # two products again, unless their results are kept, and four of the gradients
    moved = 4 * keys + 4 * small + 2 * weights + 2 * x + q + 2 * a + 2 * pair * s.kept
    return Count((6 - 2 * s.kept) * product + 2 * pool, moved, ours, published, earlier)


def composition_sizes(s: Sizes) -> tuple[float, float, float, float]:
    """Bytes of (B, K, D), of a (B, columns, D), of (B, K, columns) float32, and of (B, K, columns, D)."""
    state = s.B * s.K * s.D * s.width
    return state, state * (1 + s.W), 4 * s.B * s.K * s.columns, s.K * state * (1 + s.W)


def composition_forward(s: Sizes) -> Count:
    state, window, a, cells = composition_sizes(s)
    product = 2 * s.B * s.K * s.columns * s.D
    work = Work("composition_forward", s, s.N, "drop" * s.dropout)
    ours = [Launch("composition_forward", 0, 3 * window + 3 * state + a, work=work)]
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
    float_state, drop = 4 * s.B * s.K * s.D, "drop" * s.dropout
    ours = [
        Launch("operations_backward", 0, 3 * window + 4 * state + 3 * a + float_state,
               work=Work("operations_backward", s, s.N, drop)),
        Launch("columns_backward", 0, 3 * window + 3 * state + 2 * a, work=Work("columns_backward", s, s.N, drop)),
        Launch("add_parts", 0, float_state),
    ]  # fmt: skip
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
    """Seconds of the launches on the device, one after the other."""
    return sum(part.seconds(card, dtype) for part in parts)


def alone(parts: list[Launch], card: Card, dtype: str) -> float:
    """The same without overlap in multiprocessors that hold one block."""
    return sum(part.alone(card, dtype) for part in parts)
