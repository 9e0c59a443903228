"""A lock on an open file: one process holds it, until it closes the file or ends."""

from __future__ import annotations

import sys
import time
from typing import IO


def lock(file: IO, wait: bool) -> None:
    """Take the lock, or wait for it. Raises `BlockingIOError` where another process holds it and `wait` is false."""
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return
    import msvcrt

    while True:
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            return
        except OSError as error:
            if not wait:
                raise BlockingIOError(str(error)) from error
        time.sleep(0.1)
