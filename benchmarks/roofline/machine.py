"""Counts what the machine code of the kernels executes, into machine.json beside this file, for the roofline to read.

    python -m benchmarks.roofline --compile      takes Triton and some minutes, no GPU

Every kernel is compiled at the first of its configurations for the architectures of the cards. Of its instructions
each has a depth: how many loops that multiply it stands in. A loop is a natural one of the control flow, from the
target of a branch back to what leads there; loops that wait for a copy multiply nothing, and count once.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.roofline.cards import CARDS
from iprm_kernels.backends.triton import configs

PATH = Path(__file__).with_name("machine.json")
WIDTHS = {"chain": 256, "other": 512}
"""R, of the kernels over pairs, and D of the others: the sizes that are compiled."""
TOKENS = (196, 24)
ATTENTION = ("products", "pool", "d_tokens", "d_query")
DTYPES = ("bfloat16", "float32")
ARCHITECTURES = sorted({card.architecture for card in CARDS.values()})
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


def counted(text: str) -> tuple[list[int], dict[str, list[int]]]:
    """Instructions by depth, 0 to 2, and those of products on tensor cores by name."""
    blocks, after = blocks_of(text)
    loops = [loop for loop in loops_of(after) if any(i.multiplies for block in loop for i in blocks[block])]
    instructions, products = [0, 0, 0], defaultdict(lambda: [0, 0, 0])
    for number, block in enumerate(blocks):
        depth = min(2, sum(number in loop for loop in loops))
        instructions[depth] += len(block)
        for instruction in block:
            if TENSOR.match(instruction.opcode):
                products[instruction.product][depth] += 1
    return instructions, dict(products)


def key_of(kernel: str, architecture: int, dtype: str, variant: str, few: bool = False) -> str:
    """The name of an entry; the variant is what is switched on, and attention has one for few tokens."""
    return " ".join(filter(None, (kernel, f"sm_{architecture}", dtype, variant, "few" * (few and kernel in ATTENTION))))


def label_of(entry: Any) -> str:
    """A configuration in words."""
    return " ".join(f"{name}={value}" for name, value in entry.arguments.items())


def cases() -> Iterator[tuple[str, Any]]:
    """Key and case of every entry."""
    from iprm_kernels.backends.triton import ahead_of_time as ahead
    from iprm_kernels.backends.triton.launch import KERNELS

    left_out = (*configs.FIRST_HALVES.values(), "simple_logits", "simple_backward", "dropout", "add_parts")
    for kernel, dtype, architecture in itertools.product(KERNELS, DTYPES, ARCHITECTURES):
        if kernel in left_out:
            continue
        width = WIDTHS["chain" if kernel in configs.SUMS else "other"]
        for variant, changes in variants(kernel, KERNELS[kernel].arg_names):
            known = next(ahead.cases_of(kernel, architecture, dtype, width))
            others = known.others | changes
            absent = (("seed", "DROP"), ("H", "KEEP"), ("H", "KEPT"))
            others |= {name: None for name, switch in absent if switch in known.others and not others[switch]}
            for tokens in TOKENS if kernel in ATTENTION else TOKENS[:1]:
                entry = configs.entries(kernel, architecture, ahead.TORCH[dtype], width, 6, tokens)[0]
                case = ahead.Case(kernel, architecture, dtype, width, entry, others)
                yield key_of(kernel, architecture, dtype, variant, tokens <= configs.FEW), case


def variants(kernel: str, arguments: list[str]) -> list[tuple[str, dict[str, bool]]]:
    """The forms of a kernel that a training step and a forward of the module launch: the attention's dropout is off by
    default, and masks are given."""
    if kernel == "weights":
        return [("", {"OF_TOKENS": False}), ("tokens", {"OF_TOKENS": True})]
    if kernel == "recompute":
        return [("", {"DROP": False}), ("drop", {"DROP": True})]
    if kernel in ("logits", "chain_backward"):
        switch = "KEEP" if kernel == "logits" else "KEPT"
        drops = [("", {"DROP": False}), ("drop", {"DROP": True})]
        kept = [(f"{switch.lower()} {name}".strip(), changes | {switch: True}) for name, changes in drops]
        return [(name, changes | {switch: False}) for name, changes in drops[: 1 + (kernel == "logits")]] + kept
    if "DROP_PRODUCT" in arguments:
        off = {"DROP_PRODUCT": False, "DROP_VALUE": False, "DROP_ATTENTION": False}
        return [("", off), ("drop", off | {"DROP_PRODUCT": True, "DROP_VALUE": True})]
    off = {name: False for name in ("DROP", "ADD") if name in arguments}
    if "GATED" in arguments:
        return [("", off | {"GATED": False}), ("gated", off | {"GATED": True})]
    return [("", off)]


def record(case: Any) -> dict[str, Any]:
    """What an entry says: the configuration, how many blocks a multiprocessor holds, and the counts."""
    from iprm_kernels.backends.triton import ahead_of_time as ahead

    kernel = ahead.kernel_of(case)
    cubin = kernel.asm["cubin"]
    registers, _ = ahead.read(cubin, code=False)
    result = ahead.Result(case, kernel.metadata.shared, registers)
    text = ahead.tool("nvdisasm", "-c", cubin)
    instructions, products = counted(text)
    return {
        "entry": label_of(case.entry),
        "blocks": result.blocks,
        "executed": ahead.executed(kernel.asm["ttgir"]),
        "instructions": instructions,
        "products": products,
    }


def compile_all() -> None:
    """Write the table."""
    import triton

    entries = {key: record(case) for key, case in cases()}
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(entry)}" for key, entry in entries.items())
    PATH.write_text(f'{{"triton": {json.dumps(triton.__version__)}, "entries": {{\n{lines}\n}}}}\n', encoding="utf-8")
    kinds = Counter(key.split()[0] for key in entries)
    print(f"{PATH}: {len(entries)} entries of {len(kinds)} kernels, Triton {triton.__version__}")


@functools.cache
def table() -> dict[str, Any]:
    """What was written."""
    return json.loads(PATH.read_text(encoding="utf-8"))
