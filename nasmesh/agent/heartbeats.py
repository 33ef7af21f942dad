"""When an agent speaks up: every third of a lease, sooner when there is progress, at most twice a second."""

import threading
from collections.abc import Callable

from nasmesh.clock import Clock
from nasmesh.limits import HEARTBEAT_S, LEASE_RATIO

PROGRESS_S = 0.5
"""Shortest time between heartbeats: people follow progress, the scheduler has thousands of agents."""


class Heartbeats:
    """A thread that calls `beat`."""

    def __init__(self, beat: Callable[[], None], *, clock: Clock) -> None:
        """Start the thread; it beats every limits.HEARTBEAT_S until told otherwise."""
        self._beat = beat
        self._clock = clock
        self._interval_s = HEARTBEAT_S
        self._progress = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeats", daemon=True)
        self._thread.start()

    def follow_lease(self, lease_s: float) -> None:
        """Beat often enough for leases of this length, and once now."""
        if lease_s > 0:
            self._interval_s = min(HEARTBEAT_S, lease_s / LEASE_RATIO)
        self._progress.set()

    def progress(self) -> None:
        """There is something new to tell."""
        self._progress.set()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._progress.set()
        self._thread.join()

    def _run(self) -> None:
        last = self._clock.monotonic() - PROGRESS_S
        while not self._stopped.is_set():
            self._progress.wait(max(0.0, last + self._interval_s - self._clock.monotonic()))
            # Short leases of tests beat faster than people need progress.
            shortest = min(PROGRESS_S, self._interval_s)
            if self._stopped.wait(max(0.0, last + shortest - self._clock.monotonic())):
                return
            self._progress.clear()
            last = self._clock.monotonic()
            self._beat()
