"""The cards, from their datasheets; what no datasheet says is an assumption, and named so."""

from __future__ import annotations

from dataclasses import dataclass

SCHEDULERS = 4
"""Of a multiprocessor, each of which issues one warp instruction a clock (CUDA C++ programming guide)."""


@dataclass(frozen=True)
class Card:
    """Figures of a card.

    half, float32: dense operations per second, the former on tensor cores with float32 sums.  bandwidth: bytes per
    second of the memory.  line: bytes a clock of the second-level cache; only the A100's is published (5120, in its
    whitepaper), the others are assumptions: the H100's the same, the B200's the same for each multiprocessor, the RTX
    4090's half.  clock: at which the peak holds.  cache: bytes of the second level.
    """

    name: str
    architecture: int
    half: float
    float32: float
    bandwidth: float
    line: int
    multiprocessors: int
    clock: float
    cache: int
    source: str

    def peak(self, dtype: str) -> float:
        return self.float32 if dtype == "float32" else self.half

    @property
    def cached(self) -> float:
        """Bytes a second of the second-level cache."""
        return self.line * self.clock

    @property
    def issued(self) -> float:
        """Warp instructions a second of one multiprocessor."""
        return SCHEDULERS * self.clock


CARDS = {
    card.name: card
    for card in (
        Card(
            "A100", 80, 312e12, 19.5e12, 2.039e12, 5120, 108, 1.41e9, 40 * 10**6,
            "NVIDIA A100 Tensor Core GPU datasheet, A100 80GB SXM; A100 Tensor Core GPU Architecture whitepaper",
        ),
        Card(
            "H100", 90, 989e12, 67e12, 3.35e12, 5120, 132, 1.83e9, 50 * 10**6,
            "NVIDIA H100 Tensor Core GPU datasheet, H100 SXM, dense: half of its figure, which is with sparsity;"
            " H100 Tensor Core GPU Architecture whitepaper, SXM5; the clock is the peak's",
        ),
        Card(
            "H200", 90, 989e12, 67e12, 4.8e12, 5120, 132, 1.83e9, 50 * 10**6,
            "NVIDIA H200 Tensor Core GPU datasheet, H200 SXM, dense: half of its figure; the chip is that of the H100",
        ),
        Card(
            "B200", 100, 2250e12, 75e12, 7.7e12, 5740, 148, 1.85e9, 126 * 10**6,
            "NVIDIA Blackwell datasheet, a GPU of HGX B200, dense: half of its figure; multiprocessors and cache as the"
            " driver reports them; the clock is the peak's",
        ),
        Card(
            "RTX 4090", 89, 165.2e12, 82.6e12, 1.008e12, 2560, 128, 2.52e9, 72 * 2**20,
            "NVIDIA Ada GPU Architecture whitepaper, GeForce RTX 4090, dense, float32 sums, at the boost clock",
        ),
    )
}  # fmt: skip
