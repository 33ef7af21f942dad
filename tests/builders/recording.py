"""Listens in on connections: passes bytes on, keeps what the caller sent, and sends it again later."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType


class Recorder:
    """A proxy on loopback for one connection; `sent` is what its caller has sent."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._sent: list[bytes] = []
        self._thread = threading.Thread(target=self._serve)
        self._sockets: list[socket.socket] = []

    @property
    def sent(self) -> bytes:
        return b"".join(self._sent)

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        for open_socket in [self._listener, *self._sockets]:
            with suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)
            open_socket.close()
        self._thread.join(timeout=10)

    def _serve(self) -> None:
        try:
            caller, _ = self._listener.accept()
        except OSError:
            return
        server = socket.create_connection(self._target, timeout=20)
        self._sockets += [caller, server]
        for end in self._sockets:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        back = threading.Thread(target=_pass_on, args=(server, caller, []))
        back.start()
        _pass_on(caller, server, self._sent)
        back.join(timeout=10)


def _pass_on(source: socket.socket, target: socket.socket, kept: list[bytes]) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            kept.append(data)
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def replay(address: str, sent: bytes, *, wait_s: float = 20.0) -> bytes:
    """Send recorded bytes on a new connection and return what comes back until the server hangs up."""
    host, _, port = address.rpartition(":")
    heard = b""
    with socket.create_connection((host, int(port)), timeout=wait_s) as again, suppress(OSError):
        again.sendall(sent)
        while data := again.recv(65536):
            heard += data
    return heard
