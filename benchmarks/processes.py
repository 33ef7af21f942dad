"""Programs that a benchmark measures or loads with: started, asked, restarted, weighed and ended."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import psutil

from scheduler import compiled

START_S = 60.0
POLL_S = 0.002


class Program:
    """A process of this interpreter that writes its address to a port file once it serves; ended with the block."""

    def __init__(self, module: str, directory: Path, *arguments: str, listen: str = "127.0.0.1:0") -> None:
        """Start `python -m module` with its files in `directory`, and wait until it serves."""
        self._command = [sys.executable, "-m", module, *arguments]
        self._directory = directory
        self._listen = listen
        self.address = ""
        self.start()
        if module == "scheduler":
            print(f"a scheduler that is {'compiled' if compiled.is_built() else 'not compiled'} (make compile)")

    def start(self) -> None:
        """Start it, where it served before if it did."""
        port_file = self._directory / "port"
        port_file.unlink(missing_ok=True)
        where = ["--listen", self.address or self._listen, "--port-file", str(port_file)]
        log = (self._directory / "log").open("ab")
        self._process = subprocess.Popen(
            [*self._command, *where], env=environment(self._directory), stdin=subprocess.DEVNULL, stderr=log
        )
        log.close()
        until = time.perf_counter() + START_S
        while not port_file.exists():
            if self._process.poll() is not None or time.perf_counter() > until:
                last = (self._directory / "log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self._command} does not serve (exit code {self._process.poll()}): {last}")
            time.sleep(POLL_S)
        self.address = port_file.read_text().strip()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def resident_bytes(self) -> int:
        """Return its resident memory."""
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def processor_s(self) -> float:
        """Return the processor time it has used, all threads."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(START_S)

    def __enter__(self) -> Self:
        """Serve within the block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(START_S)


class Worker:
    """A process that obeys JSON lines on its standard input and answers each with one on its output."""

    def __init__(self, command: Sequence[str], *, directory: Path, name: str) -> None:
        """Start it; its standard error goes to a file in `directory`."""
        self._name = name
        self._log = directory / f"{name}.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command],
                env=environment(directory),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def tell(self, **order: object) -> None:
        """Send an order; `answer` reads what came of it."""
        _pipe(self._process.stdin).write(json.dumps(order) + "\n")
        _pipe(self._process.stdin).flush()

    def answer(self) -> dict[str, Any]:
        """Wait for the next answer; raises RuntimeError with the end of its log where the process has ended."""
        line = _pipe(self._process.stdout).readline()
        if not line:
            last = self._log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{self._name} has ended (exit code {self._process.poll()}): {last}")
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, **order: object) -> dict[str, Any]:
        """Send an order and wait for its answer."""
        self.tell(**order)
        return self.answer()

    def __enter__(self) -> Self:
        """Work within the block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait(START_S)
        for pipe in (self._process.stdin, self._process.stdout):
            _pipe(pipe).close()


def python_worker(module: str, directory: Path, *arguments: str, name: str = "") -> Worker:
    """Start `python -m module` as a worker."""
    return Worker(
        [sys.executable, "-m", module, *arguments], directory=directory, name=name or module.rpartition(".")[2]
    )


def environment(home: Path) -> Mapping[str, str]:
    """Return this environment with a home of its own, none of a person's settings, and no proxy."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NASMESH_")}
    return {
        **kept,
        "NASMESH_HOME": str(home),
        "NASMESH_LOG_LEVEL": "warning",
        "GRPC_ENABLE_FORK_SUPPORT": "0",
        # As our scheduler sets it for itself, for every server and client here: it costs each a fifth less a message.
        "GRPC_EXPERIMENTS": "-event_engine_client,-event_engine_listener",
    }


def _pipe(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise RuntimeError("this process has no pipe")
    return pipe
