"""How many leases should wait at an agent for a slot: as many as are worked off while the next are on their way."""

from nasmesh.limits import LEASES_AHEAD

COVERED_S = 0.1
"""How long leases at hand should last: thrice what a loaded scheduler needs to record an outcome and lease again."""
GATHER_S = 0.02
"""How long an outcome may wait for others while there is work at hand: a message costs more than what is in it."""
_WEIGHT = 0.2


class Pace:
    """How long attempts of one kind take here. Not locked: for whoever holds the lock on the work in hand."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._mean_s: float | None = None

    def ended(self, seconds: float) -> None:
        """Take note of an attempt that took so long."""
        mean_s = self._mean_s
        self._mean_s = seconds if mean_s is None else mean_s + _WEIGHT * (seconds - mean_s)

    def ahead(self, slots: int, longest_s: float = 0.0) -> int:
        """Return how many leases should wait; none where nothing is known, or attempts take over twice COVERED_S.

        `longest_s` is how long the oldest attempt in work has taken so far: what it holds up should not wait behind it.
        """
        if self._mean_s is None:
            return 0
        mean_s = max(self._mean_s, longest_s)
        if mean_s * LEASES_AHEAD <= COVERED_S * slots:
            return LEASES_AHEAD
        return int(COVERED_S * slots / mean_s + 0.5)
