"""What is installed and what can run here: `python -m iprm_kernels.info`."""

from __future__ import annotations

import importlib.metadata
import platform

import torch

from iprm_kernels.backends import cpu, reasons


def version_of(package: str) -> str:
    """Its installed version, or "not installed"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def devices() -> list[str]:
    """The devices that torch can use."""
    return ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]


def describe_device(device: str) -> str:
    """`cuda:0 (NVIDIA H100, sm_90)`, `cpu (2 threads, AVX512)`."""
    if device == "cpu":
        return f"cpu ({torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()})"
    major, minor = torch.cuda.get_device_capability(device)
    return f"{device} ({torch.cuda.get_device_name(device)}, sm_{major}{minor})"


def report() -> dict[str, dict[str, str]]:
    """Sections of labelled facts: versions, build, and for each device whether each backend can run and why not."""
    sections = {
        "versions": {
            "iprm-kernels": version_of("iprm-kernels"),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "CUDA of torch": str(torch.version.cuda),
            "triton": version_of("triton"),
            "numpy": version_of("numpy"),
        },
        "extension": {},
    }
    extension, reason = cpu.load()
    if extension is None:
        sections["extension"]["not usable"] = reason
    else:
        sections["extension"] = {key.replace("_", " "): str(value) for key, value in extension.build_info().items()}
        sections["extension"]["kernels in use"] = extension.cpu_capability()
    for device in devices():
        states = {name: f"no: {why}" if why else "usable" for name, why in reasons(device).items()}
        sections[f"backends on {describe_device(device)}, best first"] = states
    return sections


def main() -> None:
    """Print the report."""
    for title, facts in report().items():
        print(title)
        for name, value in facts.items():
            print(f"  {name:<16} {value}")


if __name__ == "__main__":
    main()
