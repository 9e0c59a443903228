"""Ctrl-C and SIGTERM as a request that a training answers after its step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A training that stopped because it was asked to, its checkpoint written; says how to go on."""


@contextmanager
def interruption() -> Iterator[threading.Event]:
    """Yield an event that the first of the signals sets; a second one ends the process, as it would have before.

    Python lets only the main thread handle signals: in another the event stays unset.
    """
    asked = threading.Event()
    before: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def ask(*_: object) -> None:
        asked.set()
        restore()

    if threading.current_thread() is threading.main_thread():
        before |= {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield asked
    finally:
        restore()
