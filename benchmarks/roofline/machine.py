"""Counts what the machine code of the kernels executes, into machine.json beside this file, for the roofline to read.

    python -m benchmarks.roofline --compile      takes Triton and some minutes, no GPU

Every kernel is compiled at the first of its configurations for the architectures of the cards. Of its instructions
each has a depth: how many loops that multiply it stands in (`benchmarks.machine_code`).
"""

from __future__ import annotations

import functools
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.roofline.cards import CARDS
from iprm_kernels.backends.triton import configs

PATH = Path(__file__).with_name("machine.json")
WIDTHS = {"chain": 256, "other": 512}
"""R, of the kernels over pairs, and D of the others: the sizes that are compiled."""
TOKENS = (196, 24)
ATTENTION = ("products", "pool", "d_tokens", "d_query")
DTYPES = ("bfloat16", "float32")
ARCHITECTURES = sorted({card.architecture for card in CARDS.values()})


def key_of(kernel: str, architecture: int, dtype: str, variant: str, few: bool = False) -> str:
    """The name of an entry; the variant is what is switched on, and attention has one for few tokens."""
    return " ".join(filter(None, (kernel, f"sm_{architecture}", dtype, variant, "few" * (few and kernel in ATTENTION))))


def label_of(entry: Any) -> str:
    """A configuration in words."""
    return " ".join(f"{name}={value}" for name, value in entry.arguments.items())


def cases() -> Iterator[tuple[str, Any]]:
    """Key and case of every entry."""
    from benchmarks import ahead_of_time as ahead
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
    from benchmarks import ahead_of_time as ahead
    from benchmarks import machine_code

    kernel = ahead.kernel_of(case)
    cubin = kernel.asm["cubin"]
    registers, _ = machine_code.read(cubin, code=False)
    result = ahead.Result(case, kernel.metadata.shared, registers)
    text = machine_code.tool("nvdisasm", "-c", cubin)
    instructions, products = machine_code.counted(text)
    return {
        "entry": label_of(case.entry),
        "blocks": result.blocks,
        "executed": machine_code.executed(kernel.asm["ttgir"]),
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
