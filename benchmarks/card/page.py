"""The page of a record. It is made of the record alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

from benchmarks.card.record import ABSENT, BAD
from benchmarks.points import Point
from benchmarks.records import MEASURED, Record, find, grouped, of, ratio, variants_in
from benchmarks.tables import HEADS, UNITS, aligned_table, conditions_list, group_table, number, refused_list, sizes

MEASURED_HERE = """\
**Measured** on this card, but for the columns that say *predicted*, which are the roofline's \
(`python -m benchmarks.roofline`). What was not run says so, and no figure stands in its place."""
DRY_RUN = """\
**Dry run on a processor**: no card was here. The sizes are tiny and the times say nothing; this page shows what a run \
on a card leaves."""
LEGEND = """\
Medians of interleaved rounds; "vs reference" is to the reference of the same rounds. A variant whose numbers stray \
from float64 is **wrong** and not timed. Memory: a training step's peak above what is there before it."""
ABOUT_KERNELS = """\
One core and pass at a time, the second-level cache filled with something else before each. *Predicted* is the \
roofline's time of the Triton kernels, never less than a launch, which the profiler's times are without; the floor is \
that of the arithmetic and of bytes moved once. "Whole" is one call between two events, with the time to launch it."""

MOST = 60
"""Failures of a part that are listed; the record has them all."""
OF_A_SWEEP = ("- Products", "- Times", "- Spread")
"""What a sweep says of its conditions that is not said of the whole."""


def lines_of(title: str, *blocks: str) -> list[str]:
    """A section, nothing where it has no content."""
    content = [block.rstrip() + "\n" for block in blocks if block.strip()]
    return [f"{title}\n", *content] if content else []


def listed(facts: dict[str, Any]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def about(record: dict[str, Any]) -> str:
    """What it ran on."""
    device, machine = record["device"], record["machine"]
    card = {
        "Compute capability": device.get("capability"),
        "Memory": f"{device['memory'] / 2**30:.0f} GiB" if "memory" in device else None,
        "Multiprocessors": device.get("multiprocessors"),
        "Driver": device.get("driver"),
    }
    commits = Counter(commit_of(part) for part in record["parts"].values())
    facts = {
        "Device": device["name"],
        **{name: value for name, value in card.items() if value},
        "Host": f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}",
        "Versions": ", ".join(f"{name} {value}" for name, value in record["versions"].items() if value),
        "Tools": ", ".join(f"{name} {value or 'missing'}" for name, value in record["tools"].items()),
        "Commit": ", ".join(commits),
    }
    return listed(facts)


def commit_of(part: dict[str, Any]) -> str:
    found = part["commit"]
    return f"`{found['id'][:12]}`{' with changes' if found['dirty'] else ''}" if found else "not a checkout"


def summary(part: dict[str, Any]) -> str:
    """How many of its entries came to what."""
    counts = Counter(entry["outcome"] for entry in part["entries"])
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())


def parts_table(parts: dict[str, Any]) -> str:
    head = ["part", "what", "outcome", "seconds", "found", "date"]
    rows = [
        [f"`{name}`", part["what"], outcome(part), f"{part['seconds']:.0f}", summary(part), part["date"][:10]]
        for name, part in parts.items()
    ]
    return aligned_table(head, rows)


def outcome(part: dict[str, Any]) -> str:
    """In words; what is not as it should be stands out."""
    text = part["outcome"] if part["outcome"] == "done" else f"**{part['outcome']}**"
    return f"{text}: {part['message']}" if part["message"] else text


def entries_of(parts: dict[str, Any], has: str) -> dict[str, list[dict]]:
    """Of each part the entries that are of a kind, which is told by a name that they have."""
    found = {name: [entry for entry in part["entries"] if has in entry] for name, part in parts.items()}
    return {name: entries for name, entries in found.items() if entries}


def failures(parts: dict[str, Any]) -> str:
    """What failed, each by its name, but for the refused of a sweep, which have a list of their own."""
    lines = []
    for name, part in parts.items():
        bad = [entry for entry in part["entries"] if entry["outcome"] in BAD and "status" not in entry]
        lines += [f"- `{name}`, `{entry['key']}`: {entry.get('message', '')}" for entry in bad[:MOST]]
        lines += [f"- `{name}`: {len(bad) - MOST} more are in the record"] if len(bad) > MOST else []
    return "\n".join(lines)


def skips(parts: dict[str, Any]) -> str:
    """Why something was skipped, and how often."""
    skipped = {name: [e for e in part["entries"] if e["outcome"] == ABSENT] for name, part in parts.items()}
    reasons = Counter((name, entry["message"]) for name, found in skipped.items() for entry in found)
    return "\n".join(f"- `{name}`, {count}: {reason}" for (name, reason), count in reasons.items())


def records_of(parts: dict[str, Any]) -> dict[str, list[Record]]:
    """The records of each sweep."""
    measured, refused = entries_of(parts, "stats"), entries_of(parts, "sizes")
    return {
        name: of({
            "benchmarks": measured.get(name, []),
            "refused": [entry for entry in refused.get(name, []) if "status" in entry],
        })
        for name in parts if name in measured or any("status" in entry for entry in refused.get(name, []))
    }  # fmt: skip


def ratios(sweeps: dict[str, list[Record]]) -> str:
    """All sweeps in one table: how many times faster, or smaller, than the reference of the same rounds."""
    everything = [record for found in sweeps.values() for record in found]
    names = [name for name in variants_in(everything) if name != "reference"]
    rows = []
    for point in dict.fromkeys(record.point for record in everything):
        for measured in MEASURED:
            cells, own = dict.fromkeys(names, ""), []
            for found in sweeps.values():
                reference = find(found, point, measured, "reference")
                own += [reference.value] if reference and reference.value else []
                for name in names:
                    quotient = ratio(reference, find(found, point, measured, name))
                    cells[name] = f"{quotient:.2f}x" if quotient else cells[name]
            if own:
                taken = " to ".join(dict.fromkeys(number(value * UNITS[measured]) for value in (min(own), max(own))))
                rows.append([label(point), HEADS[measured], taken, *cells.values()])
    return aligned_table(["point", "measured", "reference", *(f"`{name}`" for name in names)], rows) if rows else ""


def label(point: Point) -> str:
    return f"B = {point.batch}, K = {point.num_ops}, {point.dtype}"


def sweep_sections(sweeps: dict[str, list[Record]]) -> list[str]:
    lines = []
    for name, records in sweeps.items():
        tables = [f"{sizes(point, 'batch')}\n\n{group_table(group, 'batch')}\n"
                  for point, group in grouped(records, "batch").items()]  # fmt: skip
        said = [line for line in conditions_list(records, None).splitlines() if line.startswith(OF_A_SWEEP)]
        lines += lines_of(f"### {name}", "\n".join(said), *tables)
        lines += [refused_list(records).replace("## ", "#### ")]
    return [line for line in lines if line]


def microseconds(seconds: float | None) -> str:
    return "" if seconds is None else number(1e6 * seconds)


def quotient(measured: float, predicted: float | None) -> str:
    return f"{measured / predicted:.2f}" if predicted else "no prediction"


def kernel_rows(entry: dict[str, Any]) -> list[list[str]]:
    """Of a pass: all of it, then each kernel."""
    total, count = (sum(row[of] for row in entry["rows"]) for of in ("seconds", "launches"))
    ends = [microseconds(entry[of]) for of in ("floor", "whole")]
    lines = [["**all kernels**", count, total, entry["predicted"], *ends]] + [
        [f"`{row['kernel']}`", row["launches"], row["seconds"], row["predicted"], "", ""]
        for row in sorted(entry["rows"], key=lambda row: -row["seconds"])
    ]
    return [
        [entry["pass"], name, str(n), microseconds(spent), microseconds(predicted), quotient(spent, predicted), *rest]
        for name, n, spent, predicted, *rest in lines
    ]


def kernel_sections(parts: dict[str, Any]) -> list[str]:
    head = [
        "pass",
        "kernel",
        "launches",
        "measured, µs",
        "*predicted*, µs",
        "measured / predicted",
        "*floor*, µs",
        "whole, µs",
    ]
    lines = []
    for name, found in entries_of(parts, "rows").items():
        for given in {str(entry["sizes"]): entry["sizes"] for entry in found}.values():
            rows = [row for entry in found if entry["sizes"] == given for row in kernel_rows(entry)]
            title = ", ".join(f"{letter} = {size}" for letter, size in given.items() if letter != "dtype")
            lines += lines_of(f"### {name}, {given['dtype']}", title, aligned_table(head, rows))
    return lines


def tails(parts: dict[str, Any]) -> list[str]:
    """The end of the output of what did not come to its end, or found something wrong."""
    return [
        line for name, part in parts.items() if part["tail"]
        for line in lines_of(f"### {name}", f"````text\n{part['tail']}\n````")
    ]  # fmt: skip


def page(record: dict[str, Any]) -> str:
    """The whole page."""
    parts, device = record["parts"], record["device"]
    title = f"# {'Dry run' if record['dry'] else device['name']}\n"
    sweeps, kernels, ends = sweep_sections(found := records_of(parts)), kernel_sections(parts), tails(parts)
    failed = [*lines_of("## What failed", failures(parts)), *(["## Ends of output\n", *ends] if ends else [])]
    lines = [
        title,
        (DRY_RUN if record["dry"] else MEASURED_HERE) + "\n",
        *lines_of("## What it ran on", about(record)),
        *lines_of("## Parts", parts_table(parts) if parts else ""),
        *failed[:2],
        *lines_of("## What was skipped", skips(parts)),
        *(["## Sweep\n", LEGEND + "\n", ratios(found) + "\n", *sweeps] if sweeps else []),
        *(["## Kernels\n", ABOUT_KERNELS + "\n", *kernels] if kernels else []),
        *failed[2:],
    ]
    return "\n".join(lines).rstrip() + "\n"
