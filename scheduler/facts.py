"""The facts that change searches, tasks and attempts; those of a person's wishes are in scheduler.wishes."""

from dataclasses import dataclass
from typing import NamedTuple

from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import object_pb2
from nasmesh.v1 import search_pb2 as pb
from scheduler.wishes import (
    AgentDrained,
    DatasetAdded,
    DatasetDeleted,
    SearchDeleted,
    SearchPaused,
    SearchResumed,
    SearchUpdated,
    TrialEnqueued,
)

# Revision of the rules by which facts change the state. What an earlier one recorded is replayed by its own.
RULES = 1


@dataclass(frozen=True, slots=True)
class Booted:
    """A scheduler took the journal over. `rules`: what its facts lead to, 0 where it did not say (RULES)."""

    epoch: int
    rules: int = 0


@dataclass(frozen=True, slots=True)
class SearchCreated:
    """A search was created; the spec is complete. `owner` is empty where nobody was asked who they are."""

    search: str
    spec: pb.SearchSpec
    owner: str = ""
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class SearchCancelled:
    """A person cancelled a search."""

    search: str


@dataclass(frozen=True, slots=True)
class SearchExpired:
    """A search used up its wall time."""

    search: str


class AttemptLeased(NamedTuple):
    """A task was leased to an agent, or to a gang: `members` have the ranks from 1.

    The attempt's number follows from the task.
    """

    task: str
    agent: str
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AttemptLost:
    """An attempt was given up without an outcome."""

    task: str
    attempt: int
    failure: pb.Failure


@dataclass(frozen=True, slots=True)
class CheckpointReported:
    """An attempt stored a checkpoint that a next one continues from."""

    task: str
    attempt: int
    checkpoint: object_pb2.ObjectRef


@dataclass(frozen=True, slots=True)
class NeedUnmet:
    """No known train server gives what a queued training needs; `largest_bytes` is the most that any gives."""

    task: str
    largest_bytes: int


class OutcomeReported(NamedTuple):
    """An attempt ended with an outcome that passed the checks. `body`: the outcome's bytes, where they are at hand."""

    outcome: dispatch_pb.AttemptOutcome
    digest: bytes
    body: bytes | None = None


Change = (
    Booted
    | SearchCreated
    | SearchCancelled
    | SearchExpired
    | SearchPaused
    | SearchResumed
    | SearchUpdated
    | SearchDeleted
    | TrialEnqueued
    | AgentDrained
    | DatasetAdded
    | DatasetDeleted
    | AttemptLeased
    | AttemptLost
    | CheckpointReported
    | NeedUnmet
    | OutcomeReported
)


class Event(NamedTuple):
    """A fact with its times: `time_us` since 1970 for people, `uptime_s` of schedulers for budgets."""

    time_us: int
    uptime_s: float
    change: Change
