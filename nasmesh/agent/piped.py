"""`python -m nasmesh.agent.piped`: a generate agent without a scheduler, for replay and rehearsal.

Reads leases as frames on standard input and answers each with its outcome on standard output; the first frame says what
the generate server is. Networks go to memory. Needs onnx, no torch.
"""

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nasmesh.agent.attempt import Attempt, kind_of
from nasmesh.agent.drivers.generate import GenerateDriver
from nasmesh.agent.spool import Spool
from nasmesh.agent.targets import GENERATE, RemoteTarget
from nasmesh.errors import NotFound, Unavailable
from nasmesh.exits import INTERRUPTED, OK, guarded
from nasmesh.flags import FlagParser
from nasmesh.jobs.failures import failure_of
from nasmesh.jobs.frames import read_frame, write_frame
from nasmesh.rpc.access import NO_CLIENT_ACCESS, add_client_flags, client_access
from nasmesh.settings import parse_address, read_settings
from nasmesh.store.base import ObjectStore
from nasmesh.store.memory import MemoryStore
from nasmesh.store.open import open_store
from nasmesh.unpickling import forbid_unpickling
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import object_pb2, search_pb2

SERVER = "generate_svc"
START_S = 60.0
STOP_S = 10.0
_POLL_S = 0.02
_PR_SET_PDEATHSIG = 1


class OverlayStore(MemoryStore):
    """Keeps what is put in memory, and reads what it does not have from another store."""

    def __init__(self, below: ObjectStore) -> None:
        """Lie over a store that is only read."""
        super().__init__()
        self._below = below

    def get(self, ref: object_pb2.ObjectRef) -> bytes:
        """Return the bytes; see ObjectStore.get."""
        try:
            return super().get(ref)
        except NotFound:
            return self._below.get(ref)


def main(argv: Sequence[str] | None = None) -> int:
    """Answer leases until standard input ends; returns 0, 2 for a wrong flag or credential, 3 without a server."""

    def work() -> int:
        flags = _parse(argv)
        access = client_access(flags)
        forbid_unpickling()
        incoming, outgoing = _own_pipes()
        store = OverlayStore(open_store(flags.store)) if flags.store else MemoryStore()
        with tempfile.TemporaryDirectory(prefix="nasmesh-") as folder, _server(flags.target, Path(folder)) as address:
            shown = access if flags.target else NO_CLIENT_ACCESS
            target = RemoteTarget(address, GENERATE, insecure=flags.insecure, access=shown)
            driver = GenerateDriver(target, store)
            write_frame(outgoing, driver.describe().SerializeToString())
            _answer(incoming, outgoing, driver, Spool(Path(folder) / "spool"))
        return OK

    try:
        return guarded(work)
    except BrokenPipeError:
        return INTERRUPTED


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = FlagParser("python -m nasmesh.agent.piped")
    parser.add_argument("--target", default="", metavar="HOST:PORT", help="generate server [a new one]")
    parser.add_argument("--store", default="", metavar="URL", help="read objects that are not proposed here from there")
    parser.add_argument("--insecure", action="store_true", help="dial a target beyond this machine without TLS")
    add_client_flags(parser, read_settings())
    return parser.parse_args(argv)


def _answer(incoming: int, outgoing: int, driver: GenerateDriver, spool: Spool) -> None:
    while (content := read_frame(incoming)) is not None:
        attempt = Attempt(pb.Lease.FromString(content), spool=spool, reported=lambda: None)
        outcome = run(driver, attempt)
        outcome.token.CopyFrom(attempt.token)
        write_frame(outgoing, outcome.SerializeToString())


def run(driver: GenerateDriver, attempt: Attempt) -> pb.AttemptOutcome:
    """Return the outcome of an attempt, a failure where it fails, as the agent would report it."""
    if kind_of(attempt.lease) != search_pb2.TASK_KIND_GENERATE:
        message = "only generate work is done here"
        return pb.AttemptOutcome(failure=search_pb2.Failure(reason="KIND_UNSUPPORTED", message=message))
    try:
        return driver.run(attempt)
    except Exception as error:  # noqa: BLE001 - as the agent does: whatever it was is the attempt's outcome
        return pb.AttemptOutcome(failure=failure_of(error))


def _own_pipes() -> tuple[int, int]:
    """Return the two pipes, moved away from descriptors 0 and 1, so that no print can write into them."""
    incoming, outgoing = os.dup(0), os.dup(1)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.dup2(2, 1)
    os.close(empty)
    return incoming, outgoing


@contextmanager
def _server(target: str, folder: Path) -> Iterator[str]:
    """Give the address of a generate server: the one named, or a new one that ends with this program."""
    if target:
        parse_address(target, field="target")
        yield target
        return
    port_file, log = folder / "port", folder / "log"
    flags = ("--listen", "127.0.0.1:0", "--port-file", str(port_file), "--store", "memory:", "--work-dir", str(folder))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", SERVER, *flags],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_parent,  # nothing here has started a thread yet
        )
    try:
        yield _address(process, port_file, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen[bytes], port_file: Path, log: Path) -> str:
    for _ in range(round(START_S / _POLL_S)):
        if port_file.exists():
            return port_file.read_text(encoding="utf-8").strip()
        try:
            process.wait(_POLL_S)
        except subprocess.TimeoutExpired:
            continue
        break
    words = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
    raise Unavailable("PROGRAM_SILENT", f"{SERVER} does not serve: {words[0][:300]}")


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
