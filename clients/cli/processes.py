"""The programs of a local mesh as child processes: started, waited for, restarted when they die, stopped."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

from clients.cli.serving import await_health
from nasmesh.client.patience import Patience
from nasmesh.clock import Clock, SystemClock
from nasmesh.errors import Conflict, NasmeshError, Unavailable
from nasmesh.rpc.access import ACCESS_VARIABLES, NO_CLIENT_ACCESS, ClientAccess
from nasmesh.settings import parse_address

START_S = 90.0  # importing torch from a cold disk on a busy machine
STOP_S = 15.0  # a drained server ends far sooner; then it is killed
_POLL_S = 0.02
_WATCH_S = 0.25
_HEALTH_S = 10.0
_RESTARTS = 3  # deaths of one program within the time below before it is given up: it dies of its own fault
_RESTARTS_WITHIN_S = 600.0
_HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Program:
    """One program: its name, module and default port, with further arguments; `metrics`: where it serves them."""

    name: str
    module: str
    port: int
    arguments: tuple[str, ...] = ()
    metrics: str = ""

    def flags(self) -> tuple[str, ...]:
        """Return its own arguments on the command line."""
        return (*self.arguments, *(("--metrics", self.metrics) if self.metrics else ()))


@dataclass(slots=True)
class _Child:
    """A started program."""

    program: Program
    process: subprocess.Popen[bytes]
    port_file: Path
    log: Path
    deaths: tuple[float, ...] = ()  # the latest ones, in seconds of the monotonic clock


@dataclass(slots=True)
class LocalMesh:
    """A scheduler and its servers on loopback; a context manager that always stops what it started.

    `say` gets a sentence for people whenever a program had to be restarted.
    """

    home: Path
    programs: Sequence[Program]
    any_port: bool
    say: Callable[[str], None]
    access: ClientAccess = NO_CLIENT_ACCESS
    """How the programs, and we, are known to the first of them."""
    clock: Clock = field(default_factory=SystemClock)
    addresses: dict[str, str] = field(default_factory=dict)
    failure: NasmeshError | None = None
    _children: dict[str, _Child] = field(default_factory=dict)
    _lock: IO[str] | None = None
    _stopping: threading.Event = field(default_factory=threading.Event)
    _unwatched: threading.Event = field(default_factory=threading.Event)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _watcher: threading.Thread | None = None

    def __enter__(self) -> "LocalMesh":
        """Start all programs: the scheduler first, then its servers at once.

        Raises Conflict (HOME_IN_USE), Unavailable (PORT_IN_USE, PROGRAM_ENDED, PROGRAM_SILENT).
        """
        try:
            self._lock_home()
            first, *others = self.programs
            self._check_ports()
            self._spawn(first, ())
            self.addresses[first.name] = self._await_address(first.name)
            for program in others:
                self._spawn(program, self._joining(first))
            for program in others:
                self.addresses[program.name] = self._await_address(program.name)
            for program in self.programs:
                self._await_health(program.name, self.access if program is first else NO_CLIENT_ACCESS)
        except BaseException:
            self.stop()
            raise
        self._watcher = threading.Thread(target=self._watch, name="mesh-watch", daemon=True)
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything."""
        self.stop()

    def _joining(self, first: Program) -> tuple[str, ...]:
        return ("--scheduler", self.addresses[first.name], *self.access.flags())

    def wait(self) -> None:
        """Block until interrupted, or until a program has died for good; raises what it died of."""
        while not self._stopping.wait(_WATCH_S):
            if self.failure is not None:
                raise self.failure

    def stop(self) -> None:
        """Ask the servers to drain, then the scheduler; kill what takes too long, on a second Ctrl-C at once."""
        self._stopping.set()
        names = list(self._children)
        try:
            if self._watcher is not None:
                self._unwatched.wait()
            for group in (names[1:], names[:1]):
                self._terminate([self._children[name] for name in group])
        except KeyboardInterrupt:
            pass
        finally:
            for child in self._children.values():
                if child.process.poll() is None:
                    child.process.kill()
                child.process.wait()
            self._children.clear()
            self._stopped.set()
            if self._watcher is not None:
                self._watcher.join()
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    def _terminate(self, children: Sequence[_Child]) -> None:
        for child in children:
            if child.process.poll() is None:
                child.process.terminate()
        limit = self.clock.monotonic() + STOP_S
        for child in children:
            try:
                child.process.wait(max(0.0, limit - self.clock.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()

    def _lock_home(self) -> None:
        """Keep a second mesh away from the same journal and objects."""
        self.home.mkdir(parents=True, exist_ok=True)
        path = self.home / "mesh.lock"
        lock = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            owner = lock.read(20).strip() or "unknown"
            lock.close()
            raise Conflict(
                "HOME_IN_USE",
                f"NASMESH_HOME: {self.home} is used by another `nasmesh up` (process {owner}); "
                "stop that one, or name another folder",
                field="NASMESH_HOME",
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock

    def _check_ports(self) -> None:
        """Say which port is taken before anything is started."""
        for program in self.programs:
            if not self.any_port:
                _check_free(_HOST, program.port, program.name, "add --any-port")
            if program.metrics:
                host, port = parse_address(program.metrics)
                _check_free(host, port, f"{program.name}'s metrics", "choose another NASMESH_METRICS")

    def _spawn(self, program: Program, arguments: tuple[str, ...], *, port: int | None = None) -> None:
        run, logs = self.home / "run", self.home / "logs"
        run.mkdir(parents=True, exist_ok=True)
        logs.mkdir(parents=True, exist_ok=True)
        port_file, log = run / f"{program.name}.port", logs / f"{program.name}.log"
        port_file.unlink(missing_ok=True)
        known = self._children.get(program.name)
        if known is None and log.exists():
            os.replace(log, log.with_suffix(".previous.log"))
        wanted = port if port is not None else 0 if self.any_port else program.port
        flags = ("--listen", f"{_HOST}:{wanted}", "--port-file", str(port_file), *program.flags(), *arguments)
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "clients.cli.lifeline", str(os.getpid()), program.module, *flags],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(self.home),
                start_new_session=True,  # Ctrl-C is for us; we stop the programs in order
            )
        self._children[program.name] = _Child(program, process, port_file, log, known.deaths if known else ())

    def _await_address(self, name: str) -> str:
        child = self._children[name]
        limit = self.clock.monotonic() + START_S
        while self.clock.monotonic() < limit:
            if child.port_file.exists():
                return child.port_file.read_text(encoding="utf-8").strip()
            if child.process.poll() is not None:
                raise self._ended(child)
            self._stopping.wait(_POLL_S)
        raise Unavailable("PROGRAM_SILENT", f"the {name} program does not serve after {START_S:.0f} s; see {child.log}")

    def _await_health(self, name: str, access: ClientAccess) -> None:
        """Return once a program says that it serves; raises Unavailable when it ends or does not in a few seconds."""
        child = self._children[name]

        def pause(seconds: float) -> None:
            if child.process.poll() is not None:  # the scheduler has refused it, say: its last words say why
                raise self._ended(child) from None
            self._stopping.wait(seconds)

        await_health(self.addresses[name], access, Patience(_HEALTH_S, pause=pause))

    def _ended(self, child: _Child) -> Unavailable:
        code = child.process.returncode
        if code < 0:  # what it logged last is not why
            how = f"was killed by signal {signal.Signals(-code).name}"
        else:
            how = f"ended with exit code {code}: {_last_line(child.log)}"
        return Unavailable("PROGRAM_ENDED", f"the {child.program.name} program {how}; its log is {child.log}")

    def _watch(self) -> None:
        """Restart programs that die; nothing is lost by it, as the mesh recovers from the death of any of them.

        Returns only when all have stopped: a program is told to stop when the thread that started it ends.
        """
        try:
            while not self._stopping.wait(_WATCH_S):
                for name, child in list(self._children.items()):
                    if child.process.poll() is not None and not self._stopping.is_set():
                        self._revive(name, child)
        finally:
            self._unwatched.set()
            self._stopped.wait()

    def _revive(self, name: str, child: _Child) -> None:
        error = self._ended(child)
        now = self.clock.monotonic()
        child.deaths = (*(then for then in child.deaths if then > now - _RESTARTS_WITHIN_S), now)
        if len(child.deaths) > _RESTARTS or self.failure is not None:
            if self.failure is None:
                self.failure = error
                os.kill(os.getpid(), signal.SIGINT)  # wakes whoever waits for a search in the main thread
            return
        first = self.programs[0]
        arguments = () if name == first.name else self._joining(first)
        self._spawn(child.program, arguments, port=int(self.addresses[name].rpartition(":")[2]))
        self.say(f"{error.message}; it was started again")


def _check_free(host: str, port: int, what: str, otherwise: str) -> None:
    """Raise Unavailable (PORT_IN_USE) where something serves there; port 0 is never taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise Unavailable(
                "PORT_IN_USE", f"port {port} of {what} is in use; stop the program there or {otherwise}", field="port"
            ) from error


def _environment(home: Path) -> dict[str, str]:
    """Return our environment for a program, whose access its flags say in full."""
    kept = {name: value for name, value in os.environ.items() if name not in ACCESS_VARIABLES}
    return {**kept, "NASMESH_HOME": str(home), "GRPC_ENABLE_FORK_SUPPORT": "0"}


def _last_line(log: Path) -> str:
    """Return the last line of a log for a message: what a program that ends by itself says."""
    try:
        lines = log.read_bytes()[-8192:].decode(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1].strip()[:300] if lines else "it logged nothing"
