"""The native CPU kernels: the compiled extension iprm_kernels._C, loaded on first use."""

from __future__ import annotations

import functools
import importlib
import json
from pathlib import Path
from types import ModuleType

import torch

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
RECORD = Path(__file__).parents[1] / "_build.json"


@functools.cache
def build_record() -> dict:
    """How the package was built: `extension` (bool), `reason` (why there is none), `torch` (its version)."""
    if not RECORD.exists():
        return {"extension": False, "reason": "the extension was never built", "torch": None}
    return json.loads(RECORD.read_text())


@functools.cache
def load() -> tuple[ModuleType | None, str | None]:
    """The extension, or None and why it cannot be had."""
    record = build_record()
    if not record["extension"]:
        return None, record["reason"]
    if record["torch"] != torch.__version__:
        return None, f"built for torch {record['torch']}, not for {torch.__version__}: install the package again"
    try:
        return importlib.import_module("iprm_kernels._C"), None
    except ImportError as error:
        return None, f"the extension does not load: {error}"


def unsupported(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why this backend cannot serve the device and dtype, or None where it can."""
    if device.type != "cpu":
        return f"its kernels run on the CPU, not on {device.type}"
    if dtype not in DTYPES:
        return f"it has no kernels for {dtype}"
    return load()[1]


def extension() -> ModuleType:
    """The extension.

    Raises:
        RuntimeError: it was not built or does not load, and why.
    """
    module, reason = load()
    if module is None:
        raise RuntimeError(f"the native CPU kernels cannot be used: {reason}")
    return module


def dropout(x, p, seed, stream):
    return extension().dropout(x, p, seed, stream)


def formation(query, tokens, gate, mask, seed, step, p_attention):
    return extension().formation(query, tokens, gate, mask, seed, step, p_attention)


def formation_backward(grad_z, grad_attention, query, tokens, gate, attention, seed, step, p_attention):
    return extension().formation_backward(
        grad_z, grad_attention, query, tokens, gate, attention, seed, step, p_attention
    )


def execution(v, u, g, l, C1a, C2, c2, w, tokens, mask, seed, step, p_product, p_attention, activation):
    return extension().execution(
        v, u, g, l, C1a, C2, c2, w, tokens, mask, seed, step, p_product, p_attention, activation
    )


def execution_backward(
    grad_pooled, grad_attention, v, u, g, l, C1a, C2, c2, w, tokens, attention,
    seed, step, p_product, p_attention, activation,
):  # fmt: skip
    return extension().execution_backward(
        grad_pooled, grad_attention, v, u, g, l, C1a, C2, c2, w, tokens, attention,
        seed, step, p_product, p_attention, activation,
    )  # fmt: skip


def execution_simple(keys, query, w, tokens, mask, seed, step, p_product, p_attention, activation):
    return extension().execution_simple(keys, query, w, tokens, mask, seed, step, p_product, p_attention, activation)


def execution_simple_backward(
    grad_pooled, grad_attention, keys, query, w, tokens, attention,
    seed, step, p_product, p_attention, activation,
):  # fmt: skip
    return extension().execution_simple_backward(
        grad_pooled, grad_attention, keys, query, w, tokens, attention,
        seed, step, p_product, p_attention, activation,
    )  # fmt: skip


def composition(query, keys, operations, results, gate, mask_self, seed, step, p_product, p_value, p_attention):
    return extension().composition(
        query, keys, operations, results, gate, mask_self, seed, step, p_product, p_value, p_attention
    )


def composition_backward(
    grad_operations, grad_results, grad_attention, query, keys, operations, results, gate, attention,
    mask_self, seed, step, p_product, p_value, p_attention,
):  # fmt: skip
    return extension().composition_backward(
        grad_operations, grad_results, grad_attention, query, keys, operations, results, gate, attention,
        mask_self, seed, step, p_product, p_value, p_attention,
    )  # fmt: skip
