"""The parts of a run: what each is, and the command that a process of its own runs."""

from __future__ import annotations

from dataclasses import dataclass

LIMIT = 8.0
"""Minutes of a part, at most."""
TESTS = "tests/iprm_kernels/backends"
MODULE = "tests/benchmarks/test_on_a_card.py"


@dataclass(frozen=True)
class Part:
    """`command` is a module of this package and what follows the file of entries."""

    name: str
    what: str
    command: tuple[str, ...]


def sweep(device: str, name: str, what: str, variants: str, *options: str) -> Part:
    """The variants beside the reference."""
    return Part(name, what, ("sweep", "--device", device, "--variants", f"reference,{variants}", *options))


def parts_of(device: str) -> list[Part]:
    """In order; `device` is "cuda", or "cpu" for a dry run."""
    return on_card() if device == "cuda" else dry()


def on_card() -> list[Part]:
    backends = ("triton", "cuda")
    return [
        Part("build", "the extensions, compiled against the torch that is there", ("build", "cuda")),
        *(
            Part(f"tests-{name}", f"the kernels of `{name}` against float64, natively", ("tests", f"{TESTS}/{name}"))
            for name in backends
        ),
        Part("tests-module", "the fast module against the reference in float64, and its graphs", (
            "tests", MODULE, "tests/iprm/test_graph_steps.py::test_on_a_device",
        )),
        *(
            sweep("cuda", f"sweep-{name}", f"`{name}` beside the reference", f"fast[{name}]+graph,fast[{name}]")
            for name in backends
        ),
        sweep("cuda", "compile", "`torch.compile` of the reference beside it", "reference+compile"),
        *(
            Part(f"kernels-{name}", f"single kernels of `{name}`", ("kernels", "cuda", name)) for name in backends
        ),
    ]  # fmt: skip


def dry() -> list[Part]:
    """A few of each kind, on the processor."""
    few = ("tests/iprm_kernels/test_formation.py", "-k", "masked_row or (definition and cpu and float32 and sizes0)")
    return [
        Part("build", "the extensions, compiled against the torch that is there", ("build", "cpu")),
        Part("tests-cpu", "a few tests of the kernels of `cpu`", ("tests", *few)),
        sweep("cpu", "sweep-cpu", "`cpu` beside the reference", "fast[cpu]"),
        sweep("cpu", "compile", "`torch.compile` of it", "reference+compile", "--measured", "forward"),
        Part("kernels-cpu", "single operators of `cpu`", ("kernels", "cpu", "cpu")),
    ]  # fmt: skip
