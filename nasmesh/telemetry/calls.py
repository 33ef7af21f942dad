"""Counts the calls that a server answers: by method and status, and how long those with one answer took."""

import threading
from collections.abc import Iterator

from nasmesh.telemetry.samples import Distribution, Histogram, Reading, Sample

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0)


class Calls:
    """The calls of one server. Only methods that are served are counted, so labels are bounded."""

    def __init__(self) -> None:
        """Start at zero."""
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], int] = {}
        self._seconds: dict[str, Histogram] = {}

    def answered(self, method: str, code: str, seconds: float | None) -> None:
        """Count a call; `seconds` is None for streams, which last as long as what they watch."""
        key = (method, code)
        with self._lock:
            self._counts[key] = self._counts.get(key, 0) + 1
            if seconds is not None:
                known = self._seconds.get(method)
                if known is None:
                    known = self._seconds[method] = Histogram(BOUNDS_S)
                known.observe(seconds)

    def readings(self) -> Iterator[Reading]:
        """Yield what was counted."""
        with self._lock:
            counts = list(self._counts.items())
            seconds: list[Distribution] = [
                known.reading("nasmesh_rpc_seconds", (method,)) for method, known in self._seconds.items()
            ]
        for labels, count in counts:
            yield Sample("nasmesh_rpc_calls", count, labels)
        yield from seconds
