"""Launch configurations: for the chains of products, lists by architecture, dtype and width; for all other kernels,
lists by the bytes of an element, cut to the sizes of the call.

Every entry has been compiled ahead of time for every architecture that it serves (`benchmarks/ahead_of_time.py`): it
fits the shared memory, executes no product twice, multiplies on tensor cores in all dtypes that have them, and what it
spills of registers is little beside the weights that it reads. A list's first entry is the fixed choice. What a launch
does with a list, see `launch.py`.

Triton lays the warps of two chained products side by side along the pairs, 16 for each: 8 warps on 64 pairs execute
every product twice. So 8 warps come with BN = 128, which also halves the traffic of the weights through the
second-level cache, and 4 warps with 64. With BR > 0 the first product is a loop of its own; then warps lie along
columns too, and 8 of them share an accumulator of R = 512 or 1024, at the price of g ⊙ v made anew for each BC columns.
The first entries are those that no version of Triton from 3.4 to 3.9 makes spill much; it differs by much elsewhere.
On sm_90 the first has 128 pairs at R = 256: there the traffic of the second-level cache decides, by the roofline.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch

from iprm_kernels.backends import devices

ARCHITECTURES = (80, 86, 89, 90, 100, 120, "gfx942", "gfx950")
SMALL = 86
"""The family of cards with 99 KB of shared memory a block."""
CHAINS = ("logits", "recompute", "chain_backward")
FIRST_HALVES = {"logits": "hidden", "recompute": "hidden", "chain_backward": "d_pre"}
"""What makes the middle of a chain whose sums are held in blocks of columns."""
SUMS = (*CHAINS, "weights")
"""The kernels over pairs whose programs hold a sum of BD columns."""
BUFFER_BYTES = 128 * 2**20
"""For the pairs of some samples at a time, see `execution.py`."""


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up. Triton's own is for kernels too, and takes twenty times as long."""
    return -(-a // b)


def power_of_2(n: int) -> int:
    """The least that is not below n."""
    return 1 << max(0, n - 1).bit_length()


class Entry(NamedTuple):
    """One launch configuration."""

    constants: tuple[tuple[str, int], ...]
    warps: int
    stages: int

    @property
    def arguments(self) -> dict[str, int]:
        """Those of the launch."""
        return dict(self.constants) | {"num_warps": self.warps, "num_stages": self.stages}


class Tile(NamedTuple):
    """One configuration of a chain of products."""

    BN: int  # pairs
    BC: int  # columns of the hidden tile at a time
    BR: int  # columns of the first product's contraction at a time; 0 is all, held in registers
    PARTS: int  # column parts of the end of a chain
    warps: int
    stages: int

    def entry(self, kernel: str) -> Entry:
        constants = {"BN": self.BN, "BC": self.BC, "BR": self.BR}
        constants |= {"PARTS": self.PARTS} if kernel in CHAINS else {}
        return Entry(tuple(constants.items()), self.warps, self.stages)


WIDEST = {"logits": 1024, "recompute": 512, "chain_backward": 512}
"""The widest chains. At R = 1024 a tile holds 32 pairs and reads both weights whole, 2 MB each: two kernels, with the
middle of the chain in memory between them, move a tenth of that. The backward pass, which has buffers for the pairs
anyway, is two kernels for what is wider; the forward pass streams, so as to store nothing of the pairs' size."""
WIDEST_OTHERS = 256
"""The same for float32, whose products outweigh what memory moves; and for widths without alignment, whose masks and
dropout words spill in wider tiles."""
BLOCK, BLOCK_OTHERS = 256, 128
"""Columns of the sum that a program holds where R is too wide for all."""
GROUPED = 16
"""Operations of a token in one tile of the backward chain; of more each 16 leave a part of the sums over them."""
WEIGHT_COLUMNS = {2: 128, 4: 64}
"""Columns of a weight whose gradient a program holds: fixed, for each block leaves its part of the gate's."""
MULTIPROCESSORS = 132
"""Of the card where there is none to ask: an H100's."""

# by width R rounded up to 128, 256, 512 or 1024
_FLOAT = {
    128: [Tile(32, 32, 32, 1, 4, 2), Tile(32, 32, 32, 1, 8, 2)],
    256: [Tile(32, 32, 32, 1, 8, 3), Tile(16, 64, 32, 1, 8, 2)],
}
_HALF = {
    80: {
        128: [Tile(128, 32, 0, 4, 8, 2), Tile(64, 32, 0, 2, 4, 2)],
        256: [Tile(64, 64, 64, 2, 8, 2), Tile(64, 32, 0, 2, 4, 2)],
        512: [Tile(64, 32, 64, 4, 8, 2)],
        1024: [Tile(32, 32, 64, 2, 8, 2)],
    },
    86: {
        128: [Tile(128, 32, 0, 4, 8, 2), Tile(64, 32, 0, 2, 4, 2)],
        256: [Tile(128, 32, 64, 2, 8, 2), Tile(64, 64, 64, 2, 8, 2)],
        512: [Tile(64, 32, 64, 4, 8, 2)],
        1024: [Tile(32, 32, 64, 2, 8, 2)],
    },
    90: {
        128: [Tile(128, 64, 0, 4, 8, 2), Tile(64, 64, 0, 2, 4, 2), Tile(128, 32, 0, 4, 8, 3)],
        256: [Tile(128, 32, 0, 4, 8, 2), Tile(64, 64, 64, 2, 8, 2)],
        512: [Tile(64, 32, 64, 4, 8, 2), Tile(64, 64, 64, 4, 8, 1)],
        1024: [Tile(32, 32, 64, 2, 8, 2)],
    },
    100: {
        128: [Tile(128, 64, 0, 4, 8, 2), Tile(64, 64, 0, 2, 4, 2)],
        256: [Tile(128, 64, 0, 4, 8, 2), Tile(128, 32, 0, 4, 8, 2), Tile(64, 64, 64, 4, 8, 2)],
        512: [Tile(64, 64, 64, 4, 8, 1)],
        1024: [Tile(32, 32, 64, 2, 8, 2)],
    },
}
# Other widths are padded to a power of two, and their masks take registers: smaller tiles, the same for every
# architecture. Those of odd widths have no vector loads either, and run out first.
_PADDED = {
    128: [Tile(64, 32, 64, 1, 8, 2)],
    256: [Tile(64, 32, 64, 2, 8, 2), Tile(32, 64, 64, 2, 8, 2)],
    512: [Tile(32, 32, 64, 4, 8, 2)],
    1024: [Tile(16, 64, 64, 1, 8, 2)],
}
_ODD = {
    128: [Tile(16, 32, 32, 2, 4, 2)],
    256: [Tile(32, 32, 64, 2, 8, 2)],
}
_PADDED_FLOAT = {
    128: [Tile(16, 32, 32, 1, 4, 1)],
    256: [Tile(32, 32, 32, 1, 8, 2)],
}
_ODD_FLOAT = {
    128: [Tile(16, 32, 32, 1, 4, 2)],
    256: [Tile(16, 64, 32, 1, 8, 2)],
}
# The backward chain, where it is not like the forward: its rows are added up by a product of 64 columns or more, and
# where factors of a product are in registers, dh is not held beside dx.
_BACKWARD = {
    80: {128: [Tile(128, 64, 0, 2, 8, 2)], 256: [Tile(64, 64, 64, 2, 8, 2)]},
    86: {128: [Tile(128, 64, 0, 2, 8, 2)], 256: [Tile(64, 64, 64, 2, 8, 2)]},
    90: {128: [Tile(128, 64, 0, 2, 8, 2)]},
    100: {128: [Tile(128, 64, 0, 2, 8, 2)]},
}
# chains that hold blocks of columns, and their first halves
_BLOCKS = {
    "half": [Tile(64, 64, 64, 2, 8, 2)],
    "odd": [Tile(32, 64, 64, 1, 8, 2)],
    "float": [Tile(32, 32, 32, 1, 8, 2)],
}
_HALVES = {
    "half": [Tile(128, 128, 64, 1, 8, 2)],
    "odd": [Tile(64, 64, 64, 1, 8, 2)],
    "float": [Tile(64, 64, 32, 1, 8, 2)],
}
# By bytes of an element, for all cards of AMD's: gfx950 has more shared memory than gfx942, but no more registers.
# Warps are 64 wide, with up to 512 registers a lane where a block has 4 of them, and 256 where it has 8. Matrix
# instructions make 32 by 32 of a result, or 16 by 16 where it is narrower: BN by BC must hold as many of those as there
# are warps. Masks take so few registers here that padded and odd widths have the same tiles.
_AMD = {
    2: {
        128: [Tile(64, 64, 32, 2, 4, 2), Tile(64, 16, 32, 2, 4, 2)],
        256: [Tile(64, 64, 32, 2, 4, 2), Tile(128, 64, 64, 2, 8, 2)],
        512: [Tile(64, 64, 32, 2, 4, 2), Tile(64, 16, 64, 2, 4, 2)],
        1024: [Tile(16, 64, 64, 2, 4, 2)],
    },
    4: {
        128: [Tile(64, 64, 32, 1, 4, 2), Tile(64, 16, 32, 1, 4, 2)],
        256: [Tile(64, 64, 32, 1, 4, 2), Tile(64, 16, 32, 1, 4, 2)],
    },
}
_AMD_BLOCKS = {2: [Tile(64, 64, 64, 2, 4, 2)], 4: [Tile(64, 64, 32, 1, 4, 2)]}
_AMD_HALVES = {2: [Tile(64, 128, 64, 1, 4, 2)], 4: [Tile(64, 64, 32, 1, 4, 2)]}
INTERPRETED = Tile(64, 64, 0, 2, 4, 1)
INTERPRETED_HALF = Tile(64, 32, 32, 1, 4, 1)
INTERPRETED_SUMS = Entry((("BP", 32), ("BW", 1024)), 4, 1)  # fewer programs, each of which takes milliseconds


def is_fused(chain: str, width: int, dtype: torch.dtype) -> bool:
    """Whether a program holds all columns of a chain of this width."""
    others = width % 16 or dtype == torch.float32
    return width <= (min(WIDEST[chain], WIDEST_OTHERS) if others else WIDEST[chain])


def columns(kernel: str, width: int, dtype: torch.dtype) -> int:
    """How many columns of its sum a program of one of SUMS holds, BD."""
    if kernel == "weights":
        return cut(WEIGHT_COLUMNS[dtype.itemsize], width)
    if is_fused(kernel, width, dtype):
        return max(16, power_of_2(width))
    return BLOCK_OTHERS if width % 16 or dtype == torch.float32 else BLOCK


def grouped(K: int) -> int:
    """Operations of a token in one tile of the backward chain, as even as can be."""
    return cdiv(K, cdiv(K, GROUPED))


def group(K: int) -> int:
    """The power of two that bounds those from below: GROUP."""
    return power_of_2(grouped(K) + 1) // 2


def weight_shares(
    operations: int, R: int, dtype: torch.dtype, multiprocessors: int = MULTIPROCESSORS
) -> tuple[int, int]:
    """How many of so many operations a program of `weights` adds up, and how many programs share a block of the
    weight: one for each multiprocessor in all, which holds no more, for every one leaves a part to be summed."""
    blocks = cdiv(R, columns("weights", R, dtype))
    each = cdiv(operations, max(1, multiprocessors // blocks**2))
    return each, cdiv(operations, each)


def turns(kernel: str, blocks: dict[str, int], R: int, tokens: int, each: int) -> tuple[int, int, int]:
    """How often a program of a kernel over pairs executes what stands within none of its loops, within one, and within
    two; `weights` with so many tokens and operations."""
    if kernel == "weights":
        return 1, each, each * cdiv(tokens, blocks["BN"])
    inner = cdiv(R, blocks["BR"] or R)
    if kernel not in CHAINS:
        return 1, inner, 0
    return 1, cdiv(R, blocks["BC"]), cdiv(R, blocks["BC"]) * inner


def tiles(
    kernel: str, architecture: devices.Architecture, dtype: torch.dtype, R: int, tf32: bool = False
) -> list[Tile]:
    """The configurations of a chain, or half of one, that may be launched, the fixed choice first."""
    if isinstance(architecture, str):
        return tiles_of_amd(kernel, dtype, R)
    kind = "float" if dtype == torch.float32 else "odd" if R % 16 else "half"
    if kernel not in CHAINS:
        return _HALVES[kind]
    if not is_fused(kernel, R, dtype):
        return _BLOCKS[kind]
    if kernel == "chain_backward" and R <= 64 and (tf32 or kind != "float"):  # all that there is to share
        BD = columns(kernel, R, dtype)
        return [Tile(32, BD, BD, 1, BD // 16, 2)]
    if kind == "float":
        lists = _FLOAT if power_of_2(R) == R else _ODD_FLOAT if R % 16 else _PADDED_FLOAT
    elif kind == "odd":
        lists = _ODD
    elif power_of_2(R) != R:
        lists = _PADDED
    else:
        of = family(architecture)
        lists = _HALF[of] | _BACKWARD[of] if kernel == "chain_backward" else _HALF[of]
    found = lists[min(width for width in lists if width >= R)]
    return found if kind == "float" else [along_pairs(tile, 16) if tile.BR >= R else tile for tile in found]


def along_pairs(tile: Tile, rows: int) -> Tile:
    """With no more warps than have so many rows each: where the loop of a chain's first product has one turn it is
    none, and warps lie along the pairs alone."""
    return tile._replace(warps=min(tile.warps, tile.BN // rows))


def tiles_of_amd(kernel: str, dtype: torch.dtype, R: int) -> list[Tile]:
    """The same for AMD's cards."""
    if kernel not in CHAINS:
        return _AMD_HALVES[dtype.itemsize]
    if not is_fused(kernel, R, dtype):
        return _AMD_BLOCKS[dtype.itemsize]
    lists = _AMD[dtype.itemsize]
    found = lists[min(width for width in lists if width >= R)]
    if kernel == "chain_backward":  # whose sums take memory that stages would, and are too few for the others' warps
        found = [found[0]._replace(PARTS=1, stages=1)]
    return [along_pairs(tile, 32) if tile.BR >= R else tile for tile in found]


def least_rows(kernel: str, architecture: devices.Architecture | None, dtype: torch.dtype, R: int) -> int:
    """Pairs of the smallest tile that a chain may be launched with: one part of a sum for so many."""
    found = [INTERPRETED] if architecture is None else tiles(kernel, architecture, dtype, R)
    return min(tile.BN for tile in found)


def every_tile() -> list[Tile]:
    """All configurations of all lists of the chains."""
    fused = (_FLOAT, _PADDED_FLOAT, _ODD_FLOAT, _PADDED, _ODD, *_HALF.values(), *_BACKWARD.values())
    families = (*fused, _BLOCKS, *_AMD.values(), _AMD_BLOCKS)
    return sorted({tile for lists in families for entries in lists.values() for tile in entries})


def family(architecture: int) -> int:
    """The architecture whose lists serve this one: by its shared memory and its matrix instructions, of which 120 has
    the oldest kind."""
    if devices.shared_memory(architecture) < devices.shared_memory(80):
        return SMALL
    return 90 if architecture == 90 else 100 if 100 <= architecture < 120 else 80


ROWS = 32
"""Rows of a tile of the elementwise kernels: fixed, for every tile writes its part of a sum."""
OPERATIONS = 16
"""Operations of a tile of attention, each of which writes its part of the gate's gradient; the least of a product."""
FEW = 64
"""Tokens up to which attention takes the fixed choice: no more than the cost of a launch is to be gained, and the
numbers of language tokens are many."""

# (BN, BD, warps, stages) by bytes of an element: without tensor cores, a product holds both factors in registers
_ATTENTION = {
    "products": {2: [(64, 64, 4, 3), (64, 128, 8, 3)], 4: [(32, 64, 4, 3), (32, 32, 4, 3)]},
    "pool": {2: [(64, 64, 4, 3), (32, 128, 4, 3), (64, 128, 8, 3)], 4: [(32, 64, 4, 3), (32, 32, 4, 3)]},
    "d_tokens": {2: [(64, 64, 4, 2), (64, 128, 4, 3)], 4: [(32, 64, 4, 3), (32, 32, 4, 3)]},
    "d_query": {2: [(64, 64, 4, 3), (32, 128, 4, 3)], 4: [(32, 64, 4, 3), (32, 32, 4, 3)]},
}
# (BM, BN, HELD, warps, stages) of the weights' gradients; in 16 bits by family too, where there is room to hold more
_WEIGHTS = {2: [(128, 32, 0, 8, 3), (64, 64, 1, 8, 3)], 4: [(64, 32, 0, 8, 2)]}
_WEIGHTS_OF = {90: [(128, 32, 1, 8, 3), (64, 64, 1, 8, 3)], 100: [(64, 64, 1, 8, 3)]}
# (columns, warps) of the elementwise kernels, which are as wide for every dtype: they compute in float32
_COLUMNS = {
    "simple_logits": [(64, 4), (32, 4)],
    "simple_backward": [(64, 8), (32, 4)],
    "composition_forward": [(64, 4)],
    "operations_backward": [(64, 4)],
    "columns_backward": [(32, 4)],
}
_SINGLE = {
    "dropout": Entry((("BLOCK", 1024),), 4, 3),
    "slope": Entry((("BN", 256),), 4, 3),
    "add_parts": Entry((("BP", 128), ("BW", 32)), 8, 3),
}


def cut(block: int, size: int, least: int = 16) -> int:
    """The block, no larger than the size needs."""
    return min(block, max(least, power_of_2(size)))


@functools.cache
def entries(
    kernel: str, architecture: devices.Architecture | None, dtype: torch.dtype, width: int, K: int, N: int,
    precision: str = "ieee",
) -> tuple[Entry, ...]:  # fmt: skip
    """The configurations that may be launched, the fixed choice first; `width` is R or D."""
    if kernel in _SINGLE:
        return (INTERPRETED_SUMS if kernel == "add_parts" and architecture is None else _SINGLE[kernel],)
    amd = architecture is not None and devices.is_amd(architecture)
    if kernel in CHAINS or kernel in FIRST_HALVES.values():
        if architecture is None:
            found = [INTERPRETED if kernel in CHAINS else INTERPRETED_HALF]
        else:
            found = tiles(kernel, architecture, dtype, width, precision == "tf32")
        return tuple(tile.entry(kernel) for tile in found)
    if kernel == "weights":
        return weights_entries(architecture, dtype, width, N)
    found = []
    # without alignment there are no vector loads, and as many columns take more registers
    widest = 32 if width % 16 else 128
    if kernel in _ATTENTION:
        for BN, BD, warps, stages in _ATTENTION[kernel][dtype.itemsize][: 1 if N <= FEW else None]:
            blocks = {"BK": OPERATIONS, "BN": cut(BN, N), "BD": cut(min(BD, widest), width)}
            warps = max(1, min(warps, most_warps(kernel, amd, dtype.itemsize, **blocks)))
            found.append(Entry(tuple(blocks.items()), warps, stages))
    else:
        for columns, warps in _COLUMNS[kernel]:
            blocks = column_blocks(kernel, min(columns, widest), width, K)
            found.append(Entry(tuple(blocks.items()), 4 if width % 16 else warps, 3))
    return tuple(dict.fromkeys(found))


def weights_entries(architecture: devices.Architecture | None, dtype: torch.dtype, R: int, N: int) -> tuple[Entry, ...]:
    """Those of the weights' gradients. A warp has 16 by 8 of one at least, of AMD's 32 by 32."""
    found, amd = [], isinstance(architecture, str)
    lists = _WEIGHTS[dtype.itemsize]
    if isinstance(architecture, int) and dtype.itemsize == 2:
        lists = _WEIGHTS_OF.get(family(architecture), lists)
    for BM, BN, held, warps, stages in lists:
        rows = cut(BM, R)
        warps = min(warps, max(1, rows * columns("weights", R, dtype) // (32 * 32 if amd else 16 * 8)))
        found.append(Entry((("BM", rows), ("BN", cut(BN, N)), ("HELD", held)), warps, stages))
    return tuple(dict.fromkeys(found))


def most_warps(kernel: str, amd: bool, size: int, BK: int, BN: int, BD: int) -> int:
    """How many warps share a tile of attention. One has 16 rows by 8 columns of the result at least, by 32 where a
    product follows another; of AMD's 32 by 32, or 16 by 16 of a smaller result. More would execute the same."""
    rows, columns = BN if kernel == "d_tokens" else BK, BN if kernel == "products" else BD
    if amd:
        side = 32 if min(rows, columns) >= 32 else 16
        return rows // side * (columns // side)
    if size == 4 and kernel in ("products", "d_query"):  # factors of float32 are in registers, which more warps share
        return 8
    return rows // 16 * (columns // (32 if kernel == "d_tokens" else 8))


def column_blocks(kernel: str, columns: int, width: int, K: int) -> dict[str, int]:
    """The blocks of an elementwise kernel."""
    if kernel == "columns_backward":  # sums three tiles at once
        return {"BK": min(8, power_of_2(K)), "BD": cut(columns, width, 4)}
    if kernel in ("composition_forward", "operations_backward"):
        return {"BK": 8 if width % 16 else 16, "BD": cut(columns, width, 4)}
    return {"BN": ROWS, "BR": cut(columns, width)}
