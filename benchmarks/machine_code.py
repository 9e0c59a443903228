"""Reads what a compiler made of a kernel: registers, instructions and the loops that they stand in, of NVIDIA's
machine code with the programs that Triton carries, of AMD's from its text; and which warps multiply, of Triton's
intermediate code.

A loop is a natural one of the control flow, from the target of a branch back to what leads there; loops that wait for a
copy multiply nothing, and are none here.
"""

from __future__ import annotations

import functools
import math
import os
import re
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from iprm_kernels.extras import extra

with extra("triton", __name__):
    import triton.backends.nvidia

OPCODES = ("HMMA", "HGMMA", "UTCHMMA", "FFMA", "LDL", "STL")
TENSOR_CORES = ("HMMA", "HGMMA", "UTCHMMA", "MFMA")
OPCODES_OF_AMD = {"MFMA": "v_mfma_", "FFMA": "v_(?:pk_)?fmac?_f32", "LDL": "scratch_load_", "STL": "scratch_store_"}
"""What begins the names of AMD's instructions for the same."""
DEPTHS = ("spills outside", "spills in a loop", "spills in a loop of a loop")
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)\s*([^;]*);|^(\.L\w+):", re.MULTILINE)
TENSOR = re.compile(r"HMMA|HGMMA|UTC\w*MMA")


class Instruction(NamedTuple):
    """One of the disassembled code."""

    predicate: str
    opcode: str
    operands: str

    @property
    def target(self) -> str | None:
        """Where a branch goes; a call too, which may be how a loop is left."""
        found = re.search(r"`\((\.L\w+)\)", self.operands) if self.opcode.startswith(("BRA", "CALL")) else None
        return found[1] if found else None

    @property
    def ends(self) -> bool:
        """Whether what follows is not reached from here."""
        plain = not self.predicate and self.opcode in ("BRA", "EXIT", "RET.REL.NODEC")
        return plain and (self.opcode != "BRA" or self.operands.strip().startswith("`("))

    @property
    def multiplies(self) -> bool:
        return bool(TENSOR.match(self.opcode)) or self.opcode.startswith("FFMA")

    @property
    def product(self) -> str:
        """The name of a product on tensor cores; the warp group's says whether a factor comes from registers."""
        registers = self.opcode.startswith("HGMMA") and re.match(r"R\d+, R\d+", self.operands)
        return self.opcode + (" registers" if registers else "")


def blocks_of(text: str) -> tuple[list[list[Instruction]], list[set[int]]]:
    """The basic blocks of a kernel, and to which each goes on."""
    blocks: list[list[Instruction]] = [[]]
    labels: dict[str, int] = {}
    for predicate, opcode, operands, label in INSTRUCTION.findall(text):
        if label:
            if blocks[-1]:
                blocks.append([])
            labels[label] = len(blocks) - 1
        elif opcode != "NOP":
            blocks[-1].append(found := Instruction(predicate, opcode, operands))
            if found.target or found.ends:
                blocks.append([])
    after: list[set[int]] = []
    for i, block in enumerate(blocks):
        last = block[-1] if block else None
        ways = {labels[last.target]} if last and last.target in labels else set()
        after.append(ways | ({i + 1} if i + 1 < len(blocks) and not (last and last.ends) else set()))
    return blocks, after


def loops_of(after: list[set[int]]) -> list[set[int]]:
    """The natural loops: of each block that is gone back to from one that it leads to in every way, all in between."""
    count = len(after)
    before: list[set[int]] = [set() for _ in range(count)]
    for i, ways in enumerate(after):
        for j in ways:
            before[j].add(i)
    dominators = [1] + [(1 << count) - 1] * (count - 1)  # as bits
    changed = True
    while changed:
        changed = False
        for i in range(1, count):
            found = functools.reduce(lambda bits, j: bits & dominators[j], before[i], (1 << count) - 1) | 1 << i
            changed, dominators[i] = changed or found != dominators[i], found
    loops: dict[int, set[int]] = {}
    for i, ways in enumerate(after):
        for head in (j for j in ways if dominators[i] >> j & 1):
            loop, open_ = loops.setdefault(head, {head}), [i]
            while open_:
                if (block := open_.pop()) not in loop:
                    loop.add(block)
                    open_ += before[block]
    return list(loops.values())


def by_depth(text: str) -> Iterator[tuple[int, Instruction]]:
    """Every instruction with its depth: in how many loops that multiply it stands, 2 for two and more."""
    blocks, after = blocks_of(text)
    loops = [loop for loop in loops_of(after) if any(i.multiplies for block in loop for i in blocks[block])]
    for number, block in enumerate(blocks):
        depth = min(2, sum(number in loop for loop in loops))
        yield from ((depth, instruction) for instruction in block)


def counted(text: str) -> tuple[list[int], dict[str, list[int]]]:
    """Instructions by depth, 0 to 2, and those of products on tensor cores by name."""
    instructions, products = [0, 0, 0], defaultdict(lambda: [0, 0, 0])
    for depth, instruction in by_depth(text):
        instructions[depth] += 1
        if TENSOR.match(instruction.opcode):
            products[instruction.product][depth] += 1
    return instructions, dict(products)


def spills(text: str) -> list[int]:
    """How many of the spills in disassembled code stand within no, one and two loops that multiply."""
    found = [0, 0, 0]
    for depth, instruction in by_depth(text):
        found[depth] += instruction.opcode.partition(".")[0] in ("LDL", "STL")
    return found


def tool(name: str, option: str, cubin: bytes) -> str:
    """What a program that Triton carries says of machine code."""
    path = os.path.join(os.path.dirname(triton.backends.nvidia.__file__), "bin", name)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([path, option, file.name], capture_output=True, text=True, check=True).stdout


def read(cubin: bytes, code: bool = True) -> tuple[int, dict[str, int]]:
    """The registers of a kernel, how often each of OPCODES stands in it, and its spills by DEPTHS. Without `code` a
    kernel that has no stack, hence no spills, is not disassembled, which takes long."""
    usage = tool("cuobjdump", "--dump-resource-usage", cubin)
    registers, stack = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))
    text = tool("nvdisasm", "-c", cubin) if code or stack else ""
    counts = {name: len(re.findall(rf"\b{name}\b", text)) for name in OPCODES}
    return registers, counts | dict(zip(DEPTHS, spills(text), strict=True))


def read_amd(text: str) -> tuple[int, dict[str, int], int]:
    """The same of AMD's machine code as text, whose spills are not told apart; and the bytes of scratch memory."""
    registers, scratch = (
        int(re.search(rf"\.{name}: +(\d+)", text)[1]) for name in ("vgpr_count", "private_segment_fixed_size")
    )
    counts = {name: len(re.findall(rf"\b{pattern}", text)) for name, pattern in OPCODES_OF_AMD.items()}
    return registers, counts, scratch


LAYOUT = re.compile(r"^#(\w+) = #ttg\.(\w+)<\{(.*)\}>$", re.MULTILINE)
DOT = re.compile(r" (?:tt\.dot|ttng\.warp_group_dot) .*-> tensor<(\d+)x(\d+)x\w+, #(\w+)>")


def executed(code: str) -> float:
    """Products over those needed, of the worst multiplication in Triton's own intermediate code (`ttgir`).

    A layout says which warp holds which part of a result. Where all warps together hold more than there is, some hold
    the same part, and each multiplies for it. sm_100's instruction is a single thread's, and its result in no warp.
    """
    layouts = {name: (kind, text) for name, kind, text in LAYOUT.findall(code)}
    found = [1.0]
    for *sizes, name in DOT.findall(code):
        held = [held_along(axis, *layouts[name]) for axis in (0, 1)]
        found.append(math.prod(max(1.0, count / int(size)) for count, size in zip(held, sizes, strict=True)))
    return max(found)


def held_along(axis: int, kind: str, layout: str) -> int:
    """How many rows (0) or columns (1) all warps together hold at once, in a layout."""

    def numbers(name: str) -> int:
        return int(re.search(rf"{name} = \[([\d, ]+)\]", layout)[1].split(",")[axis])

    lanes = ("sizePerThread", "threadsPerWarp") if kind == "blocked" else ("instrShape",)
    return math.prod(map(numbers, (*lanes, "warpsPerCTA")))
