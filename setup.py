"""Builds iprm_kernels._C, the compiled kernels.

Environment:
    IPRM_BUILD_CPU  auto (default): build where a C++ compiler and torch are found, else install pure Python and
                    say why; 1: build or fail; 0: do not build.
    MAX_JOBS        compiler processes at once (default: by cores and memory).
    CXX             the C++ compiler.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent.resolve()
sys.path.append(str(ROOT))
PACKAGE = "iprm_kernels"
RECORD = "_build.json"  # in the package: whether the extension was built, why not, and for which torch

# Torch-facing files see torch's headers; kernels.cpp does not, and is compiled once per instruction set.
KERNELS = "csrc/cpu/kernels.cpp"
FLAGS = ["-O2", "-g0", "-fvisibility=hidden", "-Wall"]
KERNEL_FLAGS = [
    *("-O3", "-g0", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall"),
    *("-Wno-psabi", "-Wno-unused-function"),
    *("-Wno-uninitialized", "-Wno-maybe-uninitialized"),  # GCC 12 warns inside its own intrinsics
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mprefer-vector-width=512"]
AMX = [*AVX512, "-mamx-tile", "-mamx-bf16"]  # granted to a process by Linux alone, see csrc/cpu/dispatch.cpp


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CXX", "c++"))


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
    if sys.platform == "linux" and accepts(AMX):
        tables["amx"] = AMX
    return tables


def obstacle() -> str | None:
    """Why the extension cannot be built here, or None."""
    if sys.platform == "win32":
        return "the kernels need GCC or Clang, which the Windows build of torch does not go with"
    if shutil.which(compiler()[0]) is None:
        return f"no C++ compiler: {compiler()[0]!r} was not on PATH when the package was built"
    try:
        import torch.utils.cpp_extension  # noqa: F401
    except Exception as error:
        return f"torch could not be imported when the package was built ({type(error).__name__}: {error})"
    return None


def switch() -> str:
    value = os.environ.get("IPRM_BUILD_CPU", "auto")
    if value not in ("auto", "0", "1"):
        raise SystemExit(f"IPRM_BUILD_CPU: expected auto, 0 or 1, got {value!r}")
    return value


def reason_not_to_build() -> str | None:
    """Why the extension is left out, or None. With IPRM_BUILD_CPU=1 there is no leaving out."""
    if switch() == "0":
        return "the package was built with IPRM_BUILD_CPU=0"
    reason = obstacle()
    if reason and switch() == "1":
        raise SystemExit(f"IPRM_BUILD_CPU=1, but {reason}")
    return reason


def warn(reason: str) -> None:
    print(f"warning: {PACKAGE} is installed without its compiled kernels: {reason}", file=sys.stderr)


def record(directory: str | Path, reason: str | None) -> None:
    """Leaves word in the package of how it was built; iprm_kernels.backends.cpu reads it."""
    version = None
    if reason is None:
        import torch

        version = torch.__version__
    entry = {"extension": reason is None, "reason": reason, "torch": version}
    (Path(directory) / RECORD).write_text(json.dumps(entry))


def jobs() -> int:
    """Compiler processes at once: MAX_JOBS, or one a core but no more than memory allows."""
    if "MAX_JOBS" not in os.environ:
        gigabytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**30
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        os.environ["MAX_JOBS"] = str(max(1, min(cores, gigabytes // 2)))
    return max(1, int(os.environ["MAX_JOBS"]))


class RecordedBuild(build_py):
    """build_py, and the record of a build without the extension (build_ext overwrites it)."""

    def run(self) -> None:
        super().run()
        place = ROOT if getattr(self, "editable_mode", False) else Path(self.build_lib)
        record(place / PACKAGE, REASON or "the build did not finish")


def extension_build() -> type:
    """The build_ext command; made where torch can be imported."""
    from torch.utils.cpp_extension import BuildExtension

    class KernelBuild(BuildExtension):
        def run(self) -> None:
            jobs()  # for the processes torch starts
            reason = None
            try:
                super().run()
            except Exception as error:
                if switch() == "1":
                    raise
                reason = f"compiling failed when the package was built ({type(error).__name__}: {error})"
                warn(reason)
            record(ROOT / PACKAGE if self.inplace else Path(self.build_lib) / PACKAGE, reason)

        def build_extension(self, ext) -> None:
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

        def copy_extensions_to_source(self) -> None:
            if all(Path(self.build_lib, self.get_ext_filename(e.name)).exists() for e in self.extensions):
                super().copy_extensions_to_source()

    return KernelBuild


def extension():
    from torch.utils.cpp_extension import CppExtension

    files = [ROOT / "csrc/module.cpp", *sorted((ROOT / "csrc/cpu").glob("*.cpp"))]
    sources = [str(path.relative_to(ROOT)) for path in files]
    sources.remove(KERNELS)
    openmp = [] if sys.platform == "darwin" else ["-fopenmp"]
    macros = {
        "IPRM_FLAGS": shlex.join(KERNEL_FLAGS),
        "IPRM_INSTRUCTION_SETS": ",".join(instruction_sets()),
    }
    tables = [("IPRM_AMX", None)] if "amx" in instruction_sets() else []
    return CppExtension(
        f"{PACKAGE}._C",
        sources,
        define_macros=[*((name, f'"{value}"') for name, value in macros.items()), *tables],
        extra_compile_args=[*FLAGS, *openmp],
        extra_link_args=[*openmp, "-Wl,-s"] if sys.platform != "darwin" else [],
    )


REASON = reason_not_to_build()
if REASON:
    warn(REASON)
    setup(cmdclass={"build_py": RecordedBuild})
else:
    setup(ext_modules=[extension()], cmdclass={"build_py": RecordedBuild, "build_ext": extension_build()})
