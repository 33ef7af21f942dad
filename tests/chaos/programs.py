"""Real programs to be killed: started at an address they keep, killed as by `kill -9`, started again."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.mesh import ROOT, await_port_file, clean_environment


class Program:
    """One program with its command line; it is killed with its whole process group."""

    def __init__(self, home: Path, name: str, command: Sequence[str], *, served: bool = True) -> None:
        self._home = home
        self._name = name
        self._port_file = home / f"{name}.port"
        self._command = [*command, *(["--port-file", str(self._port_file)] if served else [])]
        self._served = served
        self._process: subprocess.Popen[bytes] | None = None
        self.log = home / f"{name}.log"
        self.deaths = 0

    def start(self, **environment: str) -> None:
        """Start it, and wait until it serves, if it does."""
        self._port_file.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**clean_environment(self._home), **environment},
                cwd=ROOT,
                start_new_session=True,
            )

    def await_serving(self) -> bool:
        """Wait until it serves; returns whether it did: a failpoint may have killed it before."""
        assert self._process is not None
        try:
            await_port_file(self._process, self._port_file)
        except AssertionError:
            if self._process.poll() != -signal.SIGKILL:
                raise
            return False
        return True

    def kill(self) -> None:
        """Kill it at once, and what it started."""
        if self._process is None:
            return
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        self.deaths += 1

    @property
    def pid(self) -> int:
        """Return its process id."""
        assert self._process is not None
        return self._process.pid

    def exit_code(self) -> int | None:
        """Return how it ended; None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def has_died(self) -> bool:
        """Say whether it is gone; anything but a kill is an error of the program, told with the end of its log."""
        assert self._process is not None
        code = self._process.poll()
        assert code in (None, -signal.SIGKILL), f"{self._name} ended with {code}: {self.log.read_text()[-3000:]}"
        return code is not None

    def close(self) -> None:
        """End it for good."""
        deaths = self.deaths
        self.kill()
        self.deaths = deaths


def scheduler(home: Path, address: str, *, journal_at: Path | None = None) -> Program:
    """Return a scheduler with its journal and store below a directory, or its journal in another."""
    journal, store = f"sqlite:{(journal_at or home) / 'journal.db'}", f"dir:{home / 'objects'}"
    return Program(home, "scheduler", ["-m", "scheduler", "--listen", address, "--journal", journal, "--store", store])
