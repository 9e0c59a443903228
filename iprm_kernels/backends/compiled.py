"""What the backends of compiled extensions share: the record of the build, loading, and the functions of the ops."""

from __future__ import annotations

import functools
import importlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from iprm_kernels.backends import reinstall

RECORD = Path(__file__).parents[1] / "_build.json"
NEVER_BUILT: dict[str, Any] = {
    "extension": False,
    "reason": "the extension was never built",
    "lost": True,
    "torch": None,
}


@functools.cache
def build_records() -> dict[str, dict[str, Any]]:
    """How each extension was built: `extension` (bool), `reason` (why there is none), `lost` (bool: there is none, and
    no switch left it out), `torch` (its version)."""
    return json.loads(RECORD.read_text()) if RECORD.exists() else {}


def build_record(backend: str) -> dict[str, Any]:
    """The record of one backend's extension."""
    return build_records().get(backend, NEVER_BUILT)


@functools.cache
def load(backend: str, name: str) -> tuple[ModuleType | None, str | None]:
    """The extension `name` of a backend, or None and why it cannot be had."""
    record = build_record(backend)
    if not record["extension"]:
        return None, record["reason"]
    if record["torch"] != torch.__version__:
        return None, f"built for torch {record['torch']}, not for {torch.__version__}"
    try:
        return importlib.import_module(name), None
    except ImportError as error:
        return None, f"the extension does not load: {error}"


@functools.cache
def warn_if_lost(backend: str, name: str, kernels: str) -> None:
    """Warn, the first time that calls run without an extension that was not left out by choice."""
    module, reason = load(backend, name)
    record = build_record(backend)
    if module is None and (record["extension"] or record["lost"]):
        warnings.warn(
            f"iprm_kernels runs without its {kernels} kernels, slower and with more memory: {reason}."
            f" To compile them: {reinstall.command()}",
            stacklevel=2,
        )


def usable(loaded: tuple[ModuleType | None, str | None], kernels: str) -> ModuleType:
    """The extension of what a backend's `load` returned.

    Raises:
        RuntimeError: it was not built or does not load, and why.
    """
    module, reason = loaded
    if module is None:
        raise RuntimeError(f"the {kernels} kernels cannot be used: {reason}")
    return module


def op(extension: Callable[[], ModuleType], name: str) -> Callable[..., Any]:
    """The op `name` of an extension, which is loaded when the op first runs."""

    def run(*args: Any) -> Any:
        return getattr(extension(), name)(*args)

    run.__name__ = name
    return run
