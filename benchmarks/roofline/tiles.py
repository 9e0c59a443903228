"""How a kernel's work is cut into programs on a card: how many, how often each goes through its loops, and what it
reads through the second-level cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from benchmarks.roofline import machine
from benchmarks.roofline.cards import Card
from iprm_kernels.backends.triton import configs
from iprm_kernels.backends.triton.configs import cdiv


@dataclass(frozen=True)
class Sizes:
    """One step at one size, letters as in the mechanism; with the default dropout, or without; on a card of so many
    multiprocessors."""

    B: int = 64
    K: int = 6
    N: int = 196
    L: int = 24
    D: int = 512
    r: int = 2
    W: int = 2
    dtype: str = "bfloat16"
    dropout: bool = False
    multiprocessors: int = configs.MULTIPROCESSORS
    kept: bool = False  # all steps' pairs, for the backward pass

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
        return self.torch_dtype.itemsize

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)


def chunks(s: Sizes) -> int:
    """How often the backward pass of execution fills its buffers."""
    most = max(1, configs.BUFFER_BYTES // (3 * s.K * s.N * s.R * s.width))
    return cdiv(s.B, most)


def shares(s: Sizes) -> tuple[int, int]:
    """How many operations a program of `weights` adds up, and how many programs share a block of the weight."""
    return configs.weight_shares(cdiv(s.B, chunks(s)) * s.K, s.R, s.torch_dtype, s.multiprocessors)


class Code(NamedTuple):
    """An entry of `machine.json`, as a program executes it at some sizes: warp instructions; operations on tensor
    cores, by instruction; and how many blocks a multiprocessor holds."""

    instructions: float
    products: dict[str, float]
    blocks: int


@dataclass(frozen=True)
class Work:
    """What one launch of a kernel does: `N` tokens, `variant` as in `machine.variants`."""

    kernel: str
    s: Sizes
    N: int
    variant: str = ""

    @property
    def width(self) -> int:
        return self.s.R if self.kernel in configs.SUMS else self.s.D

    def entry(self, card: Card) -> configs.Entry:
        """The first configuration for a card."""
        s = self.s
        return configs.entries(self.kernel, card.architecture, s.torch_dtype, self.width, s.K, self.N)[0]

    def blocks(self, card: Card) -> dict[str, int]:
        """The constants of that, and BD of the kernels over pairs."""
        found = dict(self.entry(card).constants)
        if self.kernel in configs.SUMS:
            found["BD"] = configs.columns(self.kernel, self.width, self.s.torch_dtype)
        return found

    def programs(self, card: Card) -> int:
        """Of one launch. A chain's has `chunks` of them for all samples, where it is one of the backward pass."""
        s, b, k = self.s, self.blocks(card), self.kernel
        samples = cdiv(s.B, chunks(s))
        if k in ("logits", "recompute"):
            held = cdiv((s.B if k == "logits" else samples) * s.K * s.N, b["BN"])
            return held * cdiv(s.R, b["BD"])
        if k == "chain_backward":
            grouped = configs.grouped(s.K)
            return cdiv(samples * s.N, b["BN"] // grouped) * cdiv(s.K, grouped) * cdiv(s.R, b["BD"])
        if k == "weights":
            return cdiv(s.R, b["BM"]) * cdiv(s.R, b["BD"]) * shares(s)[1]
        if k == "products":
            return s.B * cdiv(self.N, b["BN"]) * cdiv(s.K, b["BK"])
        if k in ("pool", "d_query"):
            return s.B * cdiv(s.D, b["BD"]) * cdiv(s.K, b["BK"])
        if k == "d_tokens":
            return s.B * cdiv(self.N, b["BN"]) * cdiv(s.D, b["BD"])
        if k == "columns_backward":
            return s.B * cdiv(s.K, b["BK"]) * cdiv(s.D, b["BD"])
        return s.B * s.K

    def turns(self, b: dict[str, int]) -> tuple[int, int, int]:
        """How often a program executes what stands within none of its loops, one, and two."""
        s, k = self.s, self.kernel
        if k in configs.SUMS:
            return configs.turns(k, b, s.R, self.N, shares(s)[0])
        if k in ("pool", "d_query", "slope"):
            return 1, cdiv(self.N, b["BN"]), 0
        if k == "d_tokens":
            return 1, cdiv(s.K, b["BK"]), 0
        if k == "columns_backward":
            return 1, s.K, s.K
        inner = cdiv(s.D, b["BD"])  # `products`, and the operations of composition, whose states are written out
        rows = cdiv(s.K, b["BK"])
        return (1, inner, 0) if k == "products" else (1, inner * rows, inner * rows)

    def needed(self, b: dict[str, int]) -> float:
        """Operations of a program's products, its padded rows included."""
        s, k = self.s, self.kernel
        if k in configs.CHAINS:
            found = 2.0 * b["BN"] * s.R * (s.R + b["BD"] if b["BD"] >= s.R else b["BD"])
            if k == "chain_backward":
                found += 2 * max(16, b["BN"] // configs.group(s.K)) * b["BN"] * b["BD"]
            return found
        if k == "weights":
            return 2.0 * self.turns(b)[2] * b["BN"] * b["BM"] * b["BD"]
        found = {"products": s.D * b.get("BN", 0), "slope": 0}.get(k, 0) * b.get("BK", 0) * 2.0
        if k in ("pool", "d_query", "d_tokens"):
            found = 2.0 * self.turns(b)[1] * b["BN"] * b["BK"] * b["BD"] * (2 if self.variant else 1)
        return found

    def code(self, card: Card) -> Code | None:
        """What was counted of its machine code; None where that was of another width or configuration."""
        dtype = "float32" if self.s.dtype == "float32" else "bfloat16"
        key = machine.key_of(self.kernel, card.architecture, dtype, self.variant, self.N <= configs.FEW)
        found = machine.table()["entries"].get(key)
        known = machine.WIDTHS["chain" if self.kernel in configs.SUMS else "other"]
        entry = self.entry(card)
        if not found or self.width != known or found["entry"] != machine.label_of(entry):
            return None
        b = self.blocks(card)
        turns, scale = self.turns(b), self.scale(found, b, entry.warps)
        times = 1.0, scale * turns[1], scale * turns[2]
        instructions = entry.warps * sum(n * t for n, t in zip(found["instructions"], times, strict=True))
        products = {
            name: operations_of(name, entry.warps) * sum(n * t for n, t in zip(counts, times, strict=True))
            for name, counts in found["products"].items()
        }
        if "UTCHMMA" in products:  # all that others do not
            rest = sum(operations for name, operations in products.items() if name != "UTCHMMA")
            products["UTCHMMA"] = max(0.0, self.needed(b) - rest)
        return Code(instructions, products, found["blocks"])

    def scale(self, found: dict[str, Any], b: dict[str, int], warps: int) -> float:
        """What the turns are multiplied by, so that the products of the code are those of the program: a compiler may
        write out some turns of a loop. The sizes of sm_100's products are not in its code: they are counted."""
        counts, turns = found["products"], self.turns(b)
        if not counts or self.s.dtype == "float32":
            return 1.0
        if "UTCHMMA" in counts:
            counts = {"UTCHMMA": counts["UTCHMMA"]}
            rows = turns[1] * (b["BC"] + self.s.R) if self.kernel in configs.CHAINS else turns[2] * b["BN"]
            needed, unit = rows / 16, dict.fromkeys(counts, 1.0)
        else:
            needed, unit = self.needed(b) * found["executed"], {name: operations_of(name, warps) for name in counts}
        outside = sum(unit[name] * n[0] for name, n in counts.items())
        inside = sum(unit[name] * (n[1] * turns[1] + n[2] * turns[2]) for name, n in counts.items())
        return max(0.0, needed - outside) / inside if inside else 1.0

    def cached(self, card: Card) -> float:
        """Bytes that one launch moves between the multiprocessors and the second-level cache.

        The factors of a chain's products are copied past the first-level cache (LDGSTS.BYPASS), those of the rows g ⊙ v
        for every chunk that makes them anew. A warp copies 128 bytes of four rows at once: where these are of one
        operation, as they are forward, the four rows of its gate are one. The backward chain reads d pre again for du.
        """
        s, b, k, programs = self.s, self.blocks(card), self.kernel, self.programs(card)
        states = 1 + s.W
        if k in configs.CHAINS:
            rows = b["BN"] * s.R
            others = {"logits": 1, "recompute": 3, "chain_backward": 3 + 2 / configs.grouped(s.K)}[k]
            others += 2 if "keep" in self.variant or "kept" in self.variant else 0  # hidden and h; h and dπ
            if b["BD"] < s.R:  # the middle of the chain is read
                return s.width * programs * (s.R * b["BD"] + rows * others)
            again = (cdiv(s.R, b["BC"]) if b["BR"] else 1) * (2 if k == "chain_backward" else 1.25)
            return s.width * programs * (2 * s.R * s.R + rows * (again + others))
        if k == "weights":
            each = shares(s)[0]
            read = each * self.N * (b["BM"] + b["BD"]) * s.width
            return programs * (read + b["BM"] * b["BD"] * (4 + (1 if b["HELD"] else each) * s.width))
        if k == "products":
            return programs * (b["BN"] + b["BK"]) * s.D * s.width + 4 * s.B * s.K * self.N
        if k in ("pool", "d_query"):
            return programs * (self.N * b["BD"] * s.width + 4 * min(s.K, b["BK"]) * self.N)
        if k == "d_tokens":
            factors = 2 if self.variant else 1
            return programs * (b["BN"] * b["BD"] * s.width + factors * s.K * (4 * b["BN"] + b["BD"] * s.width))
        if k == "composition_forward":
            return programs * s.D * s.width * (3 * s.K * states + 3)
        if k == "operations_backward":
            return programs * s.D * s.width * (3 * s.K * states + 6)
        if k == "columns_backward":
            return programs * b["BD"] * s.width * states * (3 * min(s.K, b["BK"]) + 3 * s.K)
        return 3 * 4.0 * programs * self.N


def operations_of(product: str, warps: int) -> float:
    """Of a product on tensor cores, for all warps of a program that execute it: a warp's, or a warp group's. UTCHMMA is
    one thread's, and counts as one."""
    name = product.split()[0]
    if name.startswith("HGMMA"):
        m, n, k = map(int, name.split(".")[1].split("x"))
        return 2.0 * m * n * k * (warps // 4)
    if name.startswith("HMMA"):
        shape = name.split(".")[1]
        return warps * 2.0 * 16 * 8 * int(shape[3:] if shape.startswith("168") else 8)
    return 1.0
