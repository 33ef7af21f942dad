"""A real mesh for tests: the four programs as processes, each of which can be killed, stopped and started again.

Everything is awaited through processes and port files; whatever was started is gone when the mesh is closed.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from nasmesh.client import Client
from tests.builders.addresses import address_of, hold

ROOT = Path(__file__).resolve().parents[2]
GRPCURL = ROOT / ".tools" / "bin" / "grpcurl"
MODULES = {"scheduler": "scheduler", "generate": "generate_svc", "train": "train_svc", "evaluate": "evaluate_svc"}
START_S = 60.0
STOP_S = 20.0
_POLL_S = 0.05
_LOG_CHARS = 6000

OPEN: list["Mesh"] = []
"""Meshes that run now; their logs are shown when a test fails."""


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


@dataclass(slots=True)
class _Running:
    process: subprocess.Popen[bytes]
    address: str


@dataclass(slots=True)
class Mesh:
    """One scheduler and one server of each kind on loopback, with one slot each; a context manager."""

    home: Path
    arguments: dict[str, tuple[str, ...]] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    """More of the environment of every program and command."""
    _running: dict[str, _Running] = field(default_factory=dict)
    _seen: dict[int, psutil.Process] = field(default_factory=dict)
    _held: dict[str, socket.socket] = field(default_factory=dict)

    def __enter__(self) -> "Mesh":
        self.home.mkdir(parents=True, exist_ok=True)
        OPEN.append(self)
        try:
            self.start("scheduler")
            for name in list(MODULES)[1:]:
                self.spawn(name)
            for name in list(MODULES)[1:]:
                self.await_serving(name)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        if kind is not None:
            sys.stderr.write(self.logs())  # pytest shows it with the failure
        self.close()

    # --- one program --------------------------------------------------------------------------------------------

    def start(self, name: str, *, listen: str = "") -> str:
        """Start a program, wait until it serves and return its address."""
        self.spawn(name, listen=listen)
        return self.await_serving(name)

    def spawn(self, name: str, *, listen: str = "") -> None:
        """Start a program and do not wait; "train-2" is another of the kind "train"."""
        assert name not in self._running, f"{name} runs already"
        self._port_file(name).unlink(missing_ok=True)
        flags = ["--listen", listen or self._own_address(name), "--port-file", str(self._port_file(name))]
        if name != "scheduler":
            flags += ["--scheduler", self.addresses["scheduler"]]
        with self._log(name).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", MODULES[name.partition("-")[0]], *flags, *self.arguments.get(name, ())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment(),
                cwd=ROOT,
                start_new_session=True,
            )
        self._running[name] = _Running(process, "")
        self._seen[process.pid] = psutil.Process(process.pid)

    def await_serving(self, name: str) -> str:
        """Return the address of a started program once it has written it; fail with its log when it ends first."""
        running = self._running[name]
        running.address = await_port_file(running.process, self._port_file(name))
        self.addresses[name] = running.address
        return running.address

    def kill9(self, name: str) -> None:
        """Kill a program at once; its children are left to notice by themselves."""
        self._remember()
        running = self._running.pop(name)
        running.process.kill()
        running.process.wait()

    def restart(self, name: str) -> None:
        """Start a program that is gone at the address where it served before."""
        self.start(name, listen=self.addresses[name])

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> int:
        """End a program with a signal and return its exit code."""
        self._remember()
        running = self._running.pop(name)
        running.process.send_signal(number)
        return running.process.wait(STOP_S)

    def pid(self, name: str) -> int:
        """Return the process id of a running program."""
        return self._running[name].process.pid

    def children(self, name: str) -> list[psutil.Process]:
        """Return the processes below a program."""
        found = psutil.Process(self.pid(name)).children(recursive=True)
        self._seen.update({process.pid: process for process in found})
        return found

    # --- talking to it --------------------------------------------------------------------------------------------

    def client(self, *, patience_s: float = 60.0) -> Client:
        """Return a client that outlives a restart of the scheduler."""
        return Client(self.addresses["scheduler"], patience_s=patience_s)

    def environment(self) -> dict[str, str]:
        """Return the environment of every program and command of this mesh."""
        return (
            clean_environment(self.home)
            | self.variables
            | ({"NASMESH_SCHEDULER": self.addresses["scheduler"]} if "scheduler" in self.addresses else {})
        )

    def nasmesh(self, *arguments: str, timeout_s: float = 60.0) -> Finished:
        """Run the command line in this mesh's home and wait for it."""
        return nasmesh(self.environment(), *arguments, timeout_s=timeout_s)

    # --- the end --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End everything that was started, whatever state it is in; nothing is left behind."""
        if self in OPEN:
            OPEN.remove(self)
        self._remember()
        for running in self._running.values():
            running.process.kill()
        for running in self._running.values():
            running.process.wait()
        self._running.clear()
        for held in self._held.values():
            held.close()
        self._held.clear()
        kill_all(list(self._seen.values()))

    @property
    def running(self) -> set[str]:
        """Return the names of the programs that run, as far as this mesh started them."""
        return set(self._running)

    def logs(self) -> str:
        """Return the ends of all logs."""
        parts = []
        for path in sorted((self.home / "logs").glob("*.log")):
            parts.append(f"--- {path.name}\n{path.read_text(errors='replace')[-_LOG_CHARS:]}")
        return "\n".join(parts)

    def _remember(self) -> None:
        for name, running in self._running.items():
            if running.process.poll() is None:
                self.children(name)

    def _own_address(self, name: str) -> str:
        """Return an address that nobody else is given until the mesh is closed, also while its program is killed."""
        if name not in self._held:
            self._held[name] = hold()
        return address_of(self._held[name])

    def _port_file(self, name: str) -> Path:
        return self.home / f"{name}.port"

    def _log(self, name: str) -> Path:
        path = self.home / "logs" / f"{name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def clean_environment(home: Path) -> dict[str, str]:
    """Return this environment with a home of its own and none of our variables from outside but where the data is."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("NASMESH_")}
    data = os.environ.get("NASMESH_DATA")
    return {
        **kept,
        **({"NASMESH_DATA": data} if data else {}),
        "NASMESH_HOME": str(home),
        "GRPC_ENABLE_FORK_SUPPORT": "0",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }


def nasmesh(environment: dict[str, str], *arguments: str, timeout_s: float = 60.0) -> Finished:
    """Run the command line and wait for it."""
    done = subprocess.run(
        command(*arguments), env=environment, capture_output=True, text=True, timeout=timeout_s, cwd=ROOT
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def command(*arguments: str) -> list[str]:
    """Return the command line of `nasmesh` as this interpreter runs it, installed or not."""
    return [sys.executable, "-m", "clients.cli.main", *arguments]


def await_port_file(process: subprocess.Popen[bytes], path: Path, *, timeout_s: float = START_S) -> str:
    """Return the address in a port file once it is there; fail when the process ends or the time is over."""
    limit = time.monotonic() + timeout_s
    while not path.exists():
        assert time.monotonic() < limit, f"{path.name} is not written after {timeout_s:.0f} s"
        try:
            code = process.wait(_POLL_S)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(f"{path.name}: the program ended with exit code {code} before it served")
    return path.read_text().strip()


def kill_all(processes: Sequence[psutil.Process]) -> None:
    """Kill processes that still run, each by its id, and wait for them."""
    left = [process for process in processes if process.is_running()]
    for process in left:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(left, timeout=STOP_S)


def survivors(processes: Sequence[psutil.Process], *, timeout_s: float = STOP_S) -> list[str]:
    """Return the command lines of processes that still run after a time in which they could end."""
    _, alive = psutil.wait_procs(list(processes), timeout=timeout_s)
    left = []
    for process in alive:
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                left.append(f"{process.pid} {' '.join(process.cmdline())}")
        except psutil.NoSuchProcess:
            continue
    return left
