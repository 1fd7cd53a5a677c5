"""Ctrl-C, held back until a moment at which nothing is half done."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def held_back() -> Iterator[Callable[[], bool]]:
    """Hold back Ctrl-C inside the block: yields a function that says whether it came.

    A second Ctrl-C is not held back. Only the main thread gets signals; elsewhere nothing is done.
    """
    came: list[int] = []  # the signal, once it came
    if threading.current_thread() is not threading.main_thread():
        yield lambda: bool(came)
        return

    def note(signum, frame):
        came.append(signum)
        signal.signal(signal.SIGINT, previous)

    previous = signal.getsignal(signal.SIGINT)
    if previous is not signal.default_int_handler:  # somebody else's handling of Ctrl-C is left alone
        yield lambda: bool(came)
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGINT, previous)
