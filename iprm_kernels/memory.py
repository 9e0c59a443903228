"""How much memory a call of the recurrence takes at its peak, forward alone and in training, without running it.

The walk over the steps is run on the meta device, where tensors have shapes and no numbers, and the bytes of all that
are alive are counted. What a core allocates within a call is counted by a formula each, written down beside it here.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

from iprm_kernels import backends, flops
from iprm_kernels.backends import BACKENDS, cpu, eager
from iprm_kernels.backends.calls import Call, call_of
from iprm_kernels.backends.triton import configs
from iprm_kernels.backends.triton.configs import BUFFER_BYTES, ROWS
from iprm_kernels.checks import check_choice, check_floating
from iprm_kernels.recurrence import check_arguments, check_form
from iprm_kernels.steps import kept, walk
from iprm_kernels.steps.weights import Activations, Epsilons, Rates, Weights, flattened, options_of, unflattened

FLOAT = 4
"""The bytes of a number in which the kernels of GPUs sum."""


class MemoryEstimate(NamedTuple):
    """Bytes beyond the inputs and the weights."""

    forward: int
    """The peak of a call without gradients, its results among them."""
    training: int
    """The peak of a forward and its backward: what is kept between them, results and all gradients among them."""
    kept: int
    """What lies between a forward and its backward: results, attentions, and what the forward keeps."""


class Ledger(TorchDispatchMode):
    """Counts the bytes of the tensors that calls within it make, as long as they are alive.

    workspace: of an op and its arguments, the bytes that a call takes while it runs.
    """

    def __init__(self, workspace: Callable[[str, Any], int]) -> None:
        super().__init__()
        self.workspace = workspace
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for x in tree_iter((args, kwargs)):
            if isinstance(x, Tensor):
                self.enter(x.untyped_storage(), 0)  # where it was not made in here, so that its views count as nothing
        found = func(*args, **(kwargs or {}))
        for x in tree_iter(found):
            if isinstance(x, Tensor):
                self.enter(x.untyped_storage(), x.untyped_storage().nbytes())
        inside = self.workspace(func._schema.name.removeprefix("iprm::"), args) if func.namespace == "iprm" else 0
        self.most = max(self.most, self.now + inside)
        return found

    def enter(self, storage: torch.UntypedStorage, size: int) -> None:
        """From now until the storage is gone it counts so many bytes, unless it does already."""
        key = storage._cdata
        if key in self.known:
            return
        self.known.add(key)
        self.now += size
        weakref.finalize(storage, self.leave, key, size)

    def leave(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


# What a core takes while it runs, beyond its results, by backend.


def of_cpu(op: str, c: Call, size: int, needs: Any) -> int:
    """csrc/cpu/execution.cpp: tiles of each thread, and gradients of weights and rows in parts that are then summed."""
    height, width = min(c.N, 102), -(-c.R // 32) * 32
    tiles = c.B * -(-c.N // 102)
    tile, threads = height * width, torch.get_num_threads()
    if op == "execution":
        return 2 * min(threads, tiles * c.K) * tile * size
    if op != "execution_backward":
        return 0
    groups = max(1, min(8 // max(1, tiles), c.K))
    tasks = tiles * groups
    slots = min(max(tasks // 8, min(tasks, 8)), 64)
    rows = c.B * c.K * c.N + 2 * (groups - 1) * c.B * c.N * width + 2 * tiles * c.K * width + 2 * tasks * width
    return (5 * min(threads, slots) * tile + rows + sum(needs[4:6]) * slots * width * width) * size


def in_buffers(c: Call, size: int, count: int) -> int:
    """`count` buffers of pairs, of as many samples at once as fit into BUFFER_BYTES, at least one."""
    sample = max(1, count * c.K * c.N * c.R * size)
    parts = -(-c.B // max(1, BUFFER_BYTES // sample))
    return -(-c.B // max(1, parts)) * sample


def of_triton(op: str, c: Call, size: int, needs: Any) -> int:
    """iprm_kernels/backends/triton/execution.py: logits, pairs of some samples at a time, and sums over tiles."""
    logits, dtype = c.B * c.K * c.N * FLOAT, torch.float32 if size == FLOAT else torch.bfloat16
    if op == "execution":
        if configs.is_fused("logits", c.R, dtype):
            return logits
        buffer = in_buffers(c, size, 1)
        blocks = configs.cdiv(c.R, configs.columns("logits", c.R, dtype))
        return logits + buffer + blocks * FLOAT * (buffer // (c.R * size))
    if op == "execution_simple":
        return logits
    tiles = c.B * -(-c.N // ROWS)
    if op == "execution_backward":
        blocks = configs.cdiv(c.R, configs.columns("weights", c.R, dtype))
        _, parts = configs.weight_shares(c.B * c.K, c.R, dtype)
        sums = 2 * parts * c.R * c.R + 2 * blocks * c.B * c.K * c.R + c.B * c.K * c.N * c.R // 64
        return logits + sums * FLOAT + in_buffers(c, size, 3)
    if op == "execution_simple_backward":
        return logits + (tiles * c.K + tiles) * c.R * FLOAT
    return 0


def of_cuda(op: str, c: Call, size: int, needs: Any) -> int:
    """csrc/cuda/binding.cpp: the same, with the pairs in six buffers where it has three."""
    logits = c.B * c.K * c.N * FLOAT
    if op in ("execution", "execution_simple"):
        return logits
    tiles = c.B * -(-c.N // 16)
    if op == "execution_backward":
        sums = 2 * tiles * c.K * c.R + 2 * tiles * c.K * c.R + 3 * c.R * c.R
        sample = max(1, 6 * c.K * c.N * c.R * size)
        return logits + sums * FLOAT + min(c.B, max(1, BUFFER_BYTES // sample)) * sample
    if op == "execution_simple_backward":
        return logits + (tiles * c.K + tiles) * c.R * FLOAT
    return 0


WORKSPACE: Mapping[str, Callable[[str, Call, int, Any], int]] = {
    "cpu": of_cpu,
    "triton": of_triton,
    "cuda": of_cuda,
    "eager": lambda op, c, size, needs: 0,  # all that it makes are tensors
}


def workspace_of(backend: str) -> Callable[[str, Any], int]:
    """For `Ledger`."""

    def inside(op: str, args: Any) -> int:
        size = next(x for x in tree_iter(args) if isinstance(x, Tensor)).itemsize
        return WORKSPACE[backend](op, call_of(op, args), size, args[-2])

    return inside


# The walk of each backend, on the meta device.

NATIVE = ("cpu", "cuda")
"""Their walk is csrc/recurrence, which writes what it keeps where it will lie; the others' stacks it at the end."""


MANY_ROWS = {"avx512": (32, 64), "avx2": (12, 12), "default": (32, 32), "avx512_bf16": (32, 64), "amx_bf16": (1, 1)}
"""From so many rows the CPU's products, forward and back, read weights in a form of their own, by the tables of
kernels: see csrc/cpu/linear_kernel.h."""
SMALL = 2**15
"""Without AVX2, of weights of at most so many numbers; the products of others are the library's."""
FEW_ROWS = 32
"""Fewer rows than that of one step are copied together for the gradients of weights (csrc/cpu/linear.cpp)."""


OF_TOKENS = frozenset({"Wk", "C1", "C2"})
"""The maps that meet no rows of (B, K)."""


class Walk:
    """The recurrence of a backend on tensors without numbers, its bytes counted."""

    def __init__(self, backend: str) -> None:
        self.backend, self.ledger = backend, Ledger(workspace_of(backend))
        self.cores: Any = eager
        if backend != "eager":
            self.cores = SimpleNamespace(**vars(flops.PARTS) | {"pair_unit": BACKENDS[backend].pair_unit})

    def inputs(self, args: Sequence[Any]) -> list[Any]:
        """As the backend takes them: see `iprm_kernels.backends.cpu` of 16 bits."""
        return cpu.widened([*args]) if self.backend == "cpu" else [*args]

    def native_forms(
        self, given: torch.dtype, memory: Tensor, visual: Tensor, weights: list[Tensor], maps: str, steps: int = 0
    ) -> list[Tensor]:
        """What the CPU's products read in place of weights and rows, there as long as the walk lasts.

        given: the dtype of the inputs.  memory: (B, K, ·).  visual: (B, N, ·).  steps: of the walk back, 0 forward.
        """
        if self.backend != "cpu":
            return []
        table, C2 = cpu.table_for_rows(given), unflattened(weights, maps).C2.weight
        halved = 2 if table.endswith("_bf16") else 1
        full = "Wk" in maps.split(",")
        forms: list[tuple[int, ...]] = [C2.shape] * (4 if steps else 2) if full else []  # of pairs; C1a is as large
        for name, m in zip(maps.split(","), weights[::2], strict=True):
            if m.dim() == 1:  # a norm's
                continue
            if full and name in ("C1", "C2"):
                m = C2[: C2.shape[0] if name == "C1" else 0]  # C1b is as large, and C2 meets pairs alone
            of_tokens = name in OF_TOKENS
            rows = (visual if of_tokens else memory).shape[:2].numel()
            by_library = table == "default" and m.numel() > SMALL
            if rows >= MANY_ROWS.get(table, MANY_ROWS["default"])[steps > 0] and not by_library:
                forms.append((m.shape[0], -(-m.shape[1] // halved)))
            if rows < FEW_ROWS and not of_tokens:
                forms.append((steps * rows, m.shape[0]))
        return [memory.new_empty(shape) for shape in forms]

    def forward(self, args: Sequence[Any], shapes: Mapping[str, tuple[int, ...]]) -> walk.Outputs:
        """`iprm::recurrence`, which keeps tensors of these shapes."""
        inputs, given = self.inputs(args), args[0].dtype
        forms = self.native_forms(given, inputs[0], inputs[4], *inputs[6:8])
        stacked = bool(shapes) and self.backend not in NATIVE
        laid = [] if stacked else [inputs[0].new_empty(shape) for shape in shapes.values()]
        O, E, a_language, a_visual, a_operations, tensors = walk.forward(self.cores, *inputs, stacked)
        del forms
        return O.to(given), E.to(given), a_language, a_visual, a_operations, tensors if stacked else laid

    def backward(self, args: Sequence[Any], found: walk.Outputs, needs: list[bool]) -> Any:
        """`iprm::recurrence_backward` of gradients of O and E alone."""
        O, E, language, _, visual, _, weights, maps, seed, *options = args
        dO, dE = torch.empty_like(O), torch.empty_like(E)
        inputs = self.inputs([dO, dE, None, None, None, language, visual, weights, maps, *found[2:], seed, *options])
        forms = self.native_forms(O.dtype, inputs[0], *inputs[6:9], steps=options[0])
        back: Any = walk.backward
        gradients = back(self.cores, *inputs, needs)
        del forms, inputs
        return tree_map_only(Tensor, lambda x: x.to(O.dtype), gradients)


def memory_estimate(
    O: Tensor,
    E: Tensor,
    language: Tensor,
    visual: Tensor,
    weights: Weights,
    *,
    steps: int,
    window: int = 2,
    mask_self: bool = True,
    activations: Activations = Activations(),  # noqa: B008 - immutable
    rates: Rates = Rates(),  # noqa: B008
    epsilons: Epsilons = Epsilons(),  # noqa: B008
    language_mask: Tensor | None = None,
    visual_mask: Tensor | None = None,
    seed: Tensor | None = None,
    backend: str = "auto",
    memory: str | int = "auto",
) -> MemoryEstimate:
    """The memory of a call of `recurrence` with these arguments, without running it.

    Of tensors only shapes, dtypes and whether they require gradients matter: they may lie on the meta device.

    Args:
        backend: as of `recurrence`; one that cannot run here may be named. Of the CPU's kernels, some memory of each
            thread is counted for as many as torch has now.
        the others: as of `recurrence`. Gradients are counted of the tensors that require them.
    Returns: bytes beyond the arguments, as an allocator without waste would count them. What surrounds a call is not
        in it: sums of gradients, other layers, the optimiser.
    Raises:
        ValueError: as of `recurrence`; no such backend, none for tensors on the meta device, or `memory` is neither a
            number nor a name.
    """
    check_floating("O", O)
    check_form(weights)
    check_arguments(O, E, language, visual, weights, language_mask, visual_mask, steps)
    check_choice("backend", backend, tuple(BACKENDS) if O.is_meta else ("auto", *BACKENDS))
    flat, maps = flattened(weights)
    tensors = (O, E, language, language_mask, visual, visual_mask, flat)
    if backend == "auto":
        module = backends.of_recurrence(backend, O, (*tensors, maps, None, steps, window))
        backend = next(name for name, found in BACKENDS.items() if found is module)
    shaped = tree_map_only(Tensor, lambda x: torch.empty(x.shape, dtype=x.dtype, device="meta"), tensors)
    drawn = torch.empty(1, dtype=torch.int64, device="meta") if any(rates) else None
    options: list[Any] = [
        steps,
        window,
        mask_self,
        ",".join(activations),
        list(rates),
        list(epsilons),
        kept.room_of(memory),
    ]
    args: list[Any] = [*shaped, maps, drawn, *options]
    module, R = BACKENDS[backend], weights.reduced
    dtype = module.working_dtype(O.dtype)
    sizes = kept.sizes_of(O, visual, R, dtype, module.pair_unit(R, dtype))
    needs = [x.requires_grad for x in (O, E, language, visual, *flat)]
    with torch.no_grad():
        alone, training = Walk(backend), Walk(backend)
        with alone.ledger:
            alone.forward(args, {})
        with training.ledger:
            found = training.forward(args, kept.shapes(maps, options_of(*options), sizes))
            between = training.ledger.now
            training.backward(args, found, needs)
    return MemoryEstimate(alone.ledger.most, training.ledger.most, between)
