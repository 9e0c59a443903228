"""The command that compiles the kernels anew, against the torch that is installed now.

A plain "install again" may take a wheel from the cache, built for another torch, or build in an environment that does
not see the installed one.
"""

from __future__ import annotations

import importlib.metadata
import json
import shlex
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

PACKAGE = "iprm-kernels"
CHECKOUT = Path(__file__).parents[2]
UNKNOWN = "path/to/the/checkout"
COMMANDS = {
    "pip": "IPRM_BUILD_CPU=1 {python} -m pip install --no-cache-dir --force-reinstall --no-deps {source}",
    "uv": "uv pip install --python {python} 'setuptools>=77' ninja && IPRM_BUILD_CPU=1 uv pip install --python {python}"
    " --no-cache --reinstall --no-deps --no-build-isolation {source}",
}


def source(origin: dict[str, Any]) -> str:
    """What was installed, as an argument of pip, from what the installer recorded of it (direct_url.json).

    A wheel is no source, and of a checkout that was never installed nothing is recorded.
    """
    url: str = origin.get("url", "")
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        return shlex.quote(f"{PACKAGE} @ {vcs['vcs']}+{url}@{vcs['commit_id']}")
    if "dir_info" in origin:
        folder = shlex.quote(url2pathname(urlsplit(url).path))
        return f"--editable {folder}" if origin["dir_info"].get("editable") else folder
    if url.endswith((".tar.gz", ".zip")):
        return shlex.quote(url)
    return shlex.quote(str(CHECKOUT)) if (CHECKOUT / "setup.py").exists() else UNKNOWN


def command() -> str:
    """One line for a POSIX shell, of the tool and from the source that the package was installed with."""
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        tool = (distribution.read_text("INSTALLER") or "").strip()
    except importlib.metadata.PackageNotFoundError:
        origin, tool = {}, ""
    template = COMMANDS.get(tool, COMMANDS["pip"])
    return template.format(python=shlex.quote(sys.executable), source=source(origin))
