"""What an agent has in hand: attempts that wait or run, and outcomes that the scheduler has not acknowledged."""

import threading
from collections import defaultdict
from collections.abc import Callable
from typing import TypeAlias

from nasmesh.agent.attempt import Attempt
from nasmesh.agent.pace import Pace
from nasmesh.agent.spool import job_id_of
from nasmesh.clock import Clock
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import search_pb2

Kind: TypeAlias = search_pb2.TaskKind.ValueType


class Held:
    """Attempts and outcomes by job id. Every method may be called from any thread."""

    def __init__(self, clock: Clock) -> None:
        """Hold nothing."""
        self._clock = clock
        self._changed = threading.Condition()
        self._since: dict[str, float] = {}
        self._paces: defaultdict[Kind, Pace] = defaultdict(Pace)
        self._waiting: dict[str, Attempt] = {}
        self._running: dict[str, Attempt] = {}
        self._outcomes: dict[str, pb.AttemptOutcome] = {}

    def add(self, attempt: Attempt) -> bool:
        """Keep a new attempt until it is started; returns False where it is in hand already."""
        with self._changed:
            if attempt.job_id in self._waiting or attempt.job_id in self._running or attempt.job_id in self._outcomes:
                return False
            self._waiting[attempt.job_id] = attempt
            self._since[attempt.job_id] = self._clock.monotonic()
            return True

    def start_next(self, slots_of: Callable[[Kind], int]) -> Attempt | None:
        """Move a waiting attempt to the running ones and return it: one that should stop, or whose kind has a slot."""
        with self._changed:
            for job_id, attempt in self._waiting.items():
                is_next = self._count(self._running, attempt.kind) < slots_of(attempt.kind)
                if is_next or (attempt.cancelled.is_set() and not attempt.adopted):
                    self._running[job_id] = self._waiting.pop(job_id)
                    self._since[job_id] = self._clock.monotonic()
                    return attempt
            return None

    def overdue(self, wait_s: float) -> list[Attempt]:
        """Return the attempts that have waited for a slot so long, and were not begun by an earlier process."""
        with self._changed:
            until = self._clock.monotonic() - wait_s
            waiting = self._waiting.items()
            return [attempt for job_id, attempt in waiting if self._since[job_id] <= until and not attempt.adopted]

    @property
    def has_waiting(self) -> bool:
        """Whether any attempt waits for a slot."""
        with self._changed:
            return bool(self._waiting)

    def end(self, attempt: Attempt, outcome: pb.AttemptOutcome | None) -> None:
        """Replace an attempt by its outcome, or by nothing."""
        with self._changed:
            since = self._since.pop(attempt.job_id, None)
            self._waiting.pop(attempt.job_id, None)
            was_running = self._running.pop(attempt.job_id, None) is not None
            if was_running and since is not None and not attempt.cancelled.is_set():
                self._paces[attempt.kind].ended(self._clock.monotonic() - since)
            if outcome is not None:
                self._outcomes[attempt.job_id] = outcome
            self._changed.notify_all()

    def keep_outcome(self, outcome: pb.AttemptOutcome) -> None:
        """Take over an outcome of an earlier process."""
        with self._changed:
            self._outcomes[job_id_of(outcome.token)] = outcome

    def acknowledge(self, job_id: str) -> pb.AttemptOutcome | None:
        """Forget an outcome and return it."""
        with self._changed:
            outcome = self._outcomes.pop(job_id, None)
            self._changed.notify_all()
            return outcome

    def find(self, job_id: str) -> Attempt | None:
        """Return an attempt in hand."""
        with self._changed:
            return self._waiting.get(job_id) or self._running.get(job_id)

    def outcome(self, job_id: str) -> pb.AttemptOutcome | None:
        """Return an outcome that was not acknowledged."""
        with self._changed:
            return self._outcomes.get(job_id)

    def attempts(self) -> list[Attempt]:
        """Return all attempts in hand."""
        with self._changed:
            return [*self._running.values(), *self._waiting.values()]

    def outcomes(self) -> list[pb.AttemptOutcome]:
        """Return all outcomes that were not acknowledged, oldest first."""
        with self._changed:
            return list(self._outcomes.values())

    def tokens(self) -> list[pb.AttemptToken]:
        """Return the tokens of everything in hand."""
        with self._changed:
            attempts = [*self._running.values(), *self._waiting.values()]
            return [*(attempt.token for attempt in attempts), *(outcome.token for outcome in self._outcomes.values())]

    def room(self, kind: Kind, slots: int) -> tuple[int, int]:
        """Return how many more attempts of a kind fit, and how many beyond those should wait for a slot."""
        with self._changed:
            left = slots - self._count(self._running, kind) - self._count(self._waiting, kind)
            now = self._clock.monotonic()
            at_work = [now - self._since[job_id] for job_id, one in self._running.items() if one.kind == kind]
            ahead = self._paces[kind].ahead(slots, max(at_work, default=0.0))
            return max(0, left), max(0, ahead + min(0, left))

    def wait_until_empty(self, timeout_s: float) -> bool:
        """Wait until nothing is in hand and every outcome is acknowledged; returns whether that came in time."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._waiting and not self._running and not self._outcomes, timeout_s
            )

    @staticmethod
    def _count(attempts: dict[str, Attempt], kind: Kind) -> int:
        return sum(attempt.kind == kind for attempt in attempts.values())
