"""Ctrl-C while modules load: nothing has been done yet that could be undone, and nobody would catch the exception."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_INTERRUPTED = 130


@contextmanager
def quiet_interrupts() -> Iterator[None]:
    """End the process at once, without a stack trace, when Ctrl-C comes within; does nothing off the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _leave(_number: int, _frame: FrameType | None) -> None:
    os._exit(_INTERRUPTED)
