"""How a client waits for a scheduler that is away: growing pauses up to a total, then the error itself."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from nasmesh.clock import Clock, SystemClock
from nasmesh.errors import Busy, Unavailable

T = TypeVar("T")
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)


@dataclass(slots=True)
class Patience:
    """Counts the pauses since the last success and gives up after `total_s` without one."""

    total_s: float
    clock: Clock = field(default_factory=SystemClock)
    pause: Callable[[float], None] = _pause
    _since: float | None = None
    _next_s: float = FIRST_PAUSE_S

    def succeeded(self) -> None:
        """Forget earlier failures."""
        self._since = None
        self._next_s = FIRST_PAUSE_S

    def failed(self, error: Unavailable | Busy) -> None:
        """Wait before the next try; raises `error` once the total is used up."""
        now = self.clock.monotonic()
        self._since = now if self._since is None else self._since
        wanted = max(self._next_s, error.retry_after_s if isinstance(error, Busy) else 0.0)
        if now - self._since + wanted > self.total_s:
            raise error
        self.pause(wanted)
        self._next_s = min(self._next_s * 2, LONGEST_PAUSE_S)


def call_patiently(call: Callable[[], T], patience: Patience) -> T:
    """Return what `call` returns, repeating it while the scheduler is away or busy."""
    while True:
        try:
            return call()
        except (Unavailable, Busy) as error:
            patience.failed(error)
