"""How often a caller may call: a token bucket each, remembered for a bounded number of callers."""

import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass

from nasmesh import limits
from nasmesh.clock import Clock, SystemClock
from nasmesh.errors import Busy


@dataclass(frozen=True, slots=True)
class Rate:
    """Calls a second in the long run, and how many at once."""

    per_s: float
    burst: float

    def __str__(self) -> str:
        """Return it as people write it, "10/40"."""
        return f"{self.per_s:g}/{self.burst:g}"


CLIENT_RATE = Rate(limits.CLIENT_CALLS_PER_S, limits.CLIENT_BURST)
AGENT_RATE = Rate(limits.AGENT_CALLS_PER_S, limits.AGENT_BURST)


@dataclass(frozen=True, slots=True)
class Rates:
    """The numbers of a server."""

    client: Rate = CLIENT_RATE
    agent: Rate = AGENT_RATE
    refusals: Rate = Rate(limits.REFUSALS_PER_S, limits.REFUSALS_BURST)
    watches: int = limits.WATCHES
    callers: int = limits.RATED_CALLERS


class Buckets:
    """A bucket for each caller. Thread-safe."""

    def __init__(self, callers: int, *, clock: Clock | None = None) -> None:
        """Remember at most `callers`; who called longest ago is forgotten first, and begins anew with a burst."""
        self._callers = callers
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._filled: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many callers are remembered."""
        return len(self._filled)

    def take(self, caller: str, rate: Rate) -> None:
        """Count a call; raises Busy (RATE_EXCEEDED) with the time after which one is allowed."""
        wait_s = self._wait(caller, rate)
        if wait_s > 0:
            raise Busy(
                "RATE_EXCEEDED",
                f"{caller} calls more often than {rate.per_s:g} times a second; wait {wait_s:.2f} s",
                retry_after_s=wait_s,
            )

    def _wait(self, caller: str, rate: Rate) -> float:
        """Return 0 where a call may go on, else seconds until it may."""
        now = self._clock.monotonic()
        with self._lock:
            left, since = self._filled.pop(caller, (rate.burst, now))
            left = min(rate.burst, left + (now - since) * rate.per_s)
            allowed = left >= 1.0
            self._filled[caller] = (left - 1.0 if allowed else left, now)
            if len(self._filled) > self._callers:
                self._filled.popitem(last=False)
        return 0.0 if allowed else (1.0 - left) / rate.per_s


class OpenStreams:
    """How many streams each caller has open. Thread-safe; a caller without any takes no room."""

    def __init__(self, most: int) -> None:
        """Allow each caller `most`."""
        self._most = most
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return how many callers have streams open."""
        return len(self._open)

    def enter(self, caller: str) -> None:
        """Count a stream; raises Busy (WATCHES_EXCEEDED)."""
        with self._lock:
            if self._open[caller] >= self._most:
                raise Busy("WATCHES_EXCEEDED", f"{caller} has {self._most} watches open already; end one of them")
            self._open[caller] += 1

    def leave(self, caller: str) -> None:
        """Note that a counted stream has ended."""
        with self._lock:
            self._open[caller] -= 1
            if not self._open[caller]:
                del self._open[caller]
