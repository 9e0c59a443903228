"""Compiles every Triton kernel for every architecture, without a device, and reads what came out.

    python -m benchmarks.ahead_of_time                  the whole matrix, as a table
    python -m benchmarks.ahead_of_time --arch 90 gfx942 --width 256 --kernel logits

Shared memory is in the compiler's metadata; registers and instructions are read from the machine
code with the programs that Triton carries, for AMD's cards from its text. The exit status is 1 where
a kernel breaks a limit: more shared memory than a block may have; a product that several warps
execute (`executed`); registers spilled to memory (LDL, STL), of a kernel over pairs so many that they
move half of the bytes that it reads in its loops, of other kernels any, and on AMD's cards scratch
memory at all; a product without tensor cores where the dtype has them (tf32, bfloat16, float16; on
AMD's cards all), or, in a kernel over pairs with tiles of 64 rows or more in 16 bits on sm_90,
without the warp group's own instruction (HGMMA). What registers a Triton older than `WEIGHED_FROM`
spills is shown, and no fault.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from iprm_kernels.activations import ACTIVATIONS
from iprm_kernels.backends.devices import KIB, Architecture, is_amd, name_of, shared_memory
from iprm_kernels.backends.triton.ops import version
from iprm_kernels.extras import extra

with extra("triton", __name__):
    import triton
    from triton.backends.amd.compiler import HIPBackend
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, CompiledKernel

    from benchmarks.machine_code import DEPTHS, TENSOR_CORES, executed, read, read_amd
    from iprm_kernels.backends.triton import configs
    from iprm_kernels.backends.triton.launch import KERNELS, OPTIONS
    from iprm_kernels.backends.triton.tiles import PLAIN

DTYPES = {"float32": "fp32", "tf32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
"""Of the inputs; tf32 is float32 whose products round their factors to that."""
TORCH = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WIDTHS = (37, 96, 128, 192, 200, 256, 320, 384, 512, 768, 1024)
"""Of the chains: R; some are padded, one has no alignment at all."""
OTHER_WIDTHS = (37, 96, 128, 256, 512)
"""Of the others, which go through any width in the same blocks."""
RESERVED = {32: KIB, 64: 0}
"""Shared memory reserved for each block: a multiprocessor has that of its largest block and this. By lanes of a warp,
64 on AMD's cards, whose multiprocessors are called compute units."""
REGISTERS = {32: 2**16, 64: 2**17}
"""Of a multiprocessor."""
WARPS = {80: 64, 86: 48, 89: 48, 90: 64, 100: 64, 120: 48, "gfx942": 32, "gfx950": 32}
BLOCKS = {80: 32, 86: 16, 89: 24, 90: 32, 100: 32, 120: 24, "gfx942": 32, "gfx950": 32}
"""The most of a multiprocessor (CUDA C++ programming guide, technical specifications by compute capability)."""
MOST_EXECUTED = 1.05
"""Products that may be executed for each that is needed."""
MOST_SPILLED = 0.5
"""Of the bytes that a program reads in its loops, what its spills may move. For a chain of R = 256 in 16 bits, which
reads both weights, that is 128 KiB: 1024 cycles of the first cache beside 8192 of an H100's tensor cores, less than a
tile of half the pairs would cost."""
TOKENS, EACH = 196, 12
"""Tokens, and operations of one program of `weights`, at which reads and turns are counted."""
WEIGHED_FROM = (3, 8)
"""The Triton that the lists are made with, and weighed with any later. Older ones spill more, and in other kernels."""
WEIGHED = version() >= WEIGHED_FROM

FLOATS = {
    "LOGITS", "D_LOGITS", "ATTENTION", "EXTRA", "OUT", "DA", "DS", "D_GATE", "SUM", "SUM_W", "SUM_BIAS", "SUM_QUERY",
    "OTHER",
}  # fmt: skip
WINDOWS = {"KEYS", "OPERATIONS", "RESULTS", "D_KEYS", "D_OPERATIONS", "D_RESULTS"}
COUNTS = {"pairs", "first", "count", "stride"}
INTEGERS = {"K", "N", "threshold", "draw", "grouped", "operations", "each", "later", "parts", "other_parts"}
SPECIALISED = {"N", "count"}
"""Integers for whose values some kernels are compiled anew; their masks then cover whole vectors."""


def target(architecture: Architecture) -> GPUTarget:
    """What Triton compiles for."""
    return GPUTarget("hip", architecture, 64) if is_amd(architecture) else GPUTarget("cuda", architecture, 32)


@dataclass(frozen=True)
class Case:
    """One kernel at one configuration, to be compiled for one architecture."""

    kernel: str
    architecture: Architecture
    dtype: str
    width: int
    entry: configs.Entry
    others: dict
    aligned: bool = False  # SPECIALISED integers are multiples of 16

    @property
    def function(self) -> triton.JITFunction:
        return KERNELS[self.kernel]

    @property
    def constants(self) -> dict:
        """All constants of the kernel."""
        return self.others | dict(self.entry.constants)

    @property
    def warps(self) -> int:
        return self.entry.warps

    @property
    def amd(self) -> bool:
        return is_amd(self.architecture)

    @property
    def target(self) -> GPUTarget:
        return target(self.architecture)

    @property
    def products(self) -> bool:
        """Whether it multiplies matrices."""
        return "PRECISION" in self.function.arg_names

    @property
    def read_bytes(self) -> int:
        """What a program that multiplies pairs reads in its loops: a chain its weights, `weights` its pairs; 0 of other
        kernels."""
        size = TORCH[self.dtype].itemsize
        if self.kernel == "weights":
            return EACH * TOKENS * (self.constants["BM"] + self.constants["BD"]) * size
        if self.kernel in configs.FIRST_HALVES.values():
            return self.width * self.constants["BC"] * size
        if self.kernel in configs.CHAINS:
            return self.width * (2 * self.width if self.fused else self.constants["BD"]) * size
        return 0

    @property
    def fused(self) -> bool:
        """Whether a program of a chain makes its middle."""
        return configs.is_fused(self.kernel, self.width, TORCH[self.dtype])

    @property
    def rows(self) -> int:
        """Of the tile that it multiplies, or multiplies for."""
        return self.constants.get("BM", self.constants.get("BN", 0))

    @property
    def turns(self) -> tuple[int, int, int]:
        """How often a program executes what stands within none of its kernel's loops, within one, and within two."""
        if self.read_bytes:
            return configs.turns(self.kernel, self.constants, self.width, TOKENS, EACH)
        return 1, 1, 1

    @property
    def label(self) -> str:
        blocks = ",".join(f"{name}={value}" for name, value in self.entry.constants)
        return f"{self.kernel} {name_of(self.architecture)} {self.dtype} {self.width} {blocks} warps={self.warps}"


@dataclass
class Result:
    """What the compiler made of a case."""

    case: Case
    shared: int
    registers: int
    counts: dict[str, int] = field(default_factory=dict)
    executed: float = 1.0  # products over those needed, see the function of this name
    scratch: int = 0  # bytes of memory that a lane has for its registers on AMD's cards

    @property
    def spilled(self) -> int:
        """Instructions that move registers to and from memory."""
        return self.counts["LDL"] + self.counts["STL"]

    @property
    def spilled_bytes(self) -> int:
        """What the spills of a tile move, four bytes a thread for each."""
        executed = sum(self.counts.get(depth, 0) * turns for depth, turns in zip(DEPTHS, self.case.turns, strict=True))
        return 4 * 32 * self.case.warps * executed

    @property
    def spills_much(self) -> bool:
        """More than a chain may, and than any other kernel. On AMD's cards none may."""
        return self.spilled_bytes > MOST_SPILLED * self.case.read_bytes or self.scratch > 0

    @property
    def blocks(self) -> int:
        """How many programs a multiprocessor holds at once."""
        architecture, warps, lanes = self.case.architecture, self.case.warps, self.case.target.warp_size
        by_registers = REGISTERS[lanes] // (-(-self.registers // 8) * 8 * lanes * warps)
        by_shared = (shared_memory(architecture) + RESERVED[lanes]) // max(1, self.shared + RESERVED[lanes])
        return min(by_registers, by_shared, WARPS[architecture] // warps, BLOCKS[architecture])

    @property
    def occupancy(self) -> float:
        """Resident warps of those a multiprocessor can hold."""
        return self.blocks * self.case.warps / WARPS[self.case.architecture]

    @property
    def faults(self) -> list[str]:
        """What is wrong with it."""
        case, found = self.case, []
        if self.shared > shared_memory(case.architecture):
            found.append(f"{self.shared} bytes of shared memory")
        if WEIGHED and self.spills_much:
            moved = f"{self.scratch} bytes a lane" if case.amd else f"{self.spilled_bytes / KIB:.0f} KiB a tile"
            found.append(f"{self.spilled} spill instructions move {moved}")
        if self.executed > MOST_EXECUTED:
            found.append(f"{self.executed:.2f} products for one")
        if case.products and (case.amd or case.dtype != "float32"):
            if not any(self.counts.get(code) for code in TENSOR_CORES):
                found.append("no tensor cores")
            large = case.read_bytes and case.rows >= 64 and case.architecture == 90 and case.dtype != "tf32"
            if large and not self.counts["HGMMA"]:
                found.append("no HGMMA")
        return found


def signature(case: Case) -> tuple[dict, dict]:
    """The types of the kernel's arguments, and which pointers are aligned to 16 bytes; and that each is of a tensor of
    less than 2 GB, which Triton tells the compiler of AMD's cards alone."""
    kinds, attributes = {}, {}
    element = f"*{DTYPES[case.dtype]}"
    blocks = case.constants.get("BLOCKS", 1)
    aligned, small = [["tt.divisibility", 16]], [["tt.pointer_range", 32]] if case.amd else []
    for i, name in enumerate(case.function.arg_names):
        if name in case.constants:
            kinds[name] = "constexpr"
        elif name in WINDOWS and "BLOCKS" in case.constants:
            kinds[name] = (element,) * blocks
            attributes |= {(i, j): aligned + small for j in range(blocks)}
        elif name == "seed":
            kinds[name] = "*i64"
            attributes |= {(i,): small} if small else {}
        elif name == "scale" or name.endswith("_scale"):
            kinds[name] = "fp32"
        elif name in COUNTS:
            kinds[name] = "i64"
        elif name in INTEGERS or name.endswith(("_threshold", "_stream")):
            kinds[name] = "i32"
        else:
            kinds[name] = "*i8" if name == "MASK" else "*fp32" if name in FLOATS else element
            attributes[(i,)] = aligned + small
        if case.aligned and name in SPECIALISED:
            attributes[(i,)] = aligned
    return kinds, attributes


def obstacle(architecture: Architecture) -> str | None:
    """Why nothing can be compiled for it here: Triton 3.4 has no linker for AMD's cards and takes that of ROCm."""
    if is_amd(architecture) and hasattr(HIPBackend, "path_to_rocm_lld"):
        try:
            HIPBackend.path_to_rocm_lld()
        except Exception as error:
            return f"{name_of(architecture)}: {error}"
    return None


def kernel_of(case: Case) -> CompiledKernel:
    """Compile one case."""
    kinds, attributes = signature(case)
    source = ASTSource(fn=case.function, signature=kinds, constexprs=case.constants, attrs=attributes)
    options = {"num_warps": case.entry.warps, "num_stages": case.entry.stages} | OPTIONS
    return triton.compile(source, target=case.target, options=options)


def compiled(case: Case) -> Result:
    """Compile one case and read the result."""
    return weighed(case, kernel_of(case))


def weighed(case: Case, kernel: CompiledKernel) -> Result:
    """What a compiled kernel is."""
    found = Result(case, kernel.metadata.shared, 0, executed=executed(kernel.asm["ttgir"]))
    if case.amd:
        found.registers, found.counts, found.scratch = read_amd(kernel.asm["amdgcn"])
    else:
        found.registers, found.counts = read(kernel.asm["cubin"], case.products)
    return found


SWITCHES = (
    "ALIGNED", "GATED", "ADD", "MASKED", "DROP", "DROP_PRODUCT", "DROP_VALUE", "DROP_ATTENTION", "MASK_SELF", "KEEP",
    "KEPT",
)  # fmt: skip
ABSENT = {"seed": "DROP", "gate": "GATED", "EXTRA": "ADD", "MASK": "MASKED", "Q": "GATED", "DS": "GATED", "H": "KEPT"}
"""Arguments that may be None where the kernel has this switch and it is off."""


def cases_of(
    kernel: str, architecture: Architecture, dtype: str, width: int, on: bool = True, activation: str = "elu"
) -> Iterator[Case]:
    """A kernel at every configuration it may be launched with, everything it can do switched on, or off, for
    attention over N = 196 tokens, or 256."""
    function, N = KERNELS[kernel], TOKENS if on else 256
    sizes = {"R": width, "D": width, "GROUP": configs.group(6), "BLOCKS": 3 if on else 1, "OF_TOKENS": not on}
    if kernel in configs.SUMS:
        sizes["BD"] = configs.columns(kernel, width, TORCH[dtype])
    precision = "tf32" if dtype == "tf32" else "ieee"
    fixed = dict.fromkeys(SWITCHES, on) | sizes | {"PRECISION": precision, "ACTIVATION": activation}
    keeps = on and configs.is_fused("chain_backward", width, TORCH[dtype])
    fixed |= {"KEEP": keeps, "KEPT": keeps}
    constants = {name: value for name, value in fixed.items() if name in function.arg_names}
    if not on:
        constants |= dict.fromkeys(absent(function))
    for entry in configs.entries(kernel, architecture, TORCH[dtype], width, 6, N, precision):
        yield Case(kernel, architecture, dtype, width, entry, constants, bool(variants(function)) and not on)


def variants(function: triton.JITFunction) -> list[str]:
    """The integers for whose values a launch compiles it anew."""
    open_to_it = {p.name for p in function.params if not p.is_constexpr and not p.do_not_specialize}
    integers = COUNTS | {"K", "N", *PLAIN}
    return sorted(open_to_it & integers)


def absent(function: triton.JITFunction) -> list[str]:
    """The pointers that it gets as None with everything off."""
    names = set(function.arg_names)
    if "KEYS" in names or "D_KEYS" in names:  # of composition: several switches share the seed
        return [name for name in ("seed", "EXTRA") if name in names and "DROP_VALUE" in names]
    if "DS" not in names:  # of `products`, whose queries are always there
        names.discard("Q")
    return [name for name, switch in ABSENT.items() if name in names and switch in names]


WITH_AND_WITHOUT = ("logits", "chain_backward")
"""Kernels that run out of registers first, compiled with their switches off at every width."""


def cases(
    architectures: Iterable[Architecture] = configs.ARCHITECTURES,
    dtypes: Iterable[str] = tuple(DTYPES),
    widths: Sequence[int] | None = None,
    kernel: str = "",
    activations: Sequence[str] = ("elu",),
) -> Iterator[Case]:
    """The matrix, or a part of it: all that is on, and at R = D = 256 and where it matters all that is off."""
    names = [name for name in KERNELS if kernel in name]
    points = itertools.product(names, activations, architectures, dtypes, widths or WIDTHS)
    for name, activation, architecture, dtype, width in points:
        if is_amd(architecture) and dtype == "tf32":  # see `launch.precision`
            continue
        if not serves(name, width, dtype) and not (widths and name not in configs.FIRST_HALVES.values()):
            continue
        if activation == activations[0] or "ACTIVATION" in KERNELS[name].arg_names:
            yield from cases_of(name, architecture, dtype, width, activation=activation)
        if width == 256 or name in WITH_AND_WITHOUT:
            yield from cases_of(name, architecture, dtype, width, on=False, activation=activation)


def serves(kernel: str, width: int, dtype: str) -> bool:
    """Whether the matrix has this kernel at this width."""
    halved = [chain for chain, half in configs.FIRST_HALVES.items() if half == kernel]
    if halved:
        return not all(configs.is_fused(chain, width, TORCH[dtype]) for chain in halved)
    return kernel in configs.CHAINS or width in OTHER_WIDTHS


def row(result: Result) -> str:
    """One line of the table."""
    case, counts = result.case, result.counts
    cores = " ".join(f"{code} {counts[code]}" for code in (*TENSOR_CORES, "FFMA") if counts.get(code))
    drop = "drop" if any(case.constants.get(name) for name in SWITCHES if "DROP" in name) else ""
    drop += f" {case.others['ACTIVATION']}" if case.others.get("ACTIVATION", "elu") != "elu" else ""
    return (
        f"{case.label + ' ' + drop:<88} {result.registers:>4} registers {result.shared / KIB:>6.1f} KiB shared "
        f"{result.occupancy:>4.0%} occupancy {result.spilled:>3} spills {result.executed:.2f} executed  {cores}"
        f"  {'; '.join(result.faults)}"
    )


def main() -> int:
    """Print the table; 1 where anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--arch",
        type=lambda name: int(name) if name.isdigit() else name,
        nargs="+",
        default=configs.ARCHITECTURES,
        choices=configs.ARCHITECTURES,
        metavar="ARCH",
        help="default %(default)s",
    )
    parser.add_argument("--dtype", nargs="+", default=tuple(DTYPES), choices=DTYPES, help="default all")
    parser.add_argument("--width", type=int, nargs="+", help="R, and D of the other kernels; default several")
    parser.add_argument("--kernel", default="", help="only kernels whose name contains this; default all")
    parser.add_argument(
        "--activation", nargs="+", default=("elu",), choices=ACTIVATIONS, metavar="NAME", help="default elu"
    )
    options = parser.parse_args()
    faulty = total = 0
    obstacles = {architecture: obstacle(architecture) for architecture in options.arch}
    possible = [architecture for architecture, reason in obstacles.items() if reason is None]
    for case in cases(possible, options.dtype, options.width, options.kernel, options.activation):
        result = compiled(case)
        total, faulty = total + 1, faulty + bool(result.faults)
        print(row(result), flush=True)
    for reason in filter(None, obstacles.values()):
        print(f"not compiled for {reason}")
    print(f"{total} compiled, {faulty} with a fault")
    return 1 if faulty or not total else 0


if __name__ == "__main__":
    sys.exit(main())
