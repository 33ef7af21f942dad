"""The scheduler's part in a search's trace: places for trials, tasks and leases, and their spans once they are over.

A span's id follows from what it is of, so that a lease can name it before the span is over, in this process or a next
one. Spans are told after the commit of what ended them.
"""

from typing import NamedTuple

from nasmesh.telemetry import tracing
from nasmesh.telemetry.tracing import Place
from nasmesh.v1 import search_pb2
from scheduler.domain import OPEN_TASKS, SearchRun, Task


def trial_place(run: SearchRun, number: int) -> Place:
    """Return where the span of a trial is."""
    return Place(run.traceparent, "trial", run.trial_name(number))


def task_place(run: SearchRun, task: Task) -> Place:
    """Return where the span of a task is: below its trial, or below the search's creation."""
    parent = trial_place(run, task.trial).traceparent if task.trial else run.traceparent
    return Place(parent, "task", task.id)


def lease_place(run: SearchRun, task: Task, attempt: int) -> Place:
    """Return where the span of an attempt is, from its lease to its end."""
    return Place(task_place(run, task).traceparent, "lease", str(attempt))


class _Ended(NamedTuple):
    name: str
    place: Place
    times_us: tuple[int, int]
    attributes: dict[str, str | int]


class Traces:
    """What is to be told of traced searches. Only made where spans go somewhere."""

    def __init__(self) -> None:
        """Know nothing."""
        self._queued_us: dict[str, tuple[int, int]] = {}
        self._ended: list[_Ended] = []

    def queued(self, run: SearchRun, task: Task, time_us: int) -> None:
        """Note that a task waits, for the first time or again."""
        if run.traceparent:
            first, _ = self._queued_us.get(task.id, (time_us, time_us))
            self._queued_us[task.id] = first, time_us

    def closed(self, run: SearchRun, task: Task, time_us: int) -> None:
        """Note that an attempt has ended, and perhaps its task."""
        if not run.traceparent:
            return
        attempt, place = task.attempts[-1], task_place(run, task)
        leased_us = attempt.lease_time_us
        first_us, last_us = self._queued_us.get(task.id, (leased_us, leased_us))
        about: dict[str, str | int] = {"task": task.id, "kind": task.kind.name.lower(), "attempt": attempt.number}
        waited = Place(place.traceparent, "queued", str(attempt.number))
        self._add("queued", waited, (min(last_us, leased_us), leased_us), about)
        held = {**about, "agent": attempt.agent, "epoch": attempt.epoch}
        if attempt.members:
            held["members"] = ", ".join(attempt.members)
        if attempt.failure is not None:
            held["reason"] = attempt.failure.reason
        self._add("lease", lease_place(run, task, attempt.number), (leased_us, time_us), held)
        if task.state not in OPEN_TASKS:
            self._queued_us.pop(task.id, None)
            whole = {**about, "search": run.name, "state": task.state.name.lower()}
            self._add(f"task {task.kind.name.lower()}", place, (first_us, time_us), whole)

    def trial_ended(self, run: SearchRun, trial: search_pb2.Trial, time_us: int) -> None:
        """Note that a trial has ended."""
        if run.traceparent:
            outcome = search_pb2.TrialOutcome.Name(trial.outcome).removeprefix("TRIAL_OUTCOME_").lower()
            began_us = trial.create_time.ToMicroseconds() or time_us
            about: dict[str, str | int] = {"trial": trial.name, "outcome": outcome}
            self._add("trial", trial_place(run, trial.number), (began_us, time_us), about)

    def tell(self) -> None:
        """Tell of what has ended: it is durable now."""
        for name, place, (began_us, ended_us), attributes in self._ended:
            tracing.emit(name, place, (began_us / 1e6, ended_us / 1e6), attributes)
        self._ended.clear()

    def drop(self) -> None:
        """Forget what could not be recorded."""
        self._ended.clear()

    def _add(self, name: str, place: Place, times_us: tuple[int, int], attributes: dict[str, str | int]) -> None:
        self._ended.append(_Ended(name, place, times_us, attributes))
