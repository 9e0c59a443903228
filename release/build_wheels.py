"""Builds platform wheels with the compiled kernels, one for each Python and torch, and tries each.

    python release/build_wheels.py --python python3.10 python3.13 --torch 2.6.0 2.13.0

A wheel's kernels load with the torch that they were compiled against and no other, so it says which: its version is
0.1.0+torch2.13.0, and it requires torch==2.13.0. The tag is linux_x86_64. A manylinux tag would promise that all shared
libraries are inside the wheel or in every Linux; here libtorch comes with torch, and OpenMP's is the one that torch
loads, of which a process must not have two. On a Linux of an older C library than the builder's it does not load.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STEP = Path(__file__).with_name("step.py").resolve()


def run(*command: str | Path, **options) -> str:
    """What a command prints; it fails loudly."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **options).stdout


def environment(python: str, folder: Path, *requirements: str | Path) -> Path:
    """The interpreter of a fresh environment."""
    run(python, "-m", "venv", folder)
    fresh = folder / "bin/python"
    run(fresh, "-m", "pip", "install", "--quiet", *requirements)
    return fresh


def replace_once(text: str, old: str, new: str) -> str:
    """The text with its one `old` replaced.

    Raises:
        SystemExit: there is none, or more than one.
    """
    if text.count(old) != 1:
        raise SystemExit(f"pyproject.toml: expected {old!r} once, found it {text.count(old)} times")
    return text.replace(old, new)


def for_torch(project: str, version: str, torch: str) -> str:
    """pyproject.toml for the wheels of one torch: its version and requirement say so."""
    project = replace_once(project, f'version = "{version}"', f'version = "{version}+torch{torch.replace("+", ".")}"')
    return replace_once(project, '"torch>=2.6"', f'"torch=={torch}"')


def sources(folder: Path) -> Path:
    """What is in the source distribution, and no left-overs of builds."""
    run(sys.executable, "-m", "build", "--sdist", "--outdir", folder, ROOT)
    (archive,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(archive, folder)
    return folder / archive.name.removesuffix(".tar.gz")


def build(python: str, torch: str, out: Path) -> Path:
    """The wheel for an interpreter and a release of torch, tried in an environment of its own, outside the checkout.

    Raises:
        subprocess.CalledProcessError: a command failed.  SystemExit: the step ran without the kernels.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tree = sources(folder)
        project = tree / "pyproject.toml"
        version = tree.name.rpartition("-")[2]
        project.write_text(for_torch(project.read_text(), version, torch))
        builder = environment(python, folder / "builder", f"torch=={torch}", "setuptools>=77", "ninja", "wheel")
        switches = {**os.environ, "IPRM_BUILD_CPU": "1"}
        command = ("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "wheels", tree)
        run(builder, *command, env=switches)
        (built,) = (folder / "wheels").glob("*.whl")
        user = environment(python, folder / "user", built)
        backend = run(user, STEP, cwd="/").strip()
        if backend != "cpu":
            raise SystemExit(f"{built.name}: expected a step on the cpu backend, got {backend}")
        return Path(shutil.copy(built, out))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="interpreters")
    parser.add_argument("--torch", nargs="+", required=True, help="releases, such as 2.13.0")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder for the wheels")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for python in options.python:
        for torch in options.torch:
            print(build(python, torch, options.out.resolve()), flush=True)


if __name__ == "__main__":
    main()
