"""Holds dispatch while the object store is down: what is leased then only fails, and every failure costs an attempt.

Three of the last five outcomes that say STORE_DOWN hold dispatch; one task every five seconds probes; the first sign
that the store works (an outcome that is no failure, a stored checkpoint) lets everything go on.
"""

from collections import deque

from nasmesh.logs import get_logger
from scheduler.machine.tasks import STORE_OUTAGE

STORE_DOWN = "STORE_DOWN"
OUTCOMES = 5
FAILURES = 3
PROBE_S = 5.0

_log = get_logger("outage")


class Outage:
    """Whether the object store is taken for down. Times are monotonic seconds."""

    def __init__(self) -> None:
        """Take it for up."""
        self._last: deque[bool] = deque(maxlen=OUTCOMES)
        self._since: float | None = None
        self._next_probe = 0.0

    @property
    def holds(self) -> bool:
        """Whether dispatch is held."""
        return self._since is not None

    def failed(self, reason: str, now: float) -> None:
        """Note a failed attempt; failures of other kinds say nothing for or against a store that is down."""
        if reason not in (STORE_DOWN, STORE_OUTAGE):
            if self._since is None:
                self._last.append(False)
            return
        self._last.append(True)
        if self._since is None and sum(self._last) >= FAILURES:
            self._since, self._next_probe = now, now + PROBE_S
            _log.error("store_outage", advice=f"dispatch is held; one task every {PROBE_S:g} s tries the object store")

    def worked(self, now: float) -> None:
        """Note that an attempt has used the store with success."""
        if self._since is None:
            self._last.append(False)
            return
        _log.warning("store_outage_over", held_s=round(now - self._since, 1))
        self._since = None
        self._last.clear()

    def may_lease(self, now: float) -> bool:
        """Say whether a task may be leased now; while dispatch is held, at most one when a probe is due."""
        return self._since is None or now >= self._next_probe

    def probed(self, now: float) -> None:
        """Note that leases were given as `may_lease` allowed."""
        if self._since is not None:
            self._next_probe = now + PROBE_S

    def next_probe(self) -> float:
        """Return when the next probe is due; infinity while dispatch is not held."""
        return float("inf") if self._since is None else self._next_probe
