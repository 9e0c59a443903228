"""Kernels that have been launched, held for launches of the same kind.

Triton's own launch takes some 20 µs of the processor, the autotuner's 30: they bind the arguments by name, find out
what each is specialised for, and look for the compiled kernel under a text made of all that. A training step has some
300 launches, of few kinds. Here a compiled kernel is found under a key of all that Triton would compile it anew for,
and more. The first launch of each kind, and every one that a profiler or debugger wants to see, is Triton's; on AMD's
cards every launch is, for there a kernel is also compiled for whether a tensor has less than 2 GB.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import triton
from torch import Tensor
from triton.compiler import CompiledKernel
from triton.runtime.driver import driver

LEAST_VERSION, MOST_VERSION = (3, 4), (3, 9)
"""Of Triton, whose compiled kernels are known to be launched as here. With another version none is held."""
KNOWN = LEAST_VERSION <= tuple(int(number) for number in triton.__version__.split(".")[:2]) <= MOST_VERSION


class Held(NamedTuple):
    """A compiled kernel, and what all its launches have in common."""

    function: triton.JITFunction
    compiled: CompiledKernel
    device: int
    blocks: dict
    rest: tuple  # the arguments after the first ones, in the kernel's order

    def launch(self, grid, args: tuple) -> None:
        """As `JITFunction.run` ends."""
        compiled, stream = self.compiled, driver.active.get_current_stream(self.device)
        x, y, z = (*grid(self.blocks), 1, 1)[:3]
        compiled.run(
            x, y, z, stream, compiled.function, compiled.packed_metadata, None, None, None, *args, *self.rest
        )  # fmt: skip


KERNELS: dict[tuple, Held] = {}
"""All that are held. There are as many as there are kinds: numbers but K and N are in a key by their kind alone, and
the number of programs by the class of sizes for which the launch was tuned."""


@functools.lru_cache(4096, typed=True)
def kind_of_number(n: int | float | None):
    """What Triton may compile a kernel anew for: an integer's width, and whether it is 1 or a multiple of 16."""
    return (n == 1, n % 16 == 0, -(2**31) <= n < 2**31, n < 2**63) if isinstance(n, int) else type(n)


def kinds_of(arguments: tuple) -> list:
    """The same of pointers and numbers: of a tensor, its dtype and alignment."""
    return [
        (a.dtype, a.data_ptr() % 16 == 0) if isinstance(a, Tensor)
        else tuple(kinds_of(a)) if isinstance(a, tuple)
        else kind_of_number(a)
        for a in arguments
    ]  # fmt: skip


def key_of(kernel: str, device: int, args: tuple, options: dict) -> tuple:
    """Of a launch: the kinds of its first arguments and the values of the others."""
    return kernel, device, *kinds_of(args), *options, *options.values()


def hold(key: tuple, function: triton.JITFunction, compiled, args: tuple, options: dict, blocks: dict) -> None:
    """Hold what a first launch returned; the interpreter returns nothing."""
    held = KNOWN and isinstance(compiled, CompiledKernel) and compiled.metadata.target.backend == "cuda"
    if held and not watched(function):
        named = options | blocks
        rest = tuple(named[name] for name in function.arg_names[len(args) :])
        KERNELS[key] = Held(function, compiled, key[1], blocks, rest)


def watched(function: triton.JITFunction) -> bool:
    """Whether somebody listens to launches, or has what is compiled changed: a profiler, a debugger."""
    runtime, compilation = triton.knobs.runtime, triton.knobs.compilation
    enter, leave = runtime.launch_enter_hook, runtime.launch_exit_hook
    return bool(
        function.pre_run_hooks
        or runtime.debug
        or (enter is not None and getattr(enter, "calls", True))  # a hook, or a chain of them
        or (leave is not None and getattr(leave, "calls", True))
        or getattr(runtime, "add_stages_inspection_hook", None)
        or getattr(compilation, "instrumentation_mode", None)
    )
