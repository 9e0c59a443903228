"""A Triton driver for a device that is not there: kernels are specialised and compiled as for a card, their launches
recorded. Tensors are on the meta device and say that they are on CUDA, so whatever would wait for a device, or read
what it computed, raises. A kernel that breaks a limit of `ahead_of_time` is a fault here too.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

import torch
import triton
from triton.compiler import CompiledKernel

from benchmarks import ahead_of_time, machine_code
from iprm_kernels.backends import devices
from iprm_kernels.backends.triton import configs, held, launch

INTEGERS = {"i32": 2**31, "i64": 2**63}
GRID_LIMIT = (2**31 - 1, 65535, 65535)
PARAMETER_BYTES = 4096
"""What a launch may pass on every architecture and driver."""


@dataclass
class Launch:
    """One kernel launched: its name, grid, constants and argument types."""

    kernel: str
    grid: tuple[int, int, int]
    constants: dict
    signature: dict
    metadata: object
    args: dict


@dataclass
class Driver:
    """Stands in for the driver of one architecture. `seconds` gives the time that a benchmark reports."""

    architecture: devices.Architecture
    launches: list[Launch] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    benchmarks: int = 0
    seconds: object = None

    @property
    def utils(self):
        return self

    def get_current_target(self):
        return ahead_of_time.target(self.architecture)

    def get_current_device(self):
        return devices.name_of(self.architecture)  # the key of the compiled kernels, which no real device has

    def get_current_stream(self, device):
        return 0

    def get_device_properties(self, device):
        return {"max_shared_mem": devices.shared_memory(self.architecture)}

    def load_binary(self, name, binary, shared, device):
        """(module, function, registers, spills, threads); without a module nothing is unloaded at the end. AMD's are
        compiled for as many threads as they have."""
        if devices.is_amd(self.architecture):
            return None, name, 0, 0, 1024
        registers, counts = machine_code.read(binary, code=False)
        threads = ahead_of_time.REGISTERS[32] // (-(-registers // 8) * 8) // 32 * 32
        return None, name, registers, counts["LDL"] + counts["STL"], min(1024, threads)

    def launcher_cls(self, source, metadata):
        return lambda *args: active().record(source, metadata, *args)

    def record(self, source, metadata, x, y, z, stream, function, packed, about, enter, leave, *args):
        """What the launcher in C does with its arguments, and what the driver refuses."""
        grid, signature = (x, y, z), source.signature
        name = source.fn.__name__
        if not all(isinstance(n, int) and 0 < n <= limit for n, limit in zip(grid, GRID_LIMIT, strict=True)):
            self.faults.append(f"{name}: grid {grid}")
        if scratch := getattr(metadata, "global_scratch_size", 0):
            self.faults.append(f"{name}: needs {scratch} bytes of scratch memory")
        assert len(args) == len(signature)
        size = sum(parameter(kind, value) for kind, value in zip(signature.values(), args, strict=True))
        if size > PARAMETER_BYTES:
            self.faults.append(f"{name}: {size} bytes of parameters")
        named = dict(zip(signature, args, strict=True))
        constants = {key: value for key, value in named.items() if signature[key] == "constexpr"}
        self.launches.append(Launch(name.removesuffix("_kernel"), grid, constants, signature, metadata, named))

    def get_benchmarker(self):
        def benchmark(call, quantiles):
            driver, before = active(), len(active().launches)
            call()
            (made,) = driver.launches[before:]
            del driver.launches[before:]
            driver.benchmarks += 1
            time = driver.seconds(made) if driver.seconds else 1.0
            return [time] * len(quantiles)

        return benchmark


def case_of(compiled: CompiledKernel) -> ahead_of_time.Case:
    """The case that `ahead_of_time` would have compiled to this."""
    source, metadata = compiled.src, compiled.metadata
    names, kinds = source.fn.arg_names, str(source.signature)
    constants = {names[path[0]]: value for path, value in source.constants.items() if len(path) == 1}
    kernel = next(name for name, function in launch.KERNELS.items() if function is source.fn)
    rounded = "tf32" if constants.get("PRECISION") == "tf32" else "float32"
    dtype = "bfloat16" if "*bf16" in kinds else "float16" if "*fp16" in kinds else rounded
    entry = configs.Entry((), metadata.num_warps, metadata.num_stages)
    width = constants.get("R") or constants.get("D") or 0
    return ahead_of_time.Case(kernel, metadata.target.arch, dtype, width, entry, constants)


FAULTS: dict[str, list[str]] = {}
"""Of all that was compiled, by its hash."""


def faults_of(compiled: CompiledKernel) -> list[str]:
    """What is wrong with a kernel by the rule of `ahead_of_time`."""
    if compiled.hash not in FAULTS:
        case = case_of(compiled)
        FAULTS[compiled.hash] = [f"{case.label}: {fault}" for fault in ahead_of_time.weighed(case, compiled).faults]
    return FAULTS[compiled.hash]


def run(function: triton.JITFunction, *args, run=triton.JITFunction.run, **options):
    """Triton's launch, and what is wrong with the kernel that it launched."""
    compiled = run(function, *args, **options)
    driver = active()
    driver.faults += [fault for fault in faults_of(compiled) if fault not in driver.faults]
    return compiled


def parameter(kind, value) -> int:
    """The bytes of one kernel parameter, after a check that the value is of its type."""
    if kind == "constexpr":
        return 0
    if isinstance(kind, tuple):
        return sum(parameter(k, v) for k, v in zip(kind, value, strict=True))
    if kind.startswith("*"):
        assert isinstance(value, torch.Tensor), (kind, value)
        return 8
    if kind == "fp32":
        assert isinstance(value, float)
        return 4
    assert type(value) is int, (kind, value)
    assert -INTEGERS[kind] <= value < INTEGERS[kind], (kind, value)
    return 4 if kind == "i32" else 8


def active() -> Driver:
    return triton.runtime.driver.active


def forget() -> None:
    """All choices made and kernels held, as a new process would begin."""
    launch.tuned.cache_clear()
    held.KERNELS.clear()


def install(monkeypatch, architecture: devices.Architecture) -> Driver:
    """The driver, in place until the test ends."""
    driver = Driver(architecture)
    forget()
    place = "_active" if hasattr(triton.runtime.driver, "_active") else "active"  # up to Triton 3.4
    monkeypatch.setattr(triton.runtime.driver, place, driver)
    monkeypatch.setattr(triton.JITFunction, "run", run)
    monkeypatch.setattr(launch, "architecture_of", lambda device: active().architecture)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)  # as is the index of the meta device
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda self: True))
    address = lambda self: 2**20 + self.storage_offset() * self.element_size()  # noqa: E731
    monkeypatch.setattr(torch.Tensor, "data_ptr", address)
    return driver
