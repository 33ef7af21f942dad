"""Runs a program that we did not write, in any language, where it can hurt nobody: bytes in, bytes out.

Every run starts with nothing but its input and ends with nothing left: no process, no file. Where a program cannot be
shut in, it is not run.
"""

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nasmesh.clock import Clock, SystemClock
from nasmesh.errors import Invalid, NasmeshError, Unavailable
from nasmesh.jobs.confinement import (
    PATH,
    PROGRAM_PLACE,
    READY,
    WORK_PLACE,
    Mount,
    SandboxLimits,
    confined,
    free_user,
    require_tools,
    system_mounts,
    unavailable,
)
from nasmesh.jobs.usage import memory_bytes

_LOOK_S = 0.05
_CHUNK = 1 << 18
_TAIL = 2000
_ENVIRONMENT = {
    "PATH": PATH,
    "HOME": WORK_PLACE,
    "TMPDIR": "/tmp",
    "LANG": "C.UTF-8",
    # Of libraries for linear algebra: each thread counts as a process, and the machine is shared.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


class Sandbox:
    """One program, run as often as wanted; calls may overlap. The caller's copy of the file may change meanwhile."""

    def __init__(
        self,
        program: Path,
        *,
        interpreter: Sequence[str] = (),
        expose: Sequence[Path] = (),
        limits: SandboxLimits | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Keep a copy of the program and try the sandbox.

        `interpreter` starts the file where it cannot start by itself; `expose` are directories that the program may
        read. Raises Unavailable (SANDBOX_UNAVAILABLE), Invalid (PROGRAM_INVALID).
        """
        require_tools()
        self.limits = limits or SandboxLimits()
        self._clock = clock or SystemClock()
        self._interpreter = list(interpreter)
        self._mounts = system_mounts([_folder(path) for path in expose])
        try:
            content = program.read_bytes()
        except OSError as error:
            message = f"program: {program} cannot be read: {error.strerror}"
            raise Invalid("PROGRAM_INVALID", message, field="program") from None
        self._folder = tempfile.TemporaryDirectory(prefix="nasmesh-program-")
        self._place = f"{PROGRAM_PLACE}/{program.name}"
        copy = Path(self._folder.name) / "program"
        copy.write_bytes(content)
        copy.chmod(0o555)
        self._own = Mount(copy, self._place)
        self._try()

    def close(self) -> None:
        """Remove the copy of the program."""
        self._folder.cleanup()

    def run(self, arguments: Sequence[str], content: bytes = b"") -> bytes:
        """Return what the program writes to standard output when it is given `content` on standard input.

        Raises Invalid (PROGRAM_FAILED, PROGRAM_OUT_OF_MEMORY, PROGRAM_OUTPUT_TOO_LARGE), Unavailable
        (PROGRAM_TIMED_OUT, SANDBOX_UNAVAILABLE).
        """
        return self._run([*self._interpreter, self._place, *arguments], content)

    def _try(self) -> None:
        """Run a command that does nothing: a container may forbid to root what this needs."""
        try:
            self._run(["true"], b"")
        except NasmeshError as error:
            self.close()
            raise unavailable(error.message) from None

    def _run(self, command: Sequence[str], content: bytes) -> bytes:
        with tempfile.TemporaryDirectory(prefix="nasmesh-sandbox-", ignore_cleanup_errors=True) as base:
            mounts = [*self._mounts, self._own]
            line = confined(command, base=Path(base), mounts=mounts, user=free_user(), limits=self.limits)
            process = subprocess.Popen(
                [shutil.which(line[0], path=PATH) or line[0], *line[1:]],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )
            run = _Run(process, self.limits, self._clock)
            try:
                return run.converse(content)
            finally:
                run.end()


@dataclass(slots=True)
class _Run:
    """One run: feeds it, listens to it, looks at its memory and the clock, and ends it."""

    process: subprocess.Popen[bytes]
    limits: SandboxLimits
    clock: Clock
    output: bytearray = field(default_factory=bytearray)
    errors: bytearray = field(default_factory=bytearray)
    errors_bytes: int = 0

    def converse(self, content: bytes) -> bytes:
        """Return the program's output once it has ended well."""
        until = self.clock.monotonic() + self.limits.time_s
        looked = -_LOOK_S
        waiting = memoryview(content)
        with selectors.DefaultSelector() as selector:
            waiting = self._register(selector, waiting)
            while any(key.data != "in" for key in selector.get_map().values()):
                now = self.clock.monotonic()
                left = until - now
                if left <= 0:
                    raise self._timed_out()
                # Not at every piece of an answer: a look costs more than a piece does.
                if now - looked >= _LOOK_S:
                    looked = now
                    self._look()
                for key, _ in selector.select(min(_LOOK_S, left)):
                    if key.data == "in":
                        waiting = self._feed(selector, waiting)
                    else:
                        self._listen(selector, key)
        return self._result(max(0.0, until - self.clock.monotonic()))

    def end(self) -> None:
        """End everything that the run has started, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()

    def _register(self, selector: selectors.BaseSelector, waiting: memoryview) -> memoryview:
        process = self.process
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise RuntimeError("the pipes of a sandbox were not made")
        for pipe in (process.stdin, process.stdout, process.stderr):
            os.set_blocking(pipe.fileno(), False)
        selector.register(process.stdout, selectors.EVENT_READ, "out")
        selector.register(process.stderr, selectors.EVENT_READ, "err")
        selector.register(process.stdin, selectors.EVENT_WRITE, "in")
        return waiting

    def _feed(self, selector: selectors.BaseSelector, waiting: memoryview) -> memoryview:
        stdin = self.process.stdin
        if stdin is None:
            return waiting
        try:
            waiting = waiting[os.write(stdin.fileno(), waiting[:_CHUNK]) :]
        except BlockingIOError:
            return waiting
        except OSError:
            waiting = waiting[:0]  # a program may end without reading everything
        if not waiting:
            selector.unregister(stdin)
            with contextlib.suppress(OSError):
                stdin.close()
        return waiting

    def _listen(self, selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
        try:
            part = os.read(key.fd, _CHUNK)
        except BlockingIOError:
            return
        if not part:
            selector.unregister(key.fileobj)
        elif key.data == "out":
            self.output += part
            self._check_size("output", len(self.output) - len(READY))
        else:
            self.errors_bytes += len(part)
            self.errors = (self.errors + part)[-_TAIL:]
            self._check_size("error", self.errors_bytes)

    def _check_size(self, stream: str, size: int) -> None:
        limit = self.limits.output_bytes
        if size > limit:
            message = f"the program wrote more than {limit} bytes to standard {stream}"
            raise Invalid("PROGRAM_OUTPUT_TOO_LARGE", message, field="program")

    def _look(self) -> None:
        used = memory_bytes(self.process.pid) if self.output else 0
        limit = self.limits.memory_bytes
        if used > limit:
            message = f"the program holds {used >> 20} MiB, more than the {limit >> 20} MiB it may have"
            raise Invalid("PROGRAM_OUT_OF_MEMORY", message, field="program")

    def _result(self, left_s: float) -> bytes:
        try:
            # A program that closes its output and goes on is still bounded by its time.
            code = self.process.wait(left_s)
        except subprocess.TimeoutExpired:
            raise self._timed_out() from None
        if not self.output.startswith(READY):
            raise unavailable(self._last_words() or f"it ended with {code}")
        if code:
            how = f"was ended by signal {code - 128}" if code > 128 else f"exited with {code}"
            words = self._last_words()
            message = f"the program {how}{f'; it said: {words}' if words else ''}"
            raise Invalid("PROGRAM_FAILED", message, field="program")
        return bytes(self.output[len(READY) :])

    def _timed_out(self) -> Unavailable:
        message = f"the program took more than {self.limits.time_s:g} s"
        return Unavailable("PROGRAM_TIMED_OUT", message, field="program")

    def _last_words(self) -> str:
        lines = self.errors.decode("utf-8", "replace").split("\n")
        text = " | ".join(line.strip() for line in lines[-6:] if line.strip())
        return "".join(char if char.isprintable() else "?" for char in text)[-600:]


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise Invalid("EXPOSE_INVALID", f"program-reads: {path} is no directory", field="program-reads")
    return path.absolute()
