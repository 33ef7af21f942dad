"""A process that has the model library loaded and reads bytes from outside, each time in a fork of its own with limits.

Loading takes half a second, a fork takes milliseconds; a fork that dies takes its reader with it, and the next call
starts another. Speaks over standard input and output: a header, the bytes; then a length, the answer.
"""

import os
import selectors
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path

from nasmesh.clock import SystemClock

HEADER = struct.Struct(">BQ")
LENGTH = struct.Struct(">Q")

_LAUNCH = "import sys; sys.path[:0] = [sys.argv[1]]; from nasmesh.model.quarantine import main; main()"
_ROOT = Path(__file__).resolve().parents[2]
_CHUNK = 1 << 20
_idle: list["Reader"] = []
_lock = threading.Lock()


class Reader:
    """One such process; one caller at a time."""

    def __init__(self) -> None:
        """Start it; it is ready for a first call at once and answers when it has loaded."""
        environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _LAUNCH, str(_ROOT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        self.process_id = self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def ask(self, kind: int, content: bytes, timeout_s: float) -> bytes | None:
        """Return the answer, or None where it died over the bytes or took longer; then it is gone."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("the pipes of a reader were not made")
        clock = SystemClock()
        until = clock.monotonic() + timeout_s
        waiting = memoryview(HEADER.pack(kind, len(content)) + content)
        answer = bytearray()
        for pipe in (stdin, stdout):
            os.set_blocking(pipe.fileno(), False)
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            selector.register(stdin, selectors.EVENT_WRITE)
            while (left := until - clock.monotonic()) > 0:
                for key, _ in selector.select(left):
                    try:
                        if key.fileobj is stdin:
                            waiting = waiting[os.write(key.fd, waiting[:_CHUNK]) :]
                            if not waiting:
                                selector.unregister(stdin)
                            continue
                        part = os.read(key.fd, _CHUNK)
                    except BlockingIOError:
                        continue
                    except OSError:
                        part = b""
                    answer += part
                    if len(answer) >= LENGTH.size + _length(answer):
                        return bytes(answer[LENGTH.size :])
                    if not part:
                        self.end()
                        return None
        self.end()
        return None

    def end(self) -> None:
        """End it and its fork."""
        if self.alive:
            os.killpg(self.process_id, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def ask(kind: int, content: bytes, timeout_s: float) -> bytes | None:
    """Return what an idle reader, or a new one, answers; None where it died over the bytes or took longer."""
    with _lock:
        reader = _idle.pop() if _idle else None
    if reader is not None and not reader.alive:
        reader.end()
        reader = None
    reader = reader or Reader()
    answer = reader.ask(kind, content, timeout_s)
    if answer is not None:
        with _lock:
            _idle.append(reader)
    return answer


def _length(answer: bytearray) -> int:
    """Return how long the answer will be; more than there can be while its length is not known."""
    return LENGTH.unpack_from(answer)[0] if len(answer) >= LENGTH.size else 1 << 62
