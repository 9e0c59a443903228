"""Compiles every CUDA kernel for every architecture, without a device, and reads what came out.

    python -m benchmarks.cuda_static              all instantiations, as a table
    python -m benchmarks.cuda_static --arch 90 --kernel logits
    python -m benchmarks.cuda_static --built      reads the installed extension, compiles nothing

Flags and sources are those of the build. Registers are what ptxas reports; instructions are read
from the machine code with nvdisasm, which Triton carries. Shared memory is dynamic and counted by
the layouts that the kernels carve (cuda_shared.cu), at R = 256, 512 and 1024; `-` is more than the
architecture has, where a launch takes a smaller tile. The exit status is 1 where a register is
spilled to memory (LDL, STL), a bfloat16 or float16 kernel of matrix products has no tensor-core
instruction, there is a static array, no tile fits at R = 1024, or a kernel of products is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import build_cuda
from iprm_kernels.backends.devices import KIB, shared_memory

ROOT = Path(__file__).resolve().parents[1]
KERNELS = ROOT / build_cuda.SOURCES
SHARED = Path(__file__).with_name("cuda_shared.cu")
ARCHITECTURES = tuple(int(name.replace(".", "")) for name in build_cuda.ARCHITECTURES)
PRODUCTS = ("logits_kernel", "gradients_kernel", "steps_kernel")
"""The kernels that multiply matrices, on tensor cores in 16 bits."""
TYPES = {"float": "float32", "__nv_bfloat16": "bfloat16", "__half": "float16"}
RESERVED = 1024
"""Bytes that are the system's where a kernel uses shared memory, and are reported with its own from sm_90 on."""
SMALLEST = "16"
"""The tile of pairs that must fit at every width."""
TENSOR_CORES = ("HMMA", "HGMMA", "UTCHMMA")


class Missing(Exception):
    """A program that is needed is not here."""


@dataclass
class Kernel:
    """One instantiation of a kernel for one architecture."""

    name: str  # logits_kernel
    parameters: tuple[str, ...]  # of the template: __half, 32
    architecture: int
    registers: int = 0
    stack: int = 0
    shared: int = 0
    instructions: Counter = field(default_factory=Counter)  # by opcode, LDG and LDGSTS with their modifiers

    @property
    def dtype(self) -> str:
        return next((TYPES[p] for p in self.parameters if p in TYPES), "")

    @property
    def label(self) -> str:
        rest = ",".join(p for p in self.parameters if p not in TYPES)
        return f"{self.name.removesuffix('_kernel')} {self.dtype} {rest}".strip()

    @property
    def spilled(self) -> int:
        """Instructions that move registers to and from memory."""
        return self.instructions["LDL"] + self.instructions["STL"]

    @property
    def tensor_cores(self) -> int:
        return sum(self.instructions[code] for code in TENSOR_CORES)

    @property
    def loads(self) -> dict[str, int]:
        """Loads from global memory by their bits, those straight to shared memory as `async`."""
        widths = Counter()
        for opcode, count in self.instructions.items():
            kind, *modifiers = opcode.split(".")
            if kind in ("LDG", "LDGSTS"):
                bits = next(
                    (re.search(r"\d+", m)[0] for m in modifiers if re.fullmatch(r"[US]?(8|16|64|128|256)", m)), "32"
                )
                widths[f"{'async ' if kind == 'LDGSTS' else ''}{bits}"] += count
        return dict(sorted(widths.items(), key=lambda item: (item[0].startswith("async"), -int(item[0].split()[-1]))))

    @property
    def memory(self) -> list[float | None]:
        """KiB of shared memory at R = 256, 512 and 1024; None for more than a block may have."""
        limit = shared_memory(self.architecture) / KIB
        sizes = [size / KIB for size in shared_sizes().get(self.label, (0, 0, 0))]
        return [size if size <= limit else None for size in sizes]

    @property
    def faults(self) -> list[str]:
        """What is wrong with it."""
        found = [f"{self.spilled} spill instructions"] if self.spilled else []
        if self.name in PRODUCTS and self.dtype != "float32" and not self.tensor_cores:
            found.append("no tensor cores")
        if self.name in PRODUCTS and SMALLEST in self.parameters and None in self.memory:
            found.append("too much shared memory")
        if self.shared:
            found.append(f"{self.shared} bytes of static shared memory")
        return found


def tool(name: str) -> str:
    """The path of nvdisasm or cuobjdump: Triton's, the toolkit's or that on PATH."""
    places = []
    spec = importlib.util.find_spec("triton")
    if spec and spec.origin:
        places.append(Path(spec.origin).parent / "backends/nvidia/bin" / name)
    with contextlib.suppress(build_cuda.Obstacle):
        places.append(build_cuda.home() / "bin" / name)
    for place in places:
        if place.exists():
            return str(place)
    if path := shutil.which(name):
        return path
    raise Missing(f"{name}: neither with Triton, nor in the CUDA toolkit, nor on PATH")


def output(*command: str, cwd: Path | None = None) -> str:
    run = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    if run.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{run.stderr}")
    return run.stdout


@cache
def shared_sizes() -> dict[str, tuple[int, ...]]:
    """Bytes that a launch of each kernel asks for at three widths, by label."""
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder, "shared"))
        output(build_cuda.nvcc(), "-std=c++17", f"-I{KERNELS}", str(SHARED), "-o", program)
        lines = output(program).splitlines()
    return {label: tuple(map(int, sizes.split())) for label, sizes in (line.split(":") for line in lines)}


def compile_one(source: Path, architecture: int, folder: Path) -> Path:
    """A cubin of one source."""
    target = folder / f"{source.stem}.sm_{architecture}.cubin"
    flags = [*build_cuda.flags(), f"-arch=sm_{architecture}"]
    output(build_cuda.nvcc(), *flags, "-cubin", str(source), "-o", str(target))
    return target


def compile_all(architectures: Iterable[int], folder: Path) -> list[Path]:
    """A cubin of every source for every architecture."""
    work = [(source, architecture) for source in sorted(KERNELS.glob("*.cu")) for architecture in architectures]
    work.sort(key=lambda item: -item[0].stat().st_size)
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", "2"))) as pool:
        return list(pool.map(lambda item: compile_one(*item, folder), work))


def built() -> Path | None:
    """The installed extension."""
    spec = importlib.util.find_spec("iprm_kernels._cuda")
    return Path(spec.origin) if spec and spec.origin else None


def is_current(extension: Path) -> bool:
    """Whether no source has changed since it was built."""
    sources = [*KERNELS.iterdir(), *(s for name in ("common", "recurrence") for s in (ROOT / "csrc" / name).iterdir())]
    return all(source.stat().st_mtime <= extension.stat().st_mtime for source in sources)


def extract(extension: Path, folder: Path) -> list[Path]:
    """The cubins in an extension."""
    output(tool("cuobjdump"), "-xelf", "all", str(extension.resolve()), cwd=folder)
    return sorted(folder.glob("*.cubin"))


def split_name(demangled: str) -> tuple[str, tuple[str, ...]]:
    """`void a::(anonymous namespace)::logits_kernel<__half, 32>(...)` -> `logits_kernel`, (`__half`, `32`)"""
    found = re.search(r"(\w+_kernel)(?:<([^()]*)>)?\(", demangled)
    if not found:
        raise RuntimeError(f"not the name of a kernel: {demangled}")
    return found[1], tuple(p.strip() for p in (found[2] or "").split(",") if p)


def instructions(code: str) -> dict[str, Counter]:
    """The opcodes of each function in the output of nvdisasm -c."""
    found: dict[str, Counter] = {}
    for line in code.splitlines():
        if section := re.match(r"\s*\.section\s+\.text\.(\w+)", line):
            current = found.setdefault(section[1], Counter())
        elif opcode := re.match(r"\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", line):
            name = opcode[1]
            current[name if name.startswith("LDG") else name.split(".")[0]] += 1
    return found


def read(cubin: Path) -> list[Kernel]:
    """The kernels in a cubin."""
    usage = output(tool("cuobjdump"), "--dump-resource-usage", str(cubin))
    code = instructions(output(tool("nvdisasm"), "-c", str(cubin)))
    architecture = int(re.search(r"sm_(\d+)", cubin.name)[1])
    found = re.findall(r"Function (\w+):\s*\n\s*(REG:.*)", usage)
    plain = output("c++filt", *(name for name, _ in found)).splitlines() if found else []
    kernels = []
    for (name, facts), demangled in zip(found, plain, strict=True):
        registers, stack, shared = (int(re.search(rf"\b{key}:(\d+)", facts)[1]) for key in ("REG", "STACK", "SHARED"))
        shared = max(0, shared - RESERVED) if architecture >= 90 else shared
        kernels.append(Kernel(*split_name(demangled), architecture, registers, stack, shared, code[name]))
    return kernels


def absent(kernels: list[Kernel]) -> list[str]:
    """Kernels of matrix products that are not there, or not in every dtype, for some architecture."""
    there = {(k.name, k.dtype, k.architecture) for k in kernels}
    architectures = sorted({k.architecture for k in kernels})
    wanted = [(name, dtype, a) for name in PRODUCTS for dtype in TYPES.values() for a in architectures]
    return [f"{name} {dtype} sm_{a}" for name, dtype, a in wanted if (name, dtype, a) not in there]


def row(kernel: Kernel) -> str:
    """One line of the table."""
    cores = " ".join(
        f"{code} {kernel.instructions[code]}" for code in (*TENSOR_CORES, "FFMA") if kernel.instructions[code]
    )
    loads = ", ".join(f"{count}x{width}" for width, count in kernel.loads.items())
    memory = "".join(f"{'-' if size is None else f'{size:.0f}':>4}" for size in kernel.memory)
    return (
        f"{kernel.label:<36} sm_{kernel.architecture:<3} {kernel.registers:>4} registers {memory} KiB shared "
        f"{kernel.spilled:>4} spills  {cores:<22} loads {loads}  {'; '.join(kernel.faults)}"
    ).rstrip()


def kernels_of(architectures: Iterable[int], from_built: bool = False) -> list[Kernel]:
    """All kernels, compiled now or read from the installed extension."""
    with tempfile.TemporaryDirectory() as folder:
        if from_built:
            extension = built()
            if extension is None:
                raise Missing("iprm_kernels._cuda was not built: see python -m iprm_kernels.info")
            cubins = extract(extension, Path(folder))
        else:
            cubins = compile_all(architectures, Path(folder))
        found = [kernel for cubin in cubins for kernel in read(cubin)]
    return sorted((k for k in found if k.architecture in architectures), key=lambda k: (k.label, k.architecture))


def main() -> int:
    """Print the table; 1 where anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, nargs="+", default=ARCHITECTURES, help="default %(default)s")
    parser.add_argument("--kernel", default="", help="only kernels whose name contains this")
    parser.add_argument("--built", action="store_true", help="read the installed extension")
    options = parser.parse_args()
    try:
        kernels = kernels_of(options.arch, options.built)
    except (Missing, build_cuda.Obstacle) as error:
        print(error, file=sys.stderr)
        return 2
    limits = ", ".join(f"{shared_memory(a) // KIB} KiB on sm_{a}" for a in options.arch)
    print(
        f"nvcc {build_cuda.nvcc_version()}; a block may ask for {limits} of shared memory; loads: instructions x bits"
    )
    gone = absent(kernels)
    shown = [kernel for kernel in kernels if options.kernel in kernel.label]
    for kernel in shown:
        print(row(kernel))
    for name in gone:
        print(f"{name}: no such kernel")
    faulty = sum(bool(kernel.faults) for kernel in shown)
    print(f"{len(shown)} kernels, {faulty} with a fault, {len(gone)} missing")
    return 1 if faulty or gone or not shown else 0


if __name__ == "__main__":
    sys.exit(main())
