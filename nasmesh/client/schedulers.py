"""The addresses at which a scheduler may be: one leads, the others stand by, and whoever calls finds out which."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from nasmesh.errors import Unavailable
from nasmesh.rpc.access import ClientAccess
from nasmesh.rpc.channel import errors_from_rpc
from nasmesh.rpc.lines import Line
from nasmesh.rpc.options import HURRIED_S
from nasmesh.rpc.status import AWAY
from nasmesh.settings import parse_addresses
from nasmesh.v1.scheduler_service_pb2_grpc import SchedulerServiceStub


class Schedulers:
    """Channels to all of them. `stub` and `address` are those of the one that answered last, or is next to be asked."""

    def __init__(self, addresses: str, *, insecure: bool, access: ClientAccess) -> None:
        """Open channels to "HOST:PORT,HOST:PORT"; nothing is sent. Raises Invalid (ADDRESS_INVALID, DIAL_PLAINTEXT)."""
        self._addresses = parse_addresses(addresses)
        several = len(self._addresses) > 1
        self._lines = [Line(address, insecure=insecure, access=access, hurried=several) for address in self._addresses]
        self._stubs: dict[int, tuple[grpc.Channel, SchedulerServiceStub]] = {}
        self._at = 0

    @property
    def stub(self) -> SchedulerServiceStub:
        """Whom to ask."""
        at = self._at
        channel = self._lines[at].channel()
        known = self._stubs.get(at)
        if known is None or known[0] is not channel:
            known = self._stubs[at] = channel, SchedulerServiceStub(channel)
        return known[1]

    @property
    def address(self) -> str:
        """Where that is."""
        return self._addresses[self._at]

    @property
    def search_s(self) -> float:
        """How long it may take to find the one that leads, in seconds."""
        return HURRIED_S * (len(self._addresses) - 1)

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Raise nasmesh.errors in place of gRPC's; after one that says that nobody leads here, the next is asked."""
        asked = self._at
        try:
            with errors_from_rpc(self._addresses[asked]):
                yield
        except Unavailable as error:
            if error.reason in AWAY and self._at == asked:  # else another thread has gone on already
                self._at = (asked + 1) % len(self._addresses)
            raise

    def close(self) -> None:
        """Close all channels; open watches end."""
        for line in self._lines:
            line.close()
