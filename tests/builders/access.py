"""Authorities, certificates and tokens in a directory, and bare servers of both kinds behind a door."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from nasmesh.clock import Clock, ManualClock, SystemClock
from nasmesh.rpc import tokens
from nasmesh.rpc.access import ClientAccess, ServerAccess
from nasmesh.rpc.authority import Signer, Wish, new_signer, sign
from nasmesh.rpc.rates import Rate, Rates
from nasmesh.rpc.secret_files import write_public, write_secret
from nasmesh.rpc.server import Door, RunningServer, Service, serve_aio, serve_threads

DAY_S = 86_400.0
UNLIMITED = Rates(Rate(1e9, 1e9), Rate(1e9, 1e9), Rate(1e9, 1e9), watches=10**6)
HERE = ("localhost", "127.0.0.1", "::1")


def in_days(days: float) -> Clock:
    """Return a clock that stands so many days from now."""
    return ManualClock(wall=SystemClock().wall() + days * DAY_S)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key in files."""

    cert: Path
    key: Path


class Authority:
    """A private authority whose files lie in one directory."""

    def __init__(self, directory: Path, *, signer: Signer | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.signer = signer or new_signer()
        from cryptography.hazmat.primitives.serialization import Encoding

        self.ca = directory / "ca.crt"
        write_public(self.ca, self.signer.certificate.public_bytes(Encoding.PEM), field="test", replace=True)

    def pair(
        self,
        role: str,
        name: str,
        *,
        days: float = 7.0,
        issued: float = 0.0,
        hosts: tuple[str, ...] = HERE,
        file: str = "",
    ) -> Pair:
        """Write a pair issued so many days from now."""
        wish = Wish(role, name, days, hosts if role == "server" else ())
        cert, key = sign(self.signer, wish, clock=in_days(issued))
        found = Pair(
            self.directory / f"{file or f'{role}-{name}'}.crt", self.directory / f"{file or f'{role}-{name}'}.key"
        )
        write_public(found.cert, cert, field="test", replace=True)
        write_secret(found.key, key, field="test", replace=True)
        return found


@dataclass
class Mesh:
    """What a server and its callers need: files below one directory."""

    directory: Path
    authority: Authority
    server: Pair
    tokens: Path

    def token(self, name: str, scope: str, *, days: float = 30.0, issued: float = 0.0, file: str = "") -> Path:
        """Create a token and return the file that holds it."""
        text, _ = tokens.create(self.tokens, name, tokens.parse_scopes(scope), days=days, clock=in_days(issued))
        path = self.directory / f"{file or name}.token"
        write_secret(path, text.encode(), field="test", replace=True)
        return path

    def access(self, *, mutual: bool = False, tokens: bool = False) -> ServerAccess:
        """Return what a server is given: TLS, with certificates or tokens asked for."""
        return ServerAccess(
            self.server.cert, self.server.key, self.authority.ca if mutual else None, self.tokens if tokens else None
        )

    def client(self, pair: Pair | None = None, token: Path | None = None) -> ClientAccess:
        """Return what a caller is given."""
        return ClientAccess(self.authority.ca, pair.cert if pair else None, pair.key if pair else None, token)


def make_mesh(directory: Path) -> Mesh:
    """Return a mesh with an authority, a server's pair and an empty tokens file."""
    authority = Authority(directory / "certs")
    made = Mesh(directory, authority, authority.pair("server", "test"), directory / "tokens.json")
    write_secret(made.tokens, b'{"version": 1, "tokens": []}', field="test", replace=True)
    return made


class AioRunning:
    """An asyncio server on a thread of its own, called from outside like the threaded one."""

    def __init__(self, services: list[Service], door: Door) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        try:
            self.server = self.wait(serve_aio(services, "127.0.0.1:0", door=door))
        except BaseException:
            self._end()
            raise
        self.address = self.server.address
        self.gate = self.server.gate

    def wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=30)

    def stop(self, grace_s: float) -> None:
        self.wait(self.server.stop(grace_s))
        self._end()

    def _end(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(timeout=30)
        self.loop.close()


@contextmanager
def serving(kind: str, services: list[Service], door: Door) -> Iterator[RunningServer | AioRunning]:
    """Serve on loopback within the block; `kind` is "threads" or "aio"."""
    running = AioRunning(services, door) if kind == "aio" else serve_threads(services, "127.0.0.1:0", door=door)
    try:
        yield running
    finally:
        running.stop(0)


def status_of(call: Any) -> grpc.StatusCode:
    """Return the code that a call ends with."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code()  # type: ignore[attr-defined]
    return grpc.StatusCode.OK
