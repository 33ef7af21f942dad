"""A channel for as long as a program lives: opened anew once the files that it was opened with have changed.

gRPC reads a caller's certificate, key and authority once, when a channel is opened; they live for days, and programs
longer.
"""

import threading

import grpc

from nasmesh.errors import Invalid
from nasmesh.logs import get_logger
from nasmesh.rpc.access import ClientAccess
from nasmesh.rpc.channel import open_channel
from nasmesh.rpc.secret_files import Stamp, stamp

_log = get_logger("credentials")


class Line:
    """The way to one address. Thread-safe."""

    def __init__(self, address: str, *, insecure: bool, access: ClientAccess, hurried: bool = False) -> None:
        """Open a channel as open_channel does, and raise what that raises."""
        self._address = address
        self._insecure = insecure
        self._access = access
        self._hurried = hurried
        self._files = tuple(path for path in (access.ca, access.cert, access.key, access.token) if path is not None)
        self._lock = threading.Lock()
        self._retired: grpc.Channel | None = None
        # Before the files are read: what changes meanwhile is seen next time.
        self._stamps = self._look()
        self._channel = self._opened()

    def channel(self) -> grpc.Channel:
        """Return the channel for the next call; with files that are wrong, the one before."""
        if self._files and self._look() != self._stamps:
            self._renew()
        return self._channel

    def close(self) -> None:
        """Close it; streams that are open end."""
        with self._lock:
            for channel in (self._retired, self._channel):
                if channel is not None:
                    channel.close()

    def _look(self) -> tuple[Stamp, ...]:
        return tuple(stamp(path) for path in self._files)

    def _opened(self) -> grpc.Channel:
        return open_channel(self._address, insecure=self._insecure, access=self._access, hurried=self._hurried)

    def _renew(self) -> None:
        with self._lock:
            now = self._look()
            if now == self._stamps:
                return
            self._stamps = now
            try:
                fresh = self._opened()
            except Invalid as error:  # half of a pair, say: the other half will be another change
                _log.error("certificate_not_reloaded", reason=error.reason, text=error.message)
                return
            # Streams that are open go on over the channel before, until the server ends them by its age.
            self._retired, self._channel, old = self._channel, fresh, self._retired
            if old is not None:
                old.close()
            _log.info("certificate_reloaded", address=self._address)
