"""Checkpoints: tensors and a JSON record in one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from iprm.vqa.locks import lock

NAME = re.compile(r"checkpoint-(\d+)\.safetensors")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that, whenever the process or the machine stops, all of it is there or what was there before."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    if sys.platform == "win32":  # which opens no folders
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name, too, reaches the disk
    finally:
        os.close(folder)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to a folder, made where need be; the hold ends with the process, at the latest.

    Raises `ValueError` where another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            lock(file, wait=False)
        except BlockingIOError as error:
            raise ValueError(f"{folder}: another process is training in it") from error
        yield


def _paths(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, newest first."""
    found = {int(match[1]): path for path in folder.glob("*.safetensors") if (match := NAME.fullmatch(path.name))}
    return [found[step] for step in sorted(found, reverse=True)]


def save_checkpoint(folder: Path, step: int, tensors: dict[str, Tensor], record: dict[str, Any], keep: int) -> None:
    """Write the checkpoint of a step and remove all but the newest `keep`; `record` is plain data for JSON."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_whole(folder / f"checkpoint-{step:08}.safetensors", save(held, {"record": json.dumps(record)}))
    for path in _paths(folder)[keep:]:
        path.unlink()


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["record"])  # noqa: SIM118
    except (SafetensorError, OSError):
        return None


def newest_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return tensors and record of the newest checkpoint that is whole; None where there is none."""
    return next((loaded for path in _paths(folder) if (loaded := _load(path))), None)
