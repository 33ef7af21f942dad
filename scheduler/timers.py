"""What happens when nothing happens: leases that run out, back-offs that end, wall time that is used up.

All on the monotonic clock; nothing here is stored.
"""

import heapq
from collections import OrderedDict

from nasmesh import limits
from nasmesh.clock import derive_seed

# A task and one of the agents that hold its running attempt.
Holding = tuple[str, str]


class Leases:
    """Deadlines of running attempts, one for each agent that holds one.

    All leases are equally long, so the order of arming is the order of ending.
    """

    def __init__(self, lease_s: float) -> None:
        """Hold leases of this length."""
        self._lease_s = lease_s
        self._deadlines: OrderedDict[Holding, tuple[float, int]] = OrderedDict()
        self._beaten: set[Holding] = set()

    def arm(self, task: str, agent: str, attempt: int, now: float) -> None:
        """Give an agent a full lease of an attempt."""
        deadlines, holding = self._deadlines, (task, agent)
        if holding in deadlines:
            deadlines.move_to_end(holding)
        deadlines[holding] = (now + self._lease_s, attempt)

    def beat(self, task: str, agent: str, attempt: int, now: float) -> None:
        """Extend a lease because its agent spoke of it."""
        self.arm(task, agent, attempt, now)
        self._beaten.add((task, agent))

    def disarm(self, task: str, agent: str) -> None:
        """Forget a lease."""
        self._deadlines.pop((task, agent), None)
        self._beaten.discard((task, agent))

    def was_beaten(self, task: str, agent: str) -> bool:
        """Say whether the agent has spoken of this attempt since this scheduler started or leased it."""
        return (task, agent) in self._beaten

    def expired(self, now: float) -> list[Holding]:
        """Return the tasks whose lease has run out, with the agent that was silent."""
        found = []
        for holding, (deadline, _) in self._deadlines.items():
            if deadline > now:
                break
            found.append(holding)
        return found

    def next_deadline(self) -> float:
        """Return when the next lease runs out; infinity where none is held."""
        return next(iter(self._deadlines.values()))[0] if self._deadlines else float("inf")

    def renew(self, now: float) -> None:
        """Give every attempt a full lease."""
        for holding, (_, attempt) in self._deadlines.items():
            self._deadlines[holding] = (now + self._lease_s, attempt)

    def armed(self) -> dict[Holding, int]:
        """Return attempt numbers by task and agent, for the invariants."""
        return {holding: attempt for holding, (_, attempt) in self._deadlines.items()}

    def clear(self) -> None:
        """Forget all leases."""
        self._deadlines.clear()
        self._beaten.clear()


class Alarms:
    """Keys with a time each, earliest first. A key that is not wanted any more is for the reader to skip."""

    def __init__(self) -> None:
        """Hold none."""
        self._heap: list[tuple[float, str]] = []

    def set(self, key: str, at: float) -> None:
        """Add a key."""
        heapq.heappush(self._heap, (at, key))

    def due(self, now: float) -> list[str]:
        """Remove and return the keys whose time has come."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            found.append(heapq.heappop(self._heap)[1])
        return found

    def next_deadline(self) -> float:
        """Return the earliest time; infinity where there is none."""
        return self._heap[0][0] if self._heap else float("inf")

    def clear(self) -> None:
        """Forget all keys."""
        self._heap.clear()


def backoff_s(seed: int, task: str, failures: int) -> float:
    """Return how long a task waits before its next attempt: exponential, capped, full jitter; 0 after no failure."""
    if failures <= 0:
        return 0.0
    highest = min(limits.BACKOFF_CAP_S, limits.BACKOFF_BASE_S * limits.BACKOFF_FACTOR ** (failures - 1))
    return highest * derive_seed(seed, "backoff", task, failures) / 2**63
