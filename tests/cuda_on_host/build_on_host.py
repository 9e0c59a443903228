"""Compiles the CUDA kernels and their binding for the CPU, into a Python module per flavour:

    python tests/cuda_on_host/build_on_host.py plain|asan|tsan

plain is optimised; asan finds accesses out of bounds and undefined behaviour; tsan finds races. The last two need their
runtime in the process from the start: see `preload`. What is compiled is kept in build/cuda_on_host.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
KERNELS = ROOT / "csrc" / "cuda"
BUILD = ROOT / "build" / "cuda_on_host"
MODULE = "iprm_cuda_on_host"

FLAVOURS = {
    "plain": ["-O2"],
    "asan": ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
    "tsan": ["-O1", "-g", "-fsanitize=thread"],
}
RUNTIMES = {"asan": "libasan.so", "tsan": "libtsan.so"}

# The macros are those that torch compiles CUDA with.
FLAGS = [
    *("-std=c++20", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique", "-fno-math-errno", "-DIPRM_CUDA_ON_HOST"),
    *(f"-D__CUDA_NO_{name}__" for name in ("HALF_OPERATORS", "HALF_CONVERSIONS", "HALF2_OPERATORS")),
    "-D__CUDA_NO_BFLOAT16_CONVERSIONS__",
]
WARNINGS = ["-Wall", "-Wno-unknown-pragmas"]


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CXX", "g++"))


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@functools.cache
def toolkit() -> Path | None:
    """The folder of the CUDA toolkit's headers, or None."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    if nvcc := shutil.which("nvcc"):
        homes.append(str(Path(nvcc).resolve().parents[1]))
    folders = [Path(home) / "include" for home in homes if home]
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        folders += sorted(Path(place).glob("nvidia/*/include"))
    wanted = ("cuda_runtime_api.h", "cuda_bf16.h", "cuda_fp16.h", "vector_functions.h")
    return next((f for f in folders if all((f / name).exists() for name in wanted)), None)


def obstacle(flavour: str = "plain") -> str | None:
    """Why nothing can be compiled here, or None."""
    if sys.platform != "linux":
        return "the kernels are run on the CPU on Linux alone"
    if shutil.which(compiler()[0]) is None:
        return f"no C++ compiler: {compiler()[0]!r} is not on PATH"
    if toolkit() is None:
        return "no headers of a CUDA toolkit: not in CUDA_HOME, /usr/local/cuda, beside nvcc or in site-packages/nvidia"
    if flavour in RUNTIMES and not Path(runtime(flavour)).is_absolute():
        return f"{compiler()[0]} has no {RUNTIMES[flavour]}"
    return None


def library(name: str) -> str:
    """Where the compiler's library is; only its name where there is none."""
    return said(*compiler(), f"-print-file-name={name}")


def runtime(flavour: str) -> str:
    return library(RUNTIMES[flavour])


def preload(flavour: str) -> dict[str, str]:
    """What the environment of a process needs that loads a module of this flavour."""
    if flavour not in RUNTIMES:
        return {}
    quiet = "exitcode=66:halt_on_error=1:abort_on_error=0"
    asan = f"{quiet}:detect_leaks=0:detect_stack_use_after_return=0:alloc_dealloc_mismatch=0"
    return {
        # A runtime that starts before the C++ library could not pass on exceptions: it looks for `throw` at its start.
        "LD_PRELOAD": f"{runtime(flavour)} {library('libstdc++.so.6')}",
        "ASAN_OPTIONS": asan,
        "UBSAN_OPTIONS": "print_stacktrace=1:exitcode=66",
        "TSAN_OPTIONS": f"{quiet}:report_signal_unsafe=0:atexit_sleep_ms=0",
        "OMP_NUM_THREADS": "1",
    }


@functools.cache
def machine_flags() -> list[str]:
    """Fused multiply-add and half conversions as instructions, or they would be calls."""
    try:
        known = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        known = set()
    return ["-mfma", "-mf16c"] if {"fma", "f16c"} <= known else []


def kernel_flags(flavour: str) -> list[str]:
    includes = ["-I", str(HERE / "include"), "-I", str(KERNELS), "-isystem", str(toolkit())]
    return [*FLAGS, *WARNINGS, *machine_flags(), *FLAVOURS[flavour], *includes]


def binding_flags() -> list[str]:
    """One binding serves all flavours: what it allocates, the sanitizers see all the same."""
    import torch
    from torch.utils import cpp_extension

    includes = [*cpp_extension.include_paths(), sysconfig.get_path("include")]
    torch_flags = [
        f"-DTORCH_EXTENSION_NAME={MODULE}",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
    ]
    flags = [*FLAGS, *WARNINGS, "-O1", "-g0", *torch_flags, *(f for i in includes for f in ("-isystem", i))]
    return [*flags, "-I", str(HERE / "include"), "-isystem", str(toolkit())]


@functools.cache
def versions() -> str:
    """What an object depends on beside its sources and flags."""
    import torch

    return f"{said(*compiler(), '--version')} {torch.__version__} {sys.version}"


def key_of(command: list[str], listing: Path) -> str | None:
    """A digest of the command and of every file that the compiler has listed; None where it cannot be had."""
    digest = hashlib.sha256((shlex.join(command) + versions()).encode())
    try:
        for name in shlex.split(listing.read_text().replace("\\\n", " ").partition(": ")[2]):
            digest.update(Path(name).read_bytes())
    except OSError:
        return None
    return digest.hexdigest()


def compile_object(source: Path, flags: list[str], target: Path) -> Path:
    """Compiles unless the object was made by the same command from the same files."""
    listing, key = target.with_suffix(".d"), target.with_suffix(".key")
    command = [*compiler(), *flags, "-x", "c++", "-c", str(source), "-o", str(target), "-MMD", "-MF", str(listing)]
    if not target.exists() or not key.exists() or key.read_text() != key_of(command, listing):
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            raise RuntimeError(f"{shlex.join(command)}\n{run.stderr}")
        sys.stderr.write(run.stderr)
        key.write_text(key_of(command, listing))
    return target


def jobs() -> int:
    return max(1, int(os.environ.get("MAX_JOBS", min(2, os.cpu_count() or 1))))


@contextmanager
def alone(folder: Path):
    """One build at a time in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def link(target: Path, objects: list[Path], flags: list[str]) -> Path:
    if not target.exists() or any(o.stat().st_mtime > target.stat().st_mtime for o in objects):
        fresh = target.with_suffix(".new")
        subprocess.run([*compiler(), *map(str, objects), *flags, "-o", str(fresh)], check=True)
        fresh.replace(target)
    return target


def module(flavour: str) -> Path:
    """The Python module of this flavour, compiled if need be."""
    from torch.utils import cpp_extension

    if reason := obstacle(flavour):
        raise RuntimeError(reason)
    import torch

    folder = BUILD / f"torch-{torch.__version__}"
    sources = {s: kernel_flags(flavour) for s in [*sorted(KERNELS.glob("*.cu")), HERE / "exports.cpp"]}
    common = [s for name in ("common", "recurrence") for s in sorted((ROOT / "csrc" / name).glob("*.cpp"))]
    shared = {s: binding_flags() for s in [KERNELS / "binding.cpp", *common]}
    with alone(folder), ThreadPoolExecutor(jobs()) as pool:
        (folder / flavour).mkdir(exist_ok=True)
        # The binding takes longest.
        work = [pool.submit(compile_object, s, f, folder / f"{s.stem}.o") for s, f in shared.items()]
        work += [pool.submit(compile_object, s, f, folder / flavour / f"{s.stem}.o") for s, f in sources.items()]
        objects = [future.result() for future in work]
        libraries = [f"-L{path}" for path in cpp_extension.library_paths()]
        libraries += ["-lc10", "-ltorch", "-ltorch_cpu", "-ltorch_python"]
        return link(folder / flavour / f"{MODULE}.so", objects, ["-shared", *FLAVOURS[flavour], *libraries])


def program(source: Path, flavour: str, *extra: str) -> Path:
    """A program of its own from one source that uses the shim, without torch."""
    name = "-".join([source.stem, *(e.lstrip("-D") for e in extra)])
    folder = BUILD / "programs" / flavour
    with alone(folder):
        compiled = compile_object(source, [*kernel_flags(flavour), *extra], folder / f"{name}.o")
        return link(folder / name, [compiled], FLAVOURS[flavour])


if __name__ == "__main__":
    (flavour,) = sys.argv[1:] or ["plain"]
    print(module(flavour))
    for name, value in preload(flavour).items():
        print(f"{name}={value}")
