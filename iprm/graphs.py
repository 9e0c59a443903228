"""CUDA graphs of a module: its forward, or a training step's forward and backward, captured once for each kind of call
and then replayed.

A replay is one launch for all kernels of a pass: what Python and the driver would spend on each of them is gone.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable, Sequence
from typing import Any, TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch._C import _autograd
from torch._C._functorch import is_legacy_batchedtensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from iprm_kernels.autocast import autocast_dtype, without_autocast
from iprm_kernels.precision import float32_products
from iprm_kernels.transforms import transformed

DEVICE = "cuda"
WARM_UPS = 3  # as torch's own capture does: libraries choose algorithms and allocate, kernels are compiled and tuned
CAPTURING = threading.Lock()  # torch captures one graph at a time in a process

T = TypeVar("T")
Some = Tensor | None
Outputs = Tensor | tuple[Any, ...]
Forward = Callable[..., Outputs]
"""(module, *inputs) -> outputs: runs on the device alone, without waiting for it."""

# From torch 2.8 on; before, nothing tells whether saved tensors are hooked, and no step is captured.
saved_tensor_hooks: Callable[[bool], Any] | None = getattr(_autograd, "_top_saved_tensors_default_hooks", None)


def replica(module: nn.Module, weights: Sequence[Tensor]) -> nn.Module:
    """A shallow copy of the module, on these tensors in the place of its parameters."""
    instead = dict(zip(module.parameters(), weights, strict=True))

    def copied(m: nn.Module) -> nn.Module:
        other = object.__new__(type(m))
        parameters = {name: None if p is None else instead[p] for name, p in m._parameters.items()}
        children = {name: None if child is None else copied(child) for name, child in m._modules.items()}
        other.__dict__.update(m.__dict__, _parameters=parameters, _modules=children)
        return other

    return copied(module)


def places(weights: Sequence[Tensor]) -> tuple[Hashable, ...]:
    """Where a graph finds the weights."""
    return tuple((w.data_ptr(), w.dtype, w.shape, w.stride()) for w in weights)


def is_mapped(gradient: Some) -> bool:
    """Whether it is one of many that `torch.autograd.grad(is_grads_batched=True)` was given."""
    return gradient is not None and is_legacy_batchedtensor(gradient)


def wants_gradient(x: Some) -> TypeGuard[Tensor]:
    return isinstance(x, Tensor) and x.requires_grad


def spread(found: Sequence[Some], like: Sequence[Some], where: Callable[[Some], bool]) -> list[Some]:
    """The tensors at those places of `like` `where` it holds, None at the others."""
    rest = iter(found)
    return [next(rest) if where(x) else None for x in like]


def copies(tensors: Sequence[Some]) -> list[Some]:
    """Copies of the tensors, made together: what a caller holds must not be written over by a later replay."""
    found = [x for x in tensors if x is not None]
    made = [torch.empty_like(x) for x in found]
    if found:
        torch._foreach_copy_(made, found)
    return spread(made, tensors, lambda x: x is not None)


def warm_up(run: Callable[[], object], device: torch.device) -> None:
    """Run on a side stream, leaving torch's generators as they were: a captured call draws what any other would."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.random.fork_rng([device], device_type="cuda"), torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            run()
    torch.cuda.current_stream().wait_stream(side)


def capture(run: Callable[[], T], pool: torch.cuda._POOL_HANDLE | None = None) -> tuple[torch.cuda.CUDAGraph, T]:
    """The graph of a run, and what the run returned, which each replay writes anew."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):  # other threads may use the device
        outputs = run()
    return graph, outputs


class Captured:
    """A forward without gradients, with the buffers that it reads and writes.

    Its memory is its own until it is discarded: copies of inputs and outputs, and what the forward allocates.
    """

    def __init__(self, forward: Forward, module: nn.Module, inputs: Sequence[Some]) -> None:
        self.device = next(x.device for x in inputs if x is not None)
        self.lock, self.finished = threading.Lock(), torch.cuda.Event()
        # Buffers of inference mode could not be written outside of it.
        with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(self.device):
            self.inputs = [None if x is None else torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in inputs]
            self._fill(inputs)
            self._capture(forward, module, inputs)

    def _capture(self, forward: Forward, module: nn.Module, inputs: Sequence[Some]) -> None:
        run = functools.partial(forward, module, *self.inputs)
        warm_up(run, self.device)
        self.graph, outputs = capture(run)
        self.outputs, self.structure = tree_flatten(outputs)

    def _fill(self, inputs: Sequence[Some]) -> None:
        for buffer, x in zip(self.inputs, inputs, strict=True):
            if buffer is not None:
                buffer.copy_(x)  # pyright: ignore[reportArgumentType] - None where its buffer is

    @contextlib.contextmanager
    def _turn(self) -> Generator[None]:
        """One use of the buffers after another, by whatever thread and stream."""
        with self.lock, torch.no_grad(), torch.cuda.device(self.device):
            torch.cuda.current_stream().wait_event(self.finished)
            yield
            self.finished.record()

    def __call__(self, inputs: Sequence[Some], weights: Sequence[Tensor]) -> Outputs | None:
        """The outputs, as copies; None where it cannot take the call now."""
        with self._turn():
            self._fill(inputs)
            self.graph.replay()
            return tree_unflatten(copies(self.outputs), self.structure)


class Lease:
    """Held by the autograd node of one forward: while it is the last one given, the activations are that forward's."""

    generator: Tensor
    """The state of torch's generator before the forward."""


class CapturedStep(Captured):
    """A forward and its backward.

    Its memory, besides that of `Captured`: all activations, copies of the outputs' gradients, and a gradient of each
    parameter and input that requires one.

    It has the activations of one forward. From a forward to its backward it is lent: calls in between are not taken,
    and run without graphs. It is free again after the backward, or once nothing holds the outputs any more. A backward
    that finds the activations gone (a second one with `retain_graph`), whose weights have moved since, or that is
    itself differentiated or mapped (`create_graph`, `is_grads_batched`) runs the forward once more, without graphs and
    from the same state of the generator.
    """

    def _capture(self, forward: Forward, module: nn.Module, inputs: Sequence[Some]) -> None:
        # Other leaves than the parameters: those have hooks, which would be captured, and nodes that accumulate their
        # gradients, which would remember the stream of the capture.
        leaves = [w.detach().requires_grad_(w.requires_grad) for w in module.parameters()]
        for buffer, x in zip(self.inputs, inputs, strict=True):
            if buffer is not None and wants_gradient(x):
                buffer.requires_grad_()
        self.forward, self.module, self.places = forward, replica(module, leaves), places(leaves)
        variables = [*self.inputs, *leaves]
        wanted = [x for x in variables if wants_gradient(x)]
        run = functools.partial(forward, self.module, *self.inputs)

        def backward(outputs: Sequence[Tensor], d_outputs: Sequence[Tensor]) -> tuple[Some, ...]:
            with without_autocast(self.device):
                return torch.autograd.grad(outputs, wanted, d_outputs, allow_unused=True)

        def step() -> None:
            outputs = [x for x in tree_leaves(run()) if wants_gradient(x)]
            backward(outputs, [torch.zeros_like(x) for x in outputs])

        with torch.enable_grad():
            warm_up(step, self.device)
            self.graph, outputs = capture(run)
        outputs, self.structure = tree_flatten(outputs)
        differentiable = [x for x in outputs if wants_gradient(x)]
        d_outputs = [torch.zeros_like(x) for x in differentiable]
        found: Sequence[Some] = [None] * len(wanted)
        if differentiable:
            # One pool: the backward takes the memory of what it has read, so each forward has one backward.
            run = functools.partial(backward, differentiable, d_outputs)
            self.backward_graph, found = capture(run, self.graph.pool())
        self.d_outputs = spread(d_outputs, outputs, wants_gradient)
        self.d_variables = spread(found, variables, wants_gradient)
        self.outputs = [None if x is None else x.detach() for x in outputs]
        self._last: weakref.ref[Lease] | None = None

    def __call__(self, inputs: Sequence[Some], weights: Sequence[Tensor]) -> Outputs | None:
        lease = self._lend()
        return lease and tree_unflatten(Replay.apply(self, lease, *inputs, *weights), self.structure)

    def _lend(self) -> Lease | None:
        with self.lock:
            if self._last is not None and self._last() is not None:
                return None
            lease = Lease()
            self._last = weakref.ref(lease)
            return lease

    def replay_forward(self, lease: Lease, tensors: Sequence[Some]) -> list[Some]:
        """The outputs, as copies."""
        with self._turn():
            lease.generator = torch.cuda.get_rng_state(self.device)
            self._fill(tensors[: len(self.inputs)])
            self.graph.replay()
            return copies(self.outputs)

    def replay_backward(self, lease: Lease, tensors: Sequence[Any], d_outputs: Sequence[Some]) -> list[Some] | None:
        """The gradients of inputs and weights, as copies; None where the activations are gone."""
        if places(tensors[len(self.inputs) :]) != self.places:
            return None
        with self._turn():
            if self._last is None or self._last() is not lease:
                return None
            self._last = None
            for buffer, given in zip(self.d_outputs, d_outputs, strict=True):
                if buffer is not None:
                    buffer.zero_() if given is None else buffer.copy_(given)
            self.backward_graph.replay()
            return copies(self.d_variables)

    def backward_anew(self, lease: Lease, tensors: Sequence[Any], d_outputs: Sequence[Some]) -> list[Some]:
        """The gradients without graphs, by another forward; with a graph of their own in grad mode (`create_graph`)."""
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad():  # of views, as hooks of the tensors themselves are for the pass that this is part of
            views = [x.view_as(x) if wants_gradient(x) else x for x in tensors]
            inputs, weights = views[: len(self.inputs)], views[len(self.inputs) :]
            with torch.random.fork_rng([self.device], device_type="cuda"):
                torch.cuda.set_rng_state(lease.generator, self.device)
                outputs = tree_leaves(self.forward(replica(self.module, weights), *inputs))
        given = [(x, d) for x, d in zip(outputs, d_outputs, strict=True) if d is not None and wants_gradient(x)]
        found = torch.autograd.grad(
            [x for x, _ in given],
            [x for x in views if wants_gradient(x)],
            [d for _, d in given],
            create_graph=create_graph,
            allow_unused=True,
        )
        return spread(found, views, wants_gradient)


class Replay(torch.autograd.Function):
    """A captured step as one node of autograd, of the inputs and parameters."""

    @staticmethod
    def forward(ctx: Any, step: CapturedStep, lease: Lease, *tensors: Some) -> tuple[Some, ...]:
        ctx.set_materialize_grads(False)
        ctx.step, ctx.lease = step, lease
        ctx.save_for_backward(*tensors)
        outputs = step.replay_forward(lease, tensors)
        ctx.mark_non_differentiable(
            *(x for x, d in zip(outputs, step.d_outputs, strict=True) if d is None and x is not None)
        )
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *d_outputs: Some) -> tuple[Some, ...]:
        given = ctx.lease, ctx.saved_tensors, d_outputs  # torch raises where they are freed or were changed in place
        differentiated = torch.is_grad_enabled() or transformed() or any(map(is_mapped, d_outputs))
        found = None if differentiated else ctx.step.replay_backward(*given)
        return None, None, *(ctx.step.backward_anew(*given) if found is None else found)


class Graphs:
    """The captured forwards and steps of one module, at most `limit`: the one unused for longest goes first.

    A copy or an unpickled one of it is empty, as graphs belong to the tensors that they were captured with.
    """

    def __init__(self, limit: int = 8) -> None:
        self.limit = limit
        self._captured: OrderedDict[Hashable, Captured] = OrderedDict()
        self._places: tuple[Hashable, ...] = ()

    def __len__(self) -> int:
        return len(self._captured)

    def __deepcopy__(self, memo: dict[int, Any]) -> Graphs:
        return Graphs(self.limit)

    def __reduce__(self) -> tuple[type[Graphs], tuple[int]]:
        return Graphs, (self.limit,)

    @staticmethod
    def serves(inputs: Sequence[Some], weights: Sequence[Tensor], step: bool) -> bool:
        """Whether such a call may be captured: on ordinary tensors of a CUDA device, where nothing looks into it."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or transformed():
            return False
        if torch._C._len_torch_dispatch_stack() > 0:  # a mode sees the single operators
            return False
        if torch._C._current_graph_task_id() != -1:  # in a backward pass: activation checkpointing forwards again
            return False
        if step and (saved_tensor_hooks is None or saved_tensor_hooks(True) is not None):
            return False  # what hooks do to the saved tensors, a graph would not see (checkpointing, offloading)
        given = [x for x in inputs if x is not None]
        if not all(type(x) in (Tensor, nn.Parameter) and x.device.type == DEVICE for x in (*given, *weights)):
            return False
        if not all(x.numel() > 0 for x in given):
            return False
        # Replicas of nn.DataParallel have no parameters; those of a functional call are made anew for each.
        if not (weights and all(w.is_leaf for w in weights)):
            return False
        return not torch.cuda.is_current_stream_capturing()

    def __call__(self, forward: Forward, module: nn.Module, inputs: Sequence[Some], kind: Hashable) -> Outputs:
        """`forward(module, *inputs)`, by the graphs of this kind of call where it may be captured and they are free.

        Args:
            forward: what is captured; it must read no tensors but the inputs and the module's parameters. Where any of
                those has moved, all graphs are void; new values in the same place are seen by the graphs.
            kind: what the forward depends on besides.
        """
        weights = tuple(module.parameters())
        step = torch.is_grad_enabled() and any(map(wants_gradient, (*inputs, *weights)))
        if not self.serves(inputs, weights, step):
            return forward(module, *inputs)
        with CAPTURING:
            captured = self._find(forward, module, inputs, weights, step, kind)
        outputs = captured(inputs, weights)
        return forward(module, *inputs) if outputs is None else outputs

    def _find(
        self, forward: Forward, module: nn.Module, inputs: Sequence[Some], weights: Sequence[Tensor], step: bool,
        kind: Hashable,
    ) -> Captured:  # fmt: skip
        """The captured forward or step of this kind; captured now where there is none yet."""
        if (now := places(weights)) != self._places:
            self._captured.clear()
            self._places = now
        mixed = autocast_dtype(torch.device(DEVICE))
        shapes = tuple(None if x is None else (x.shape, x.dtype, x.device) for x in inputs)
        gradients = tuple(map(wants_gradient, (*inputs, *weights))) if step else None
        key = (shapes, gradients, mixed, float32_products(DEVICE), kind)
        if key not in self._captured:

            def run(module: nn.Module, *inputs: Some) -> Outputs:
                # Weights that autocast has cast before are no part of the graph: it must cast them itself.
                with torch.autocast(DEVICE, mixed, enabled=mixed is not None, cache_enabled=False):
                    return forward(module, *inputs)

            self._captured[key] = (CapturedStep if step else Captured)(run, module, inputs)
            if len(self._captured) > self.limit:
                self._captured.popitem(last=False)
        self._captured.move_to_end(key)
        return self._captured[key]
