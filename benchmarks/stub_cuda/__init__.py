"""A CUDA device for machines without one: it counts what it is asked to run, and runs nothing.

A C library, compiled on demand, that a process of its own is started with:

    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(command, env=stub_cuda.environment(stub_cuda.build(Path(folder))))

There torch finds one H100, Triton compiles for it, and `counts` says what was launched. Memory is the host's, streams
and events are done at once, and no kernel runs: what they would compute is garbage, so nothing may look at it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import os
import platform
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch

import build_cuda

HERE = Path(__file__).parent
NAME = "libcuda.so.1"
MAJOR = "13"
"""The version of CUDA whose calls it has."""


def _compiler() -> str | None:
    return shutil.which(os.environ.get("CC", "cc"))


def _headers() -> list[Path]:
    """Folders with CUDA's headers: of torch's packages, of Triton (which has all of the runtime's), of a toolkit."""
    site = Path(torch.__file__).parents[1]
    folders = [*site.glob("nvidia/*/include")]
    if triton := importlib.util.find_spec("triton"):
        folders.append(Path(triton.origin).parent / "backends/nvidia/include")
    with contextlib.suppress(build_cuda.Obstacle):
        folders.append(build_cuda.home() / "include")
    return [folder for folder in folders if (folder / "cuda_runtime_api.h").exists()]


def obstacle() -> str | None:
    """Why there can be no stub here, or None."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return f"the stub device is for Linux on x86_64, not for {platform.system()} on {platform.machine()}"
    if not torch.version.cuda or torch.version.cuda.split(".")[0] != MAJOR:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        return f"the stub device takes a torch for CUDA {MAJOR}, and torch {torch.__version__} was {built}"
    if not _compiler():
        return "the stub device needs a C compiler, and none was found"
    if not _headers():
        return "the stub device needs the headers of the CUDA runtime, and none were found"
    return None


def build(folder: Path) -> Path:
    """The library, compiled into `folder`.

    Raises:
        RuntimeError: there can be none here (see `obstacle`), or the compiler's complaint.
    """
    if reason := obstacle():
        raise RuntimeError(reason)
    library = folder / NAME
    flags = ["-O2", "-Wall", "-Wno-deprecated-declarations", "-shared", "-fPIC", f"-Wl,-soname,{NAME}"]
    places = [f"-I{place}" for place in _headers()]
    sources = [str(source) for source in sorted(HERE.glob("*.c"))]
    command = [_compiler(), *flags, *places, *sources, "-o", str(library)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"the stub device does not compile:\n{run.stderr}")
    return library


def environment(library: Path) -> dict[str, str]:
    """This process's environment, with the stub in front of the libraries of CUDA."""
    return os.environ | {"LD_PRELOAD": str(library), "TRITON_LIBCUDA_PATH": str(library.parent)}


def loaded() -> bool:
    """Whether this process was started with the stub."""
    return hasattr(ctypes.CDLL(None), "stub_counts")


class Counts(NamedTuple):
    """What was asked of the device, by name: kernels, "copy device to host", the functions that wait."""

    launches: Counter
    copies: Counter
    sets: Counter
    waits: Counter
    memory: Counter
    """"allocate" and "free", of the device's memory, which torch keeps for itself."""


_KINDS = ("launch", "copy", "set", "wait", "memory")


def reset() -> None:
    """All counts to zero."""
    ctypes.CDLL(None).stub_reset()


def counts() -> Counts:
    """The counts since the process began or since `reset`."""
    function = ctypes.CDLL(None).stub_counts
    function.restype, function.argtypes = ctypes.c_size_t, (ctypes.c_char_p, ctypes.c_size_t)
    size = function(None, 0) + 1
    text = ctypes.create_string_buffer(size)
    function(text, size)
    found = {kind: Counter() for kind in _KINDS}
    for line in text.value.decode().splitlines():
        kind, name, number = line.split("\t")
        found[kind][_readable(name)] += int(number)
    return Counts(*found.values())


@functools.cache
def _readable(name: str) -> str:
    """A kernel's name as C++ writes it, less what all of torch's have in common; other names as they are."""
    demangle = ctypes.CDLL("libstdc++.so.6").__cxa_demangle
    demangle.restype, demangle.argtypes = ctypes.c_void_p, (ctypes.c_char_p, *[ctypes.c_void_p] * 3)
    status = ctypes.c_int()
    plain = demangle(name.encode(), None, None, ctypes.byref(status))
    if not plain:
        return name
    text = ctypes.string_at(plain).decode()
    ctypes.CDLL(None).free(ctypes.c_void_p(plain))
    for noise in ("void ", "at::native::", "(anonymous namespace)::"):
        text = text.replace(noise, "")
    return text
