"""The PEP 517 backend: setuptools, compiling against the torch that the package will run with.

An extension that was compiled against another torch does not load, and an isolated build sees only what it requires.
So what the interpreter has without the isolation is put at the end of the path. Where that has no torch, because it is
not installed yet or because the build has an interpreter of its own (`uv pip install`, `python -m build`), torch is
required for the build: the one that an installation brings. If the package meets another one, it says so at first use.
"""

import importlib.util
import os
import subprocess
import sys

from setuptools.build_meta import *  # noqa: F403

ISOLATION = ("PYTHONPATH", "PYTHONNOUSERSITE")  # by which pip hides what is installed


def installed_path() -> list[str]:
    """Where the interpreter finds packages outside an isolated build, those of a base environment among them."""
    environment = {name: value for name, value in os.environ.items() if name not in ISOLATION}
    command = [sys.executable, "-c", r"import sys; print(*sys.path[1:], sep='\n')"]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.splitlines()


def get_requires_for_build_wheel(config_settings: dict | None = None) -> list[str]:
    """torch, where the build needs it and does not see it."""
    switched_off = all(os.environ.get(name) == "0" for name in ("IPRM_BUILD_CPU", "IPRM_BUILD_CUDA"))
    return [] if switched_off or importlib.util.find_spec("torch") else ["torch"]


get_requires_for_build_editable = get_requires_for_build_wheel


def get_requires_for_build_sdist(config_settings: dict | None = None) -> list[str]:
    """Nothing: a source distribution compiles nothing."""
    return []


sys.path.extend(path for path in installed_path() if path not in sys.path)
