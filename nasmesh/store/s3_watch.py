"""Ends answers that drip: each read has its own time-out, which a byte now and then never meets."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from urllib3.response import BaseHTTPResponse

from nasmesh.clock import Clock


class Watch:
    """Shuts down whatever is being read for too long; one thread, begun when there is something to read."""

    def __init__(self, clock: Clock) -> None:
        """Watch nothing yet."""
        self._clock = clock
        self._changed = threading.Condition()
        self._read: dict[BaseHTTPResponse, float] = {}
        self._thread: threading.Thread | None = None

    @contextmanager
    def over(self, response: BaseHTTPResponse, seconds: float) -> Iterator[None]:
        """Bound a block that reads an answer: reads in it end short when the time is over."""
        until = self._clock.monotonic() + seconds
        with self._changed:
            sooner = until < min(self._read.values(), default=float("inf"))
            self._read[response] = until
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="s3-watch", daemon=True)
                self._thread.start()
            elif sooner:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._read.pop(response, None)

    def _run(self) -> None:
        """Sleep until the earliest time that was over then, and end what is still being read."""
        while True:
            with self._changed:
                now = self._clock.monotonic()
                late = [response for response, until in self._read.items() if until <= now]
                for response in late:
                    del self._read[response]
                    with suppress(OSError, ValueError):
                        response.shutdown()
                self._changed.wait(max(0.01, min(self._read.values()) - now) if self._read else None)
