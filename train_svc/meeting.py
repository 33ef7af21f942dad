"""Where the processes of one training meet: a small store at an address that all of them know.

The first process listens, the others come. Nothing here is encrypted or signed, and nothing unpickles.
"""

import contextlib
import socket
from collections.abc import Callable, Iterator
from datetime import timedelta

import torch
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # not in its __all__

from nasmesh.clock import Clock
from nasmesh.errors import Unavailable
from nasmesh.jobs.context import Cancelled
from nasmesh.settings import format_address, parse_address

JOIN_S = 120.0
"""How long processes wait for each other to come together; a cold one imports torch first."""
LOOPBACK = "127.0.0.1"

# A training that was told to stop has two seconds to leave its address to the next.
_FREED_S = 5.0
_LOOK_S = 0.02
_KNOCK_S = 5.0

Wait = Callable[[float], bool]
"""Waits so many seconds, or until the training should stop; says whether it should."""


class MemberLost(Exception):  # noqa: N818 - the training survives it
    """Another process of the training is gone, or answers no more."""


class Meeting:
    """One process's way to the others of one training. `address` is its own, by which the others reach it.

    Everything is kept by the training's name: somebody may still be here for another one.
    """

    def __init__(self, store: TCPStore, name: str, address: str) -> None:
        """Use `call` or `come`."""
        self._whole: TCPStore | None = store
        self._store: PrefixStore | None = PrefixStore(name, store)
        self.address = address
        self.rendezvous = format_address(address, store.port)
        """HOST:PORT for the others, of the process that called."""

    @staticmethod
    def call(
        name: str, clock: Clock, *, address: str = LOOPBACK, port: int = 0, wait: Wait = lambda _: True
    ) -> "Meeting":
        """Listen as the first process, at this address and no other; port 0: any that is free.

        Raises Unavailable (PORT_IN_USE) where the address is taken and stays so, Cancelled.
        """
        until = clock.monotonic() + _FREED_S
        while True:
            try:
                listener = _listen(address, port)
                break
            except OSError as error:
                where = format_address(address, port)
                if wait(_LOOK_S) or clock.monotonic() > until:
                    message = f"gang: {where} is taken ({error.strerror}): another training is led there; try again"
                    raise Unavailable("PORT_IN_USE", message) from error
        # Told only a port, the store would listen on every address of this machine.
        number = listener.getsockname()[1]
        with told_apart():
            store = TCPStore(
                address,
                number,
                is_master=True,
                wait_for_workers=False,
                timeout=timedelta(seconds=JOIN_S),
                master_listen_fd=listener.detach(),
            )
        return Meeting(store, name, address)

    @staticmethod
    def come(name: str, rendezvous: str, rank: int, clock: Clock, wait: Wait, *, address: str = LOOPBACK) -> "Meeting":
        """Come to HOST:PORT as another process, and wait there for the first to begin.

        Where somebody else is about to leave that address, wait for that too. Raises MemberLost where it does not begin
        within JOIN_S, and Cancelled.
        """
        until = clock.monotonic() + JOIN_S
        while True:
            try:
                meeting = Meeting._go(name, rendezvous, address)
                meeting._set(f"here-{rank}")
                while not meeting._has("begun"):
                    if clock.monotonic() > until:
                        raise MemberLost("the first process did not begin")
                    _pause(wait)
                return meeting
            except MemberLost:
                if clock.monotonic() > until:
                    raise
            _pause(wait)

    @staticmethod
    def _go(name: str, rendezvous: str, address: str) -> "Meeting":
        host, port = parse_address(rendezvous)
        try:
            # The store would knock for as long as it may wait, and could not be told to stop meanwhile.
            socket.create_connection((host, port), _KNOCK_S).close()
        except OSError as error:
            raise MemberLost(f"nobody listens at {rendezvous}: {error.strerror or error}") from error
        with told_apart():
            store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=JOIN_S))
        return Meeting(store, name, address)

    def absent(self, size: int) -> list[int]:
        """Return who of the others is not here; raises MemberLost."""
        return [rank for rank in range(1, size) if not self._has(f"here-{rank}")]

    def begin(self) -> None:
        """Let the others begin."""
        self._set("begun")

    def end(self) -> None:
        """Tell the others that it is over, with nobody lost."""
        self._set("over")

    @property
    def over(self) -> bool:
        """Whether the first process said that it is over; raises MemberLost."""
        return self._has("over")

    def leave(self, rank: int) -> None:
        """Say that this process has left, and go; the first need not be there any more."""
        with contextlib.suppress(MemberLost):
            self._set(f"left-{rank}")
        self.close()

    def has_left(self, rank: int) -> bool:
        """Say whether another process has left; raises MemberLost."""
        return self._has(f"left-{rank}")

    def close(self) -> None:
        """Go; where this is the first process, whoever is still on the way hears that nobody is here."""
        self._store = self._whole = None

    @property
    def store(self) -> PrefixStore:
        """What process groups find each other by; raises MemberLost after `close`."""
        if self._store is None:
            raise MemberLost("this process has left")
        return self._store

    def _set(self, key: str) -> None:
        with told_apart():
            self.store.set(key, "1")

    def _has(self, key: str) -> bool:
        with told_apart():
            return bool(self.store.check([key]))


def _listen(address: str, port: int) -> socket.socket:
    family, _, _, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server(where[:2], family=family)


def _pause(wait: Wait) -> None:
    if wait(_LOOK_S):
        raise Cancelled


@contextlib.contextmanager
def told_apart() -> Iterator[None]:
    """Raise MemberLost for what torch's stores and process groups raise: it is always about the others."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        text = (str(error).strip().splitlines() or [""])[0]
        raise MemberLost(text[:300]) from error
