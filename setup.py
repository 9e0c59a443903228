"""Builds the compiled kernels: iprm_kernels._C for the CPU and iprm_kernels._cuda for CUDA devices.

Environment:
    IPRM_BUILD_CPU        auto (default): build where a C++ compiler is found, else install without and say why, now and
                          at first use; 1: build or fail; 0: do not build. Without torch, a build fails.
    IPRM_BUILD_CUDA       the same for CUDA, where also nvcc and a torch of its major version are found. No device is
                          needed.
    TORCH_CUDA_ARCH_LIST  the architectures, as torch reads it (default: 8.0;9.0;10.0+PTX, as far as nvcc knows them).
    CUDA_HOME             where nvcc's toolkit is.
    MAX_JOBS              compiler processes at once (default: by cores and memory).
    CXX                   the C++ compiler.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent.resolve()
sys.path.append(str(ROOT))

import build_cuda  # noqa: E402

PACKAGE = "iprm_kernels"
RECORD = "_build.json"  # in the package: whether each extension was built, why not, and for which torch
WITHOUT_TORCH = (
    "the kernels are compiled against torch, which cannot be imported here ({error}): install torch first, or leave "
    "out --no-build-isolation; IPRM_BUILD_CPU=0 IPRM_BUILD_CUDA=0 installs without kernels"
)
SHARED = ("csrc/common", "csrc/recurrence")  # by all extensions
COMMON = sorted(path.relative_to(ROOT).as_posix() for folder in SHARED for path in (ROOT / folder).glob("*.cpp"))

# Torch-facing files see torch's headers; kernels.cpp does not, and is compiled once per instruction set.
KERNELS = "csrc/cpu/kernels.cpp"
FLAGS = ["-O2", "-g0", "-fvisibility=hidden", "-Wall"]
KERNEL_FLAGS = [
    *("-O3", "-g0", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall"),
    *("-Wno-psabi", "-Wno-unused-function"),
    # GCC 12 warns inside its own intrinsics; Clang does not know the second.
    *("-Wno-unknown-warning-option", "-Wno-uninitialized", "-Wno-maybe-uninitialized"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mprefer-vector-width=512"]
BFLOAT16 = [*AVX512, "-mavx512bf16"]
AMX = [*AVX512, "-mamx-tile", "-mamx-bf16"]  # granted to a process by Linux alone, see csrc/cpu/dispatch.cpp

LAUNCHERS = ("ccache", "sccache")


@cache
def compiler() -> list[str]:
    """The C++ compiler as CXX names it at the start, with a launcher if one is there."""
    return shlex.split(os.environ.get("CXX", "c++"))


def drop_launcher() -> None:
    """Take ccache out of CXX, which torch reads as the name of one program; it finds ccache on PATH by itself."""
    if Path(compiler()[0]).name in LAUNCHERS:
        os.environ["CXX"] = shlex.join(compiler()[1:])


def accepts(flags: list[str]) -> bool:
    """Whether the compiler knows the flags."""
    command = [*compiler(), *flags, "-x", "c++", "-fsyntax-only", os.devnull]
    return subprocess.run(command, capture_output=True).returncode == 0


@cache
def instruction_sets() -> dict[str, list[str]]:
    """The tables of kernels to compile, and their flags."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return {"default": []}
    tables = {"default": [], "avx2": AVX2, "avx512": AVX512}
    if accepts(BFLOAT16):
        tables["avx512_bf16"] = BFLOAT16
    if sys.platform == "linux" and accepts(AMX):
        tables["amx"] = AMX
        if "avx512_bf16" in tables:
            tables["amx_bf16"] = [*AMX, "-mavx512bf16"]
    return tables


def obstacle() -> str | None:
    """Why no extension can be built here, or None. A missing torch is none: that only comes of the order of installing.

    Raises:
        SystemExit: torch cannot be imported.
    """
    if sys.platform == "win32":
        return "the kernels need GCC or Clang, which the Windows build of torch does not go with"
    if shutil.which(compiler()[0]) is None:
        return f"no C++ compiler: {compiler()[0]!r} was not on PATH when the package was built"
    try:
        import torch.utils.cpp_extension  # noqa: F401
    except Exception as error:
        raise SystemExit(WITHOUT_TORCH.format(error=f"{type(error).__name__}: {error}")) from error
    return None


def cuda_obstacle() -> str | None:
    """Why the CUDA kernels cannot be built here, or None."""
    if reason := obstacle():
        return reason
    try:
        build_cuda.check_versions()
        build_cuda.targets()
    except build_cuda.Obstacle as error:
        return str(error)
    return None


@dataclass
class Part:
    """One extension, and what decides whether it is built."""

    kernels: str
    module: str
    switch: str
    obstacle: Callable[[], str | None]
    extension: Callable
    reason: str | None = None  # why it is left out

    def wanted(self) -> str:
        value = os.environ.get(self.switch, "auto")
        if value not in ("auto", "0", "1"):
            raise SystemExit(f"{self.switch}: expected auto, 0 or 1, got {value!r}")
        return value

    def decide(self) -> None:
        """Find the reason not to build. With the switch at 1 there is no leaving out."""
        if self.wanted() == "0":
            self.reason = f"the package was built with {self.switch}=0"
        elif reason := self.obstacle():
            if self.wanted() == "1":
                raise SystemExit(f"{self.switch}=1, but {reason}")
            self.reason = reason
        if self.reason:
            self.warn()

    def warn(self) -> None:
        print(f"warning: {PACKAGE} is installed without its {self.kernels} kernels: {self.reason}", file=sys.stderr)


def record(directory: str | Path, unfinished: str | None = None) -> None:
    """Leaves word in the package of how it was built; iprm_kernels.backends.compiled reads it."""
    entries = {}
    for name, part in PARTS.items():
        reason = part.reason or unfinished
        version = None
        if reason is None:
            import torch

            version = torch.__version__
        lost = reason is not None and part.wanted() != "0"
        entries[name] = {"extension": reason is None, "reason": reason, "lost": lost, "torch": version}
    (Path(directory) / RECORD).write_text(json.dumps(entries))


def jobs() -> int:
    """Compiler processes at once: MAX_JOBS, or one a core but no more than memory allows."""
    if "MAX_JOBS" not in os.environ:
        gigabytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**30
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        os.environ["MAX_JOBS"] = str(max(1, min(cores, gigabytes // 2)))
    return max(1, int(os.environ["MAX_JOBS"]))


class RecordedBuild(build_py):
    """build_py, and the record of a build without the extensions (build_ext overwrites it)."""

    def run(self) -> None:
        super().run()
        place = ROOT if getattr(self, "editable_mode", False) else Path(self.build_lib)
        record(place / PACKAGE, "the build did not finish")


def extension_build() -> type:
    """The build_ext command; made where torch can be imported."""
    from torch.utils.cpp_extension import BuildExtension

    class KernelBuild(BuildExtension):
        def finalize_options(self) -> None:
            super().finalize_options()
            self.force = True  # torch may be another than when build/ was filled, which no timestamp says

        def run(self) -> None:
            jobs()  # for the processes torch starts
            drop_launcher()
            super().run()
            record(ROOT / PACKAGE if self.inplace else Path(self.build_lib) / PACKAGE)

        def build_extensions(self) -> None:
            """One after the other: where one fails and may, the others are built all the same."""
            parts = {f"{PACKAGE}.{part.module}": part for part in PARTS.values()}
            wanted, built, build_temp = self.extensions, [], self.build_temp
            for extension in wanted:
                part = parts[extension.name]
                self.extensions, self.build_temp = [extension], str(Path(build_temp, part.module))
                try:
                    super().build_extensions()
                    built.append(extension)
                except Exception as error:
                    if part.wanted() == "1":
                        raise
                    kind = type(error).__name__
                    part.reason = f"compiling failed when the package was built ({kind}: {error})"
                    part.warn()
            self.extensions, self.build_temp = built, build_temp

        def build_extension(self, ext) -> None:
            if ext.name == f"{PACKAGE}._C":
                ext.extra_objects = [*ext.extra_objects, *self.compile_kernels()]
            super().build_extension(ext)

        def compile_kernels(self) -> list[str]:
            """One object per instruction set; BuildExtension knows no flags per file."""
            build = Path(self.build_temp).resolve() / "kernels"
            build.mkdir(parents=True, exist_ok=True)
            with ThreadPoolExecutor(jobs()) as pool:
                tables = instruction_sets()
                return list(pool.map(lambda name: self.compile_kernel(build, name, tables[name]), tables))

        def compile_kernel(self, build: Path, name: str, flags: list[str]) -> str:
            target = build / f"{name}.o"
            sources = [*(ROOT / "csrc").rglob("*.h"), ROOT / KERNELS, Path(__file__)]
            if not target.exists() or any(s.stat().st_mtime > target.stat().st_mtime for s in sources):
                command = [*compiler(), *KERNEL_FLAGS, *flags, f"-DIPRM_ISA={name}"]
                command += ["-c", str(ROOT / KERNELS), "-o", str(target)]
                print(shlex.join(command), flush=True)
                subprocess.run(command, check=True)
            return str(target)

        def get_outputs(self) -> list[str]:
            return [path for path in super().get_outputs() if self.dry_run or Path(path).exists()]

    return KernelBuild


def macros(values: dict[str, str]) -> list[tuple[str, str]]:
    """String constants for the code."""
    return [(name, f'"{value}"') for name, value in values.items()]


def cpu_extension():
    from torch.utils.cpp_extension import CppExtension

    files = [ROOT / "csrc/module.cpp", *sorted((ROOT / "csrc/cpu").glob("*.cpp"))]
    sources = [*(str(path.relative_to(ROOT)) for path in files), *COMMON]
    sources.remove(KERNELS)
    openmp = [] if sys.platform == "darwin" else ["-fopenmp"]
    built_with = {
        "IPRM_FLAGS": shlex.join(KERNEL_FLAGS),
        "IPRM_INSTRUCTION_SETS": ",".join(instruction_sets()),
    }
    tables = [("IPRM_AMX", None)] if "amx" in instruction_sets() else []
    tables += [("IPRM_BFLOAT16", None)] if "avx512_bf16" in instruction_sets() else []
    return CppExtension(
        f"{PACKAGE}._C",
        sources,
        define_macros=[*macros(built_with), *tables],
        extra_compile_args=[*FLAGS, *openmp],
        extra_link_args=[*openmp, "-Wl,-s"] if sys.platform != "darwin" else [],
    )


def cuda_extension():
    from torch.utils import cpp_extension

    cpp_extension.CUDA_HOME = str(build_cuda.home())
    files = sorted((ROOT / build_cuda.SOURCES).glob("*.cu"))
    targets = build_cuda.targets()
    built_with = {
        "IPRM_CUDA_FLAGS": shlex.join(build_cuda.flags()),
        "IPRM_CUDA_ARCHS": ",".join(targets),
        "IPRM_NVCC": build_cuda.nvcc_version(),
    }
    return cpp_extension.CUDAExtension(
        f"{PACKAGE}._cuda",
        [f"{build_cuda.SOURCES}/binding.cpp", *(str(path.relative_to(ROOT)) for path in files), *COMMON],
        extra_compile_args={
            "cxx": [*FLAGS, *(f"-D{name}={value}" for name, value in macros(built_with))],
            "nvcc": [*build_cuda.FLAGS, *map(build_cuda.code_flag, targets)],
        },
        extra_link_args=["-Wl,-s"],
    )


PARTS = {
    "cpu": Part("CPU", "_C", "IPRM_BUILD_CPU", obstacle, cpu_extension),
    "cuda": Part("CUDA", "_cuda", "IPRM_BUILD_CUDA", cuda_obstacle, cuda_extension),
}
commands, extensions = {"build_py": RecordedBuild}, []
if "sdist" not in sys.argv:  # which compiles nothing, and so needs no torch
    for part in PARTS.values():
        part.decide()
    extensions = [part.extension() for part in PARTS.values() if part.reason is None]
if extensions:
    commands["build_ext"] = extension_build()
setup(ext_modules=extensions, cmdclass=commands)
