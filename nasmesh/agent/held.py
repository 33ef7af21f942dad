"""What an agent has in hand: attempts that wait or run, and outcomes that the scheduler has not acknowledged."""

import threading
from collections.abc import Callable
from typing import TypeAlias

from nasmesh.agent.attempt import Attempt
from nasmesh.agent.spool import job_id_of
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import search_pb2

Kind: TypeAlias = search_pb2.TaskKind.ValueType


class Held:
    """Attempts and outcomes by job id. Every method may be called from any thread."""

    def __init__(self) -> None:
        """Hold nothing."""
        self._changed = threading.Condition()
        self._waiting: dict[str, Attempt] = {}
        self._running: dict[str, Attempt] = {}
        self._outcomes: dict[str, pb.AttemptOutcome] = {}

    def add(self, attempt: Attempt) -> bool:
        """Keep a new attempt until it is started; returns False where it is in hand already."""
        with self._changed:
            if attempt.job_id in self._waiting or attempt.job_id in self._running or attempt.job_id in self._outcomes:
                return False
            self._waiting[attempt.job_id] = attempt
            return True

    def start_next(self, slots_of: Callable[[Kind], int]) -> Attempt | None:
        """Move one waiting attempt whose kind has a free slot to the running ones and return it."""
        with self._changed:
            for job_id, attempt in self._waiting.items():
                if self._count(self._running, attempt.kind) < slots_of(attempt.kind):
                    self._running[job_id] = self._waiting.pop(job_id)
                    return attempt
            return None

    def end(self, attempt: Attempt, outcome: pb.AttemptOutcome | None) -> None:
        """Replace an attempt by its outcome, or by nothing."""
        with self._changed:
            self._waiting.pop(attempt.job_id, None)
            self._running.pop(attempt.job_id, None)
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

    def free(self, kind: Kind, slots: int) -> int:
        """Return how many more attempts of a kind fit."""
        with self._changed:
            return max(0, slots - self._count(self._running, kind) - self._count(self._waiting, kind))

    def wait_until_empty(self, timeout_s: float) -> bool:
        """Wait until nothing is in hand and every outcome is acknowledged; returns whether that came in time."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._waiting and not self._running and not self._outcomes, timeout_s
            )

    @staticmethod
    def _count(attempts: dict[str, Attempt], kind: Kind) -> int:
        return sum(attempt.kind == kind for attempt in attempts.values())
