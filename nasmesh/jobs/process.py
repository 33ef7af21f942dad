"""One child process as its server sees it: send a frame, wait for an event, measure its memory, end it."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nasmesh.errors import Invalid
from nasmesh.jobs.bounds import has_gpu
from nasmesh.jobs.frames import read_frame, write_frame
from nasmesh.limits import CANCEL_GRACE_S, ORPHAN_S
from nasmesh.v1 import worker_pb2 as pb

_TAIL_LINES = 6
_LINE_CHARS = 300
_TERMINATE_S = 0.3
BURST_BYTES = 1 << 30
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class ChildLimits:
    """What one job may use. Sizes in bytes, times in seconds."""

    memory_bytes: int = 8 << 30
    """Resident memory of the child, looked at twice a second; on a machine without GPU the kernel also refuses what
    goes beyond it by more than a gigabyte, so that one great allocation is not over before anybody looks."""
    job_timeout_s: float = 24 * 3600.0
    """Longest a job may run."""
    cancel_grace_s: float = CANCEL_GRACE_S - 0.5
    """How long a cancelled job may take to write a checkpoint; the rest of the time is for ending its process."""
    orphan_s: float = ORPHAN_S
    """How long a job may go on that nobody watches or asks about."""
    address_space_bytes: int = 0
    """RLIMIT_AS of the child; 0: none, since torch reserves far more than it uses."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The child said something."""

    reply: pb.WorkerReply


@dataclass(frozen=True, slots=True)
class Ended:
    """The child's end of the pipe is closed; `fault` is set where it broke the framing."""

    fault: str = ""


@dataclass(frozen=True, slots=True)
class Woken:
    """Somebody wants the waiting thread to look again."""


Event = Reply | Ended | Woken


class ChildProcess:
    """A running child. `send` and `next_event` belong to one slot's thread; `wake` may be called from any."""

    def __init__(
        self, work: str, *, environment: Mapping[str, str], limits: ChildLimits, on_warm: Callable[[], None]
    ) -> None:
        """Start the child. The calling thread must outlive it: the kernel ties the child's life to that thread."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "nasmesh.jobs.child", work, str(os.getpid()), *_limit_arguments(limits)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Forked copies of a gRPC server must not run its fork handlers; children never speak gRPC of their own.
            env={**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0", "PYTHONUNBUFFERED": "1", **environment},
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self.process_id = self._process.pid
        self._stdin, self._stdout, self._stderr = self._process.stdin, self._process.stdout, self._process.stderr
        self.warm = threading.Event()
        """Set once the child has imported its work."""
        self._on_warm = on_warm
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._readers = [
            threading.Thread(target=self._read_replies, name=f"child-{self.process_id}-replies", daemon=True),
            threading.Thread(target=self._read_stderr, name=f"child-{self.process_id}-stderr", daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def send(self, request: pb.WorkerRequest) -> None:
        """Send one frame; a child that is gone shows as Ended, not here."""
        with contextlib.suppress(OSError, ValueError):
            write_frame(self._stdin.fileno(), request.SerializeToString())

    def next_event(self, timeout_s: float) -> Event | None:
        """Return what happened next, or None after the time."""
        try:
            return self._events.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return None

    def wake(self) -> None:
        """Make `next_event` return."""
        self._events.put(Woken())

    def resident_bytes(self) -> int:
        """Return the resident memory of the child, 0 where it is gone."""
        try:
            fields = Path(f"/proc/{self.process_id}/statm").read_text().split()
        except OSError:
            return 0
        return int(fields[1]) * _PAGE_BYTES if len(fields) > 1 else 0

    def stderr_tail(self) -> str:
        """Return the last lines of standard error, joined."""
        return " | ".join(self._tail)

    def end(self) -> int:
        """End the child and its whole group, politely first, and return its exit code (negative: a signal)."""
        if self.alive:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_TERMINATE_S)
        # Also after a natural end: what the job may have started shares its group.
        self._signal(signal.SIGKILL)
        return self.collect()

    def collect(self) -> int:
        """Wait for a child that has ended or is about to, close the pipes and return its exit code."""
        with contextlib.suppress(OSError):
            self._stdin.close()
        try:
            code = self._process.wait(_TERMINATE_S)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            code = self._process.wait()
        for reader in self._readers:
            reader.join(_TERMINATE_S)
        return code

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process_id, number)

    def _read_replies(self) -> None:
        fault = ""
        try:
            while (content := read_frame(self._stdout.fileno())) is not None:
                reply = pb.WorkerReply.FromString(content)
                if reply.HasField("ready"):
                    self.warm.set()
                    self._on_warm()
                else:
                    self._events.put(Reply(reply))
        except Invalid as error:
            fault = error.message
        except (OSError, ValueError) as error:
            fault = f"the pipe broke: {error}"
        except Exception as error:  # noqa: BLE001 - protobuf raises its own type for bytes that are no frame
            fault = f"no frame: {type(error).__name__}"
        self._events.put(Ended(fault))

    def _read_stderr(self) -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in iter(lambda: self._stderr.readline(1 << 14), b""):
                text = line.decode("utf-8", "replace").rstrip()
                if text:
                    self._tail.append(text[:_LINE_CHARS])
                sys.stderr.write(text + "\n")


def _limit_arguments(limits: ChildLimits) -> list[str]:
    """Return the child's RLIMIT_AS and RLIMIT_DATA; a GPU's driver maps more than it uses: then no data limit."""
    return [str(limits.address_space_bytes), str(0 if has_gpu() else limits.memory_bytes + BURST_BYTES)]
