"""Packages that need not be installed, and what is said where one is missing."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def extra(name: str, module: str = "") -> Generator[None]:
    """Around imports of what an extra brings: where one is missing, the error says how to get it.

    Args:
        name: of the extra.  module: the importing module's `__name__`; a command, `__main__`, ends with that one line.
    Raises:
        ModuleNotFoundError: a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None:
            raise
        package = error.name.partition(".")[0]
        message = f"{package} is not installed: pip install 'iprm-kernels[{name}]'"
        if module == "__main__":
            raise SystemExit(f"error: {message}") from error
        raise ModuleNotFoundError(message, name=package) from error
