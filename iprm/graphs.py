"""CUDA graphs of a module's forward: captured once for each kind of call, then replayed.

A replay is one launch for all kernels of a forward: what Python and the driver would spend on each of them is gone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable

import torch
from torch import Tensor

from iprm_kernels.autocast import autocast_dtype
from iprm_kernels.precision import float32_products

DEVICE = "cuda"
WARM_UPS = 3  # as torch's own capture does: libraries choose algorithms and allocate, kernels are compiled and tuned

Inputs = tuple[Tensor | None, ...]


def cloned(outputs: Tensor | tuple | None) -> Tensor | tuple | None:
    """A copy of a tensor, or of all tensors of a (named) tuple."""
    if isinstance(outputs, Tensor):
        return outputs.clone()
    if outputs is None:
        return None
    copies = [cloned(output) for output in outputs]
    return type(outputs)(*copies) if hasattr(outputs, "_fields") else tuple(copies)


class Captured:
    """One forward on the device, with the buffers that it reads and writes."""

    def __init__(self, forward: Callable, inputs: Inputs):
        device = next(x.device for x in inputs if x is not None)
        # Buffers of inference mode could not be written outside of it.
        with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(device):
            self.inputs = tuple(
                None if x is None else torch.empty(x.shape, dtype=x.dtype, device=device) for x in inputs
            )
            self._fill(inputs)
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    forward(*self.inputs)
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):  # other threads may use the device
                self.outputs = forward(*self.inputs)
            self.finished = torch.cuda.Event()

    def _fill(self, inputs: Inputs) -> None:
        for buffer, x in zip(self.inputs, inputs, strict=True):
            if buffer is not None:
                buffer.copy_(x)

    def __call__(self, inputs: Inputs) -> Tensor | tuple:
        with torch.no_grad(), torch.cuda.device(self.inputs[0].device):
            torch.cuda.current_stream().wait_event(self.finished)  # another stream may be at work in the buffers
            self._fill(inputs)
            self.graph.replay()
            outputs = cloned(self.outputs)
            self.finished.record()
            return outputs


class Graphs:
    """The captured forwards of one module, at most `limit`: the one unused for longest goes first.

    A copy or an unpickled one of it is empty, as graphs belong to the tensors that they were captured with.
    """

    def __init__(self, limit: int = 8):
        self.limit = limit
        self._captured: OrderedDict[Hashable, Captured] = OrderedDict()
        self._addresses: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self._captured)

    def __deepcopy__(self, memo: dict) -> Graphs:
        return Graphs(self.limit)

    def __reduce__(self) -> tuple:
        return Graphs, (self.limit,)

    @staticmethod
    def serves(inputs: Inputs) -> bool:
        """Whether such a call may be captured: without gradients, on a CUDA device, not inside of a capture."""
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            return False
        tensors = [x for x in inputs if x is not None]
        if not all(isinstance(x, Tensor) and x.device.type == DEVICE for x in tensors):
            return False
        return not torch.cuda.is_current_stream_capturing()

    def __call__(self, forward: Callable, inputs: Inputs, weights: Iterable[Tensor], kind: Hashable) -> Tensor | tuple:
        """`forward(*inputs)` by the graph of this kind of call, captured when there is none yet.

        Args:
            forward: runs on the device alone, without waiting for it.
            weights: what else it reads; where any of them has moved, all graphs are void. New values in the same place
                are seen by the graphs.
            kind: what the forward depends on besides.
        """
        addresses = tuple(w.data_ptr() for w in weights)
        if addresses != self._addresses:
            self._captured.clear()
            self._addresses = addresses
        mixed = autocast_dtype(torch.device(DEVICE))
        shapes = tuple(None if x is None else (x.shape, x.dtype, x.device) for x in inputs)
        key = (shapes, mixed, float32_products(DEVICE), kind)
        if key in self._captured:
            self._captured.move_to_end(key)
        else:
            # Weights that autocast has cast before are no part of the graph: it must cast them itself.
            with torch.autocast(DEVICE, mixed, enabled=mixed is not None, cache_enabled=False):
                captured = Captured(forward, inputs)
            self._captured[key] = captured
            if len(self._captured) > self.limit:
                self._captured.popitem(last=False)
        return self._captured[key](inputs)
