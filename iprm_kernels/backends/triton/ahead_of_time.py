"""Compiles every kernel for every architecture, without a device, and reads what came out.

    python -m iprm_kernels.backends.triton.ahead_of_time                 the whole matrix, as a table
    python -m iprm_kernels.backends.triton.ahead_of_time --arch 90 --dtype bfloat16 --width 256 --kernel logits

Shared memory is in the compiler's metadata; registers and instructions are read from the machine code with the
programs that Triton carries. The exit status is 1 where a kernel breaks a limit: more shared memory than a block may
have, a register spilled to memory (LDL, STL), a bfloat16 or float16 product without tensor cores, or, in a chain of
products with tiles of 64 rows or more on sm_90, without the warp group's own instruction (HGMMA).
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import triton
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from iprm_kernels.backends.triton import attend, compose, configs, dropout, pairs, simple
from iprm_kernels.backends.triton.launch import power_of_2

DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
WIDTHS = (128, 256, 512, 1024)
KIB = 1024
SHARED_LIMIT = {80: 163 * KIB, 90: 227 * KIB, 100: 227 * KIB}
"""Bytes that one block may have (CUDA C++ programming guide, compute capabilities 8.0, 9.0, 10.0)."""
SHARED_OF_SM = {80: 164 * KIB, 90: 228 * KIB, 100: 228 * KIB}
RESERVED, REGISTERS, WARPS, BLOCKS = KIB, 65536, 64, 32
"""Shared memory reserved for each block; registers, warps and blocks of a multiprocessor."""
OPCODES = ("HMMA", "HGMMA", "UTCHMMA", "FFMA", "LDL", "STL")
TENSOR_CORES = ("HMMA", "HGMMA", "UTCHMMA")

FLOATS = {
    "LOGITS", "D_LOGITS", "ATTENTION", "EXTRA", "OUT", "DA", "DS", "D_GATE", "SUM_W", "SUM_C2", "SUM_G", "SUM_L",
    "SUM_QUERY",
}  # fmt: skip
WINDOWS = {"KEYS", "OPERATIONS", "RESULTS", "D_KEYS", "D_OPERATIONS", "D_RESULTS"}
COUNTS = {"pairs", "first", "count"}


@dataclass(frozen=True)
class Case:
    """One kernel at one configuration, to be compiled for one architecture."""

    kernel: str
    function: triton.JITFunction
    architecture: int
    dtype: str
    width: int
    constants: dict
    warps: int
    stages: int = 2
    products: bool = True

    @property
    def label(self) -> str:
        blocks = ",".join(f"{k}={v}" for k, v in self.constants.items() if k in ("BN", "BC", "BR", "BK", "BD", "PARTS"))
        return f"{self.kernel} sm_{self.architecture} {self.dtype} {self.width} {blocks} warps={self.warps}"


@dataclass
class Result:
    """What the compiler made of a case."""

    case: Case
    shared: int
    registers: int
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def spilled(self) -> int:
        """Instructions that move registers to and from memory."""
        return self.counts["LDL"] + self.counts["STL"]

    @property
    def occupancy(self) -> float:
        """Resident warps of those a multiprocessor can hold."""
        warps, registers = self.case.warps, -(-self.registers // 8) * 8
        by_shared = SHARED_OF_SM[self.case.architecture] // (self.shared + RESERVED)
        blocks = min(REGISTERS // (registers * 32 * warps), by_shared, WARPS // warps, BLOCKS)
        return blocks * warps / WARPS

    @property
    def faults(self) -> list[str]:
        """What is wrong with it."""
        case, found = self.case, []
        if self.shared > SHARED_LIMIT[case.architecture]:
            found.append(f"{self.shared} bytes of shared memory")
        if self.spilled:
            found.append(f"{self.spilled} spill instructions")
        if case.products and case.dtype != "float32":
            if not any(self.counts[code] for code in TENSOR_CORES):
                found.append("no tensor cores")
            large = case.kernel in configs.KERNELS and case.constants["BN"] >= 64 and case.architecture == 90
            if large and not self.counts["HGMMA"]:
                found.append("no HGMMA")
        return found


def signature(case: Case) -> tuple[dict, dict]:
    """The types of the kernel's arguments, and which pointers are aligned to 16 bytes."""
    kinds, attributes = {}, {}
    element = f"*{DTYPES[case.dtype]}"
    blocks = case.constants.get("BLOCKS", 1)
    for i, name in enumerate(case.function.arg_names):
        aligned = [["tt.divisibility", 16]]
        if name in case.constants:
            kinds[name] = "constexpr"
        elif name in WINDOWS and "BLOCKS" in case.constants:
            kinds[name] = (element,) * blocks
            attributes |= {(i, j): aligned for j in range(blocks)}
        elif name == "seed":
            kinds[name] = "*i64"
        elif name == "scale" or name.endswith("_scale"):
            kinds[name] = "fp32"
        elif name in COUNTS:
            kinds[name] = "i64"
        elif name in ("K", "N", "threshold", "stream") or name.endswith(("_threshold", "_stream")):
            kinds[name] = "i32"
        else:
            kinds[name] = "*i8" if name == "MASK" else "*fp32" if name in FLOATS else element
            attributes[(i,)] = aligned
    return kinds, attributes


def tool(name: str, *args: str) -> str:
    """Output of a program that Triton carries."""
    path = os.path.join(os.path.dirname(triton.backends.nvidia.__file__), "bin", name)
    return subprocess.run([path, *args], capture_output=True, text=True, check=True).stdout


def compiled(case: Case) -> Result:
    """Compile one case and read the result."""
    kinds, attributes = signature(case)
    source = ASTSource(fn=case.function, signature=kinds, constexprs=case.constants, attrs=attributes)
    options = {"num_warps": case.warps, "num_stages": case.stages}
    kernel = triton.compile(source, target=GPUTarget("cuda", case.architecture, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = tool("cuobjdump", "--dump-resource-usage", file.name)
        code = tool("nvdisasm", "-c", file.name)
    counts = {name: len(re.findall(rf"\b{name}\b", code)) for name in OPCODES}
    return Result(case, kernel.metadata.shared, int(re.search(r"REG:(\d+)", usage)[1]), counts)


def chain_cases(architecture: int, dtype: str, width: int) -> Iterator[Case]:
    """The chains of products, at every configuration they may be launched with, with dropout and without."""
    for name, function in configs.KERNELS.items():
        for tile in configs.tiles(name, architecture, getattr(torch, dtype), width):
            for drop in (True, False) if name == "logits" else (None,):
                sizes = {"R": width, "RP": max(16, power_of_2(width)), "ACTIVATION": "elu", "PRECISION": "ieee"}
                constants = {**sizes, **tile.config(name), **({} if drop is None else {"DROP": drop})}
                yield Case(name, function, architecture, dtype, width, constants, tile.warps, tile.stages)


SWITCHES = (
    "ALIGNED", "GATED", "ADD", "MASKED", "DROP", "DROP_PRODUCT", "DROP_VALUE", "DROP_ATTENTION", "MASK_SELF",
)  # fmt: skip
ABSENT = {"seed": "DROP", "gate": "GATED", "EXTRA": "ADD", "MASK": "MASKED", "Q": "GATED", "DS": "GATED"}
"""Arguments that may be None where the kernel has this switch and it is off."""


def other_cases(architecture: int, dtype: str, width: int, on: bool = True) -> Iterator[Case]:
    """All other kernels at B = 64, K = 6, N = 196, everything that they can do switched on, or off."""
    fixed = dict.fromkeys(SWITCHES, on) | {"PRECISION": "ieee", "ACTIVATION": "elu"}
    fixed |= {"D": width, "R": width, "BLOCKS": 3 if on else 1, "BLOCK": dropout.BLOCK}
    families = {
        attend: ("products", "pool", "d_tokens", "d_query"),
        pairs: ("gate_backward", "reduce"),
        simple: ("simple_logits", "simple_backward"),
        compose: ("forward", "operations_backward", "columns_backward"),
        dropout: ("dropout",),
    }
    for room, names in families.items():
        blocks = {
            attend: configs.attention_blocks(6, 196, width, getattr(torch, dtype)),
            compose: configs.composition_blocks(6, width),
        }.get(room, configs.column_blocks(width))
        for name in names:
            function = getattr(room, f"{name}_kernel")
            if name == "columns_backward":
                blocks = configs.window_blocks(6, width)
            constants = {k: v for k, v in {**fixed, **blocks}.items() if k in function.arg_names}
            if not on:
                constants |= dict.fromkeys(absent(function))
            shown = f"composition {name}" if room is compose else name
            yield Case(shown, function, architecture, dtype, width, constants, blocks["num_warps"], 3, room is attend)
    constants = {"BN": 256}
    yield Case("slope", attend.slope_kernel, architecture, dtype, width, constants, 4, 3, False)


def absent(function: triton.JITFunction) -> list[str]:
    """The pointers that it gets as None with everything off."""
    names = set(function.arg_names)
    if "KEYS" in names or "D_KEYS" in names:  # of composition: several switches share the seed
        return [name for name in ("seed", "EXTRA") if name in names]
    if "DS" not in names:  # of `products`, whose queries are always there
        names.discard("Q")
    return [name for name, switch in ABSENT.items() if name in names and switch in names]


def cases(architectures=configs.ARCHITECTURES, dtypes=tuple(DTYPES), widths=WIDTHS, kernel="") -> Iterator[Case]:
    """The matrix, or a part of it."""
    for point in itertools.product(architectures, dtypes, widths):
        plain = other_cases(*point, on=False) if point[2] == 256 else ()
        for case in (*chain_cases(*point), *other_cases(*point), *plain):
            if kernel in case.kernel:
                yield case


def row(result: Result) -> str:
    """One line of the table."""
    case, counts = result.case, result.counts
    cores = " ".join(f"{code} {counts[code]}" for code in (*TENSOR_CORES, "FFMA") if counts[code])
    drop = "drop" if any(case.constants.get(name) for name in SWITCHES if "DROP" in name) else ""
    return (
        f"{case.label + ' ' + drop:<88} {result.registers:>4} registers {result.shared / KIB:>6.1f} KiB shared "
        f"{result.occupancy:>4.0%} occupancy {result.spilled:>3} spills  {cores}  {'; '.join(result.faults)}"
    )


def main() -> int:
    """Print the table; 1 where anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, nargs="+", default=configs.ARCHITECTURES, choices=configs.ARCHITECTURES)
    parser.add_argument("--dtype", nargs="+", default=tuple(DTYPES), choices=DTYPES)
    parser.add_argument("--width", type=int, nargs="+", default=WIDTHS, help="R, and D of the other kernels")
    parser.add_argument("--kernel", default="", help="only kernels whose name contains this")
    options = parser.parse_args()
    faulty = total = 0
    for case in cases(options.arch, options.dtype, options.width, options.kernel):
        result = compiled(case)
        total, faulty = total + 1, faulty + bool(result.faults)
        print(row(result), flush=True)
    print(f"{total} compiled, {faulty} with a fault")
    return 1 if faulty or not total else 0


if __name__ == "__main__":
    sys.exit(main())
