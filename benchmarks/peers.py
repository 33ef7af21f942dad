"""Other services at the same work: as many clients take a trial, do nothing, complete it. `make peers` installs them.

Each runs in an environment of its own under .tools/peers, its storage in a temporary directory on this disk.
"""

import contextlib
import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import START_S, environment

TOOLS = Path(".tools/peers")
HERE = Path(__file__).parent
# Client processes; each has its share of the clients as threads. Two saturate every peer here.
PROCESSES = 2


@dataclass(frozen=True, slots=True)
class Peer:
    """Another service. `rate` returns its trials a second: (directory, clients, seconds)."""

    name: str
    label: str
    rate: Callable[[Path, int, float], float]


class PeerAbsentError(Exception):
    """A peer that is not installed, or does not run here; the message says why."""


def optuna_memory(_: Path, clients: int, seconds: float) -> float:  # noqa: ARG001 - one client is its best
    """Return the rate of Optuna in one process, in memory: neither shared nor durable."""
    return _clients([_optuna("--url", "memory:", "--clients", "1", "--seconds", str(seconds))], seconds)


def optuna_sqlite(directory: Path, clients: int, seconds: float) -> float:
    """Return the rate of Optuna's gRPC proxy over SQLite."""
    return _optuna_proxy(f"sqlite:{directory / 'optuna.db'}", clients, seconds)


def optuna_journal(directory: Path, clients: int, seconds: float) -> float:
    """Return the rate of Optuna's gRPC proxy over a journal file."""
    return _optuna_proxy(f"journal:{directory / 'optuna.log'}", clients, seconds)


def vizier(directory: Path, clients: int, seconds: float) -> float:
    """Return the rate of Vizier's service over SQLite with its random designer."""
    program = [_python("vizier"), str(HERE / "peer_vizier.py")]
    with _serving([*program, "--serve", str(directory / "vizier.db")]) as server:
        line = server.stdout.readline() if server.stdout else ""
        if not line:
            raise PeerAbsentError("its service does not start")
        command = [*program, "--address", json.loads(line)["address"], "--seconds", str(seconds)]
        return _clients([[*command, "--clients", str(clients // PROCESSES)]] * PROCESSES, seconds)


PEERS = (
    Peer("optuna_memory", "Optuna in one process, in memory, not durable", optuna_memory),
    Peer("optuna_journal", "Optuna, gRPC proxy over a journal file", optuna_journal),
    Peer("optuna_sqlite", "Optuna, gRPC proxy over SQLite", optuna_sqlite),
    Peer("vizier", "Vizier's service over SQLite, random designer", vizier),
)


def _optuna_proxy(storage: str, clients: int, seconds: float) -> float:
    port = _free_port()
    with _serving(_optuna("--url", storage, "--serve", str(port))):
        share = ("--clients", str(clients // PROCESSES), "--seconds", str(seconds))
        return _clients([_optuna("--url", f"grpc:127.0.0.1:{port}", *share)] * PROCESSES, seconds)


def _optuna(*arguments: str) -> list[str]:
    return [_python("optuna"), str(HERE / "peer_optuna.py"), *arguments]


def _python(peer: str) -> str:
    path = TOOLS / peer / "bin" / "python"
    if not path.exists():
        raise PeerAbsentError("not installed; `make peers` installs it")
    return str(path)


@contextlib.contextmanager
def _serving(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a server within the block."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(TOOLS),
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(START_S)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _clients(commands: list[list[str]], seconds: float) -> float:
    """Run client processes side by side and return the trials a second of all."""
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(TOOLS))
        for command in commands
    ]
    rate = 0.0
    try:
        for process in running:
            out, err = process.communicate(timeout=seconds + START_S)
            if process.returncode:
                raise PeerAbsentError(f"its client failed: {err.strip().splitlines()[-1][:200] if err.strip() else ''}")
            found = json.loads(out.strip().splitlines()[-1])
            rate += found["trials"] / found["seconds"]
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait(START_S)
    return rate


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
