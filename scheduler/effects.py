"""What follows from a fact, for the engine to carry out; and the workbench on which one fact is worked off."""

from dataclasses import dataclass, field
from typing import NamedTuple

from scheduler.domain import State


class Queued(NamedTuple):
    """A task waits for an agent, after a back-off that grows with `failures` (0: at once)."""

    task: str
    failures: int


class Granted(NamedTuple):
    """A task is leased: arm the leases and tell the agents."""

    task: str


class Closed(NamedTuple):
    """An attempt ended: disarm its leases and free the slots of all who held it."""

    task: str
    attempt: int
    agents: tuple[str, ...]


class Revoked(NamedTuple):
    """An attempt in work is not wanted any more: tell the agent to stop it."""

    task: str
    attempt: int
    epoch: int
    agent: str
    reason: str


class Recalled(NamedTuple):
    """An attempt in work is wanted later: have the agent store a checkpoint and give it back. It stays in work."""

    task: str
    attempt: int
    epoch: int
    agent: str
    reason: str


class Rearranged(NamedTuple):
    """What may be leased of a search changed (held, let go on, another priority, another budget)."""

    search: str


class Gone(NamedTuple):
    """A search was deleted: forget what is kept beside the state."""

    search: str


class Drained(NamedTuple):
    """An agent is drained, or not any more."""

    agent: str


class Changed(NamedTuple):
    """A search (trial 0) or one of its trials changed; `sequence` numbers the changes of a search."""

    search: str
    trial: int
    sequence: int


Effect = Queued | Granted | Closed | Revoked | Recalled | Rearranged | Gone | Drained | Changed


@dataclass(slots=True)
class Work:
    """What one event does: the state it changes, its times, the effects so far, the rows it touched.

    `settled` are digests that trials wait for, whose measuring has come to an end.
    """

    state: State
    time_us: int
    effects: list[Effect] = field(default_factory=list)
    touched: dict[tuple[str, int], None] = field(default_factory=dict)
    settled: tuple[bytes, ...] = ()


class IllegalTransitionError(Exception):
    """A fact contradicts the state; a fault in this program, told with the task's story."""
