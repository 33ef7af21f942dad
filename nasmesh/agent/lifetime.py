"""How a program lives and ends: signals, the lock on its work directory, the agent's thread."""

import fcntl
import os
import select
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from nasmesh.agent.loop import Agent
from nasmesh.clock import SystemClock
from nasmesh.errors import Invalid, NasmeshError, Unavailable
from nasmesh.exits import INTERRUPTED, OK

_LOOK_S = 0.2


class Lifetime:
    """Waits for a signal or for an agent that gives up. The second signal ends the process at once.

    It waits on a socket that the interpreter writes to whichever thread a signal interrupts. A thread that is being
    started may take a signal that was meant for the main one, which then sleeps on in any lock.
    """

    def __init__(self) -> None:
        """Take over SIGTERM and SIGINT; call on the main thread."""
        self._ended = False
        self._signal = 0
        self._error: NasmeshError | None = None
        self._hears, self._tells = socket.socketpair()
        for end in (self._hears, self._tells):
            end.setblocking(False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.set_wakeup_fd(self._tells.fileno(), warn_on_full_buffer=False)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Return when the program should end, or after the time; says whether it should."""
        clock = SystemClock()
        until = None if timeout_s is None else clock.monotonic() + timeout_s
        while not self._ended:
            left = None if until is None else until - clock.monotonic()
            if left is not None and left <= 0:
                break
            select.select([self._hears], [], [], left)
            with suppress(BlockingIOError):
                self._hears.recv(64)
        return self._ended

    def follow(self, agent: Agent) -> threading.Thread:
        """Run an agent on a thread; where the scheduler refuses it for good, the program ends."""

        def run() -> None:
            try:
                agent.run()
            except NasmeshError as error:
                self._error = error
            finally:
                self._ended = True
                with suppress(BlockingIOError):  # then there is enough to be heard
                    self._tells.send(b"\0")

        thread = threading.Thread(target=run, name="agent", daemon=True)
        thread.start()
        return thread

    def join(self, thread: threading.Thread, timeout_s: float) -> None:
        """Wait for a thread to end, and hear a second signal meanwhile, whichever thread it interrupts."""
        clock = SystemClock()
        until = clock.monotonic() + timeout_s
        while thread.is_alive() and (left := until - clock.monotonic()) > 0:
            thread.join(min(_LOOK_S, left))

    def exit_code(self) -> int:
        """Return how the program ends; raises what the agent gave up with."""
        if self._error is not None:
            raise self._error
        return INTERRUPTED if self._signal == signal.SIGINT else OK

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._signal:
            os._exit(128 + number)
        self._signal = number
        self._ended = True


@contextmanager
def locked_directory(path: Path) -> Iterator[Path]:
    """Hold a directory for this process alone: two would mix up each other's jobs.

    Raises Unavailable (WORK_DIR_IN_USE), Invalid (WORK_DIR_INVALID).
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Invalid(
            "WORK_DIR_INVALID", f"work-dir: {path} cannot be used: {error.strerror}", field="work-dir"
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Unavailable(
                "WORK_DIR_IN_USE",
                f"work-dir: {path} is in use by another program; give each its own --work-dir",
                field="work-dir",
            ) from None
        yield path
    finally:
        os.close(descriptor)


def write_address(path: Path, address: str) -> None:
    """Write the address that is served, whole or not at all; raises Invalid (PORT_FILE_INVALID)."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(f"{address}\n")
        part.replace(path)
    except OSError as error:
        raise Invalid(
            "PORT_FILE_INVALID", f"port-file: {path} cannot be written: {error.strerror}", field="port-file"
        ) from None
