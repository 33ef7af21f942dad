"""Delays between tries: full jitter, so that agents that lost a scheduler together do not come back together."""

from nasmesh.clock import new_seed, seeded_random

FIRST_S = 0.2
"""Shorter than limits.BACKOFF_BASE_S: a scheduler that restarts is back within a second, and slots idle until then."""
CAP_S = 10.0
"""Longer than a gRPC channel's own back-off at its start, shorter than a lease."""


class Backoff:
    """A growing random delay; `reset` after a success."""

    def __init__(self, *, seed: int | None = None, first_s: float = FIRST_S, cap_s: float = CAP_S) -> None:
        """Draw from the seed, or from a fresh one."""
        self._random = seeded_random(new_seed() if seed is None else seed)
        self._first_s = first_s
        self._cap_s = cap_s
        self._tries = 0

    def next_s(self) -> float:
        """Return the next delay in seconds: uniform between 0 and the bound, which doubles up to the cap."""
        bound = min(self._cap_s, self._first_s * 2.0**self._tries)
        self._tries = min(self._tries + 1, 30)
        return self._random.uniform(0.0, bound)

    def reset(self) -> None:
        """Start again from the first bound."""
        self._tries = 0
