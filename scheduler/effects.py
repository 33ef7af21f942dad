"""What follows from a fact, for the engine to carry out; and the workbench on which one fact is worked off."""

from dataclasses import dataclass, field

from scheduler.domain import State


@dataclass(frozen=True, slots=True)
class Queued:
    """A task waits for an agent, after a back-off that grows with `failures` (0: at once)."""

    task: str
    failures: int


@dataclass(frozen=True, slots=True)
class Granted:
    """A task is leased: arm the lease and tell the agent."""

    task: str


@dataclass(frozen=True, slots=True)
class Closed:
    """An attempt ended: disarm its lease and free its slot."""

    task: str
    attempt: int
    agent: str


@dataclass(frozen=True, slots=True)
class Revoked:
    """An attempt in work is not wanted any more: tell the agent to stop it."""

    task: str
    attempt: int
    epoch: int
    agent: str
    reason: str


@dataclass(frozen=True, slots=True)
class Recalled:
    """An attempt in work is wanted later: have the agent store a checkpoint and give it back. It stays in work."""

    task: str
    attempt: int
    epoch: int
    agent: str
    reason: str


@dataclass(frozen=True, slots=True)
class Rearranged:
    """What may be leased of a search changed (held, let go on, another priority, another budget)."""

    search: str


@dataclass(frozen=True, slots=True)
class Gone:
    """A search was deleted: forget what is kept beside the state."""

    search: str


@dataclass(frozen=True, slots=True)
class Drained:
    """An agent is drained, or not any more."""

    agent: str


@dataclass(frozen=True, slots=True)
class Changed:
    """A search (trial 0) or one of its trials changed; `sequence` numbers the changes of a search."""

    search: str
    trial: int
    sequence: int


Effect = Queued | Granted | Closed | Revoked | Recalled | Rearranged | Gone | Drained | Changed


@dataclass(slots=True)
class Work:
    """What one event does: the state it changes, its times, the effects so far, the rows it touched."""

    state: State
    time_us: int
    effects: list[Effect] = field(default_factory=list)
    touched: dict[tuple[str, int], None] = field(default_factory=dict)

    def touch(self, search: str, trial: int = 0) -> None:
        """Note that a search or trial changed; it gets its sequence number when the event is through."""
        self.touched[(search, trial)] = None


class IllegalTransitionError(Exception):
    """A fact contradicts the state; a fault in this program, told with the task's story."""
