"""Installs the package in each way, trains a step outside the checkout, and prints a table of what that ran on.

    python release/try_installs.py --torch torch==2.13.0 --only "pip" "uv"

Each way has a fresh environment and a fresh clone of the last commit. Most compile the kernels, minutes each; with
CXX="ccache g++" in the environment only the first of them does. Needs git, and on PATH uv. A way that needs another
program is not tried where that is missing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STEP = Path(__file__).with_name("step.py").resolve()
SEEN = {"cpu": "the kernels", "eager": "no kernels, and a warning that says how to get them"}

VENV = '"$PYTHON" -m venv venv'
PIP = "venv/bin/python -m pip install --quiet"
TORCH = f'{VENV}; {PIP} "$TORCH" numpy'
UV_TORCH = 'uv venv --quiet --python "$PYTHON" venv; uv pip install --quiet --python venv "$TORCH" numpy'
UV = "uv pip install --quiet --python venv"
TOOLS = "'setuptools>=77' ninja"


@dataclass(frozen=True)
class Way:
    """Shell lines that make the environment `venv` and install `checkout` into it, both in the current folder.

    PYTHON is an interpreter and TORCH a requirement.
    """

    prepare: str
    install: str
    needs: str | None = None  # a program that may be missing


WAYS = {
    "pip": Way(TORCH, f"{PIP} ./checkout"),
    "pip, torch not installed yet": Way(VENV, f"{PIP} ./checkout"),
    "pip, editable": Way(TORCH, f"{PIP} --editable ./checkout"),
    "pip, from git": Way(TORCH, f'{PIP} "git+file://$PWD/checkout"'),
    "pip, no isolation": Way(f"{TORCH} {TOOLS}", f"{PIP} --no-build-isolation ./checkout"),
    "pip, no isolation, no torch": Way(f"{VENV}; {PIP} {TOOLS}", f"{PIP} --no-build-isolation ./checkout"),
    "pip, no isolation, no ninja": Way(
        f"{TORCH} 'setuptools>=77'; mkdir bin; ln -s /bin/false bin/ninja",
        f"PATH=$PWD/bin:$PATH {PIP} --no-build-isolation ./checkout",
    ),
    "pip, no compiler": Way(TORCH, f"CXX=no-such-compiler {PIP} ./checkout"),
    "pip, CXX='ccache g++'": Way(TORCH, f"CXX='ccache g++' {PIP} ./checkout", needs="ccache"),
    "pip, CXX=clang++": Way(TORCH, f"CXX=clang++ {PIP} ./checkout", needs="clang++"),
    "pip, torch of the user's site in a venv --system-site-packages": Way(
        'export PYTHONUSERBASE=$PWD/base; "$PYTHON" -m pip install --quiet --user "$TORCH" numpy;'
        ' "$PYTHON" -m venv --system-site-packages venv',
        f"{PIP} ./checkout",
    ),
    "build, wheel": Way(f"{TORCH} build", f"venv/bin/python -m build ./checkout; {PIP} checkout/dist/*.whl"),
    "build, source distribution": Way(
        f"{TORCH} build", f"venv/bin/python -m build --sdist ./checkout; {PIP} checkout/dist/*.tar.gz"
    ),
    "uv": Way(UV_TORCH, f"{UV} ./checkout", needs="uv"),
    "uv, no isolation": Way(f"{UV_TORCH} {TOOLS}", f"{UV} --no-build-isolation ./checkout", needs="uv"),
}


def environment(folder: Path, python: str, torch: str) -> dict[str, str]:
    """Variables for the shell. The requirement binds isolated builds too: they take this torch, not the newest."""
    constraint = folder / "constraint.txt"
    constraint.write_text(torch + "\n")
    names = ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT", "UV_CONSTRAINT", "UV_BUILD_CONSTRAINT")
    return {**os.environ, **dict.fromkeys(names, str(constraint)), "PYTHON": python, "TORCH": torch}


def attempt(way: Way, folder: Path, python: str, torch: str) -> str:
    """How the way ended, in words; what its programs said lies in `folder`, in log.txt.

    Raises:
        subprocess.CalledProcessError: the environment could not be prepared.
    """
    if way.needs and shutil.which(way.needs) is None:
        return f"not tried: no {way.needs} on PATH"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder / "checkout")], check=True)
    lines = (
        f"set -e; {way.prepare}; echo prepared; {way.install}; echo installed; cd /; {folder}/venv/bin/python {STEP}"
    )
    run = subprocess.run(
        ["bash", "-c", lines],
        cwd=folder,
        env=environment(folder, python, torch),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    (folder / "log.txt").write_text(run.stdout)
    said = run.stdout.splitlines()
    if "prepared" not in said:
        raise subprocess.CalledProcessError(run.returncode, way.prepare, run.stdout)
    if "installed" not in said:
        return "the installation fails"
    if run.returncode:
        return "the step fails"
    warned = "To compile them:" in run.stdout
    return SEEN[said[-1]] if warned == (said[-1] == "eager") else f"{said[-1]}, without a word"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the environments")
    parser.add_argument("--torch", default="torch", help="what to install of it, a requirement")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY", help=", ".join(WAYS))
    parser.add_argument("--folder", type=Path, default=ROOT / "build/installs", help="where the trials lie")
    options = parser.parse_args()
    print("| installed by | ends with |\n| --- | --- |", flush=True)
    for name in options.only:
        folder = options.folder.resolve() / name.replace(" ", "-").replace("'", "")
        print(f"| {name} | {attempt(WAYS[name], folder, options.python, options.torch)} |", flush=True)


if __name__ == "__main__":
    main()
