"""A real generator for replay and rehearsal: leases go down a pipe to a generate agent, outcomes come back."""

import os
import subprocess
import sys
import tempfile
from types import TracebackType
from typing import IO

from nasmesh.errors import Invalid, NasmeshError, Unavailable
from nasmesh.jobs.frames import read_frame, write_frame
from nasmesh.rpc.access import ACCESS_VARIABLES, NO_CLIENT_ACCESS, ClientAccess
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import job_pb2

AGENT = "nasmesh.agent.piped"
STOP_S = 15.0
_WRONG_FLAG = 2
_WORDS = 8192
_NOT_FOR_CHILDREN = ACCESS_VARIABLES | {"NASMESH_METRICS"}


class PipedGenerator:
    """The agent as a process; a context manager that always ends it. Answers one lease at a time."""

    def __init__(
        self, *, target: str = "", store: str = "", insecure: bool = False, access: ClientAccess = NO_CLIENT_ACCESS
    ) -> None:
        """Name the generate server, else one is started, and the store for objects that no proposal here made.

        `access` is what the named server is shown.
        """
        given = (("--target", target), ("--store", store))
        flags = [part for name, value in given if value for part in (name, value)]
        self._command = [sys.executable, "-m", AGENT, *flags, *(["--insecure"] if insecure else []), *access.flags()]
        # What the environment says of servers is not for the one that is started here, for this process alone.
        self._environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_CHILDREN}
        self._process: subprocess.Popen[bytes] | None = None
        self._words: IO[bytes] | None = None
        self.server = job_pb2.Server()

    def __enter__(self) -> "PipedGenerator":
        """Start the agent; raises Unavailable (GENERATOR_ABSENT), Invalid (GENERATOR_INVALID) for a wrong flag."""
        self._words = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._words, env=self._environment
        )
        try:
            self.server = job_pb2.Server.FromString(self._read())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the agent."""
        self.close()

    def ask(self, lease: pb.Lease) -> pb.AttemptOutcome:
        """Return what an agent makes of a generate lease; raises Unavailable (GENERATOR_ABSENT) where it has ended."""
        process = self._running()
        if process.stdin is None:
            raise self._absent()
        try:
            write_frame(process.stdin.fileno(), lease.SerializeToString())
        except OSError as error:
            raise self._absent() from error
        return pb.AttemptOutcome.FromString(self._read())

    def close(self) -> None:
        """End the agent: it stops at the end of its input."""
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self._words is not None:
            self._words.close()
            self._words = None

    def _read(self) -> bytes:
        process = self._running()
        content = read_frame(process.stdout.fileno()) if process.stdout is not None else None
        if content is None:
            raise self._absent()
        return content

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise self._absent()
        return self._process

    def _absent(self) -> NasmeshError:
        """Return why there is no answer: in the agent's own last words."""
        process = self._process
        try:
            code = process.wait(STOP_S) if process is not None else None
        except subprocess.TimeoutExpired:
            code = None
        lines: list[str] = []
        if self._words is not None:
            self._words.seek(0)
            lines = self._words.read()[-_WORDS:].decode(errors="replace").strip().splitlines()
        said = next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1] if lines else "")
        words = said.removeprefix("error: ") or f"the generate agent has ended without a word (exit code {code})"
        if code == _WRONG_FLAG:
            return Invalid("GENERATOR_INVALID", words)
        return Unavailable("GENERATOR_ABSENT", words)
