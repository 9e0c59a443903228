"""What is installed and what can run here: `python -m iprm_kernels.info`, for programs with `--json`."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from iprm_kernels.backends import BACKENDS, cpu, cuda, reasons
from iprm_kernels.backends import devices as cards


def version_of(package: str) -> str | None:
    """Its installed version, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str | None]:
    """Of everything that decides what can run; None of what is not there."""
    return {
        "iprm-kernels": version_of("iprm-kernels"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "CUDA of torch": torch.version.cuda,
        "ROCm of torch": torch.version.hip,
        "triton": version_of("triton"),
        "numpy": version_of("numpy"),
    }


def devices() -> list[str]:
    """The devices that torch can use."""
    return ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]


def describe_device(device: str) -> str:
    """`cuda:0 (NVIDIA H100, sm_90, 227 KB shared)`, `cpu (2 threads, AVX512)`."""
    if device == "cpu":
        return f"cpu ({torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()})"
    card = cards.card(torch.device(device))
    name, architecture = torch.cuda.get_device_name(device), cards.name_of(card.architecture)
    return f"{device} ({name}, {architecture}, {card.shared // cards.KIB} KB shared)"


def extension_facts(load: Callable[[], tuple[ModuleType | None, str | None]]) -> dict[str, str]:
    """What an extension was built with, or why there is none."""
    extension, reason = load()
    if extension is None:
        return {"not usable": str(reason)}
    facts = extension.build_info().items()
    return {
        name.replace("_", " "): ", ".join(value) if isinstance(value, list) else str(value) for name, value in facts
    }


def cpu_facts() -> dict[str, str]:
    """The CPU extension, and which of its tables of kernels this processor takes."""
    facts = extension_facts(cpu.load)
    if "not usable" not in facts:
        facts["kernels in use"] = cpu.extension().cpu_capability()
        facts["for many pairs"] = cpu.extension().pairs_capability()
        facts["for bfloat16"] = cpu.extension().bfloat16_capability()
    return facts


def cuda_facts() -> dict[str, str]:
    """The CUDA extension, and the devices that it finds."""
    found = [describe_device(device) for device in devices() if device != "cpu"]
    return extension_facts(cuda.load) | {"devices": ", ".join(found) or "none that torch can use"}


def backend_states(device: str) -> dict[str, str]:
    """For each backend, best first, what it serves on the device, or why it does not."""
    return {
        name: f"no: {why}" if why else f"usable: {BACKENDS[name].limits(torch.device(device))}"
        for name, why in reasons(device).items()
    }


def report() -> dict[str, dict[str, str]]:
    """Sections of labelled facts: versions, builds, and for each device what each backend serves or why it does not."""
    sections = {
        "versions": {name: version or "none" for name, version in versions().items()},
        "CPU extension": cpu_facts(),
        "CUDA extension": cuda_facts(),
    }
    for device in devices():
        sections[f"backends on {describe_device(device)}, best first"] = backend_states(device)
    return sections


def record() -> dict[str, dict[str, Any]]:
    """What the report says, for programs. Keys stay what they are; others may join them.

    versions    package -> version, null where there is none
    extensions  "cpu", "cuda" -> what it was built with, or {"not usable": why}, see `extension_facts`
    devices     "cpu", "cuda:0", ... -> {"description": text, "backends": {name: {"usable": bool, "says": text}}},
                backends best first; `says` is what a usable one serves, or why the backend cannot run
    """
    return {
        "versions": versions(),
        "extensions": {"cpu": cpu_facts(), "cuda": cuda_facts()},
        "devices": {
            device: {
                "description": describe_device(device),
                "backends": {
                    name: {"usable": not why, "says": why or BACKENDS[name].limits(torch.device(device))}
                    for name, why in reasons(device).items()
                },
            }
            for device in devices()
        },
    }


def main(argv: list[str] | None = None) -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(prog="python -m iprm_kernels.info", description="What can run here, and why not.")
    parser.add_argument("--json", action="store_true", help="print one JSON object; default: a text")
    if parser.parse_args(argv).json:
        print(json.dumps(record(), indent=1))
        return
    for title, facts in report().items():
        print(title)
        for name, value in facts.items():
            print(f"  {name:<16} {value}")


if __name__ == "__main__":
    main()
