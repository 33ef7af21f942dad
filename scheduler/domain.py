"""The scheduler's values: searches, tasks and attempts; the facts that change them are in scheduler.facts.

Protobuf messages appear as opaque values (specs, trials, outcomes). Nothing here reads a clock, a file or a socket.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from itertools import islice

from nasmesh.v1 import dataset_pb2, generate_service_pb2, object_pb2
from nasmesh.v1 import search_pb2 as pb
from scheduler.cold import Networks, Tasks, Trials
from scheduler.ladder import Ladder


class TaskKind(IntEnum):
    """Kinds of work."""

    GENERATE = pb.TASK_KIND_GENERATE
    TRAIN = pb.TASK_KIND_TRAIN
    EVALUATE = pb.TASK_KIND_EVALUATE


class TaskState(IntEnum):
    """Where a task stands."""

    QUEUED = pb.TASK_STATE_QUEUED
    RUNNING = pb.TASK_STATE_RUNNING
    SUCCEEDED = pb.TASK_STATE_SUCCEEDED
    FAILED = pb.TASK_STATE_FAILED
    CANCELLED = pb.TASK_STATE_CANCELLED
    QUARANTINED = pb.TASK_STATE_QUARANTINED


class SearchState(IntEnum):
    """Where a search stands."""

    RUNNING = pb.SEARCH_STATE_RUNNING
    FINALIZING = pb.SEARCH_STATE_FINALIZING
    SUCCEEDED = pb.SEARCH_STATE_SUCCEEDED
    FAILED = pb.SEARCH_STATE_FAILED
    CANCELLED = pb.SEARCH_STATE_CANCELLED


OPEN_TASKS = frozenset({TaskState.QUEUED, TaskState.RUNNING})
OPEN_SEARCHES = frozenset({SearchState.RUNNING, SearchState.FINALIZING})
# In one row of a snapshot: trials with digests, bytes of one digest; results of a search.
MEASURED_CHUNK = 1024
MEASURED_BYTES = 16
RESULTS_CHUNK = 1024


@dataclass(slots=True)
class Attempt:
    """One try at a task. `digest` recognises a repetition of the outcome that ended it.

    `members` are the agents with the other places of a gang, by rank from 1; `agent` has rank 0.
    """

    number: int
    agent: str
    epoch: int
    lease_time_us: int
    failure: pb.Failure | None = None
    digest: bytes = b""
    ended: bool = False
    members: tuple[str, ...] = ()

    @property
    def agents(self) -> tuple[str, ...]:
        """All who hold it, by rank."""
        return (self.agent, *self.members)

    def holders(self) -> str:
        """Return who holds it, in words."""
        return f"{self.agent} with {', '.join(self.members)}" if self.members else self.agent


@dataclass(frozen=True, slots=True)
class Ask:
    """What a generate task asks: fixed when the task is created, so that every attempt asks the same.

    `call` is 0 for the enlargement of the final networks. Results [results_from, results_to) of the search are sent.
    """

    call: int
    results_from: int = 0
    results_to: int = 0
    count: int = 0
    in_flight: int = 0


@dataclass(slots=True)
class Task:
    """Work on behalf of a search (generate) or a trial (train, evaluate, and generate for an enqueued network).

    A generate task has an `ask` and trial 0, or the `proposal` that it admits for its trial, as long as it is open.
    `need_bytes`: what a training that did not fit where it ran needs of a device; 0: not known.
    """

    id: str
    kind: TaskKind
    search: str
    trial: int
    order: int
    state: TaskState = TaskState.QUEUED
    counted: int = 0
    losses: int = 0
    attempts: list[Attempt] = field(default_factory=list)
    checkpoint: object_pb2.ObjectRef | None = None
    ask: Ask | None = None
    proposal: generate_service_pb2.Proposal | None = None
    need_bytes: int = 0

    def current(self) -> Attempt:
        """Return the newest attempt; only for tasks that were leased."""
        return self.attempts[-1]

    def story(self) -> str:
        """Return what happened to the task, for the message of an illegal transition."""
        tries = "; ".join(
            f"attempt {a.number} by {a.holders()} epoch {a.epoch} "
            + (f"failed {a.failure.reason}" if a.failure else "ended" if a.ended else "open")
            for a in self.attempts
        )
        return (
            f"task {self.id} ({self.kind.name}) is {self.state.name}, {self.counted} counted: {tries or 'no attempt'}"
        )


def about(task: Task) -> dict[str, str | int]:
    """Return what log lines say of a leased task's current attempt."""
    attempt = task.current()
    return {"search": task.search, "task": task.id, "attempt": attempt.number, "epoch": attempt.epoch}


@dataclass(slots=True)
class SearchRun:
    """A search with what its generator and its budget need. `leaders` are (key, trial), smaller keys are better.

    `overdrawn_*` was there beyond the budget when a person lowered it. `measured` holds, by chunks of MEASURED_CHUNK,
    the digests of trials to take over from, `repeats` those of trials that measured what one of another search had
    measured before, `digests` those of trials at work; `reused` names searches taken over from.
    `ladder` has the rungs of a search phase with a rule of early stopping.
    """

    id: str
    spec: pb.SearchSpec
    create_time_us: int
    start_uptime_s: float
    state: SearchState = SearchState.RUNNING
    reason: str = ""
    end_time_us: int = 0
    stop_reason: str = ""
    sequence: int = 0
    trials: Trials = field(default_factory=Trials)
    outcomes: dict[int, int] = field(default_factory=dict)
    active: int = 0
    results: list[int] = field(default_factory=list)
    cursor: int = 0
    calls: int = 0
    iterations: int = 0
    empty_calls: int = 0
    generator_state: bytes = b""
    generator_version: str = ""
    after_results: int = 0
    in_flight_below: int = 0
    device_time_s: float = 0.0
    final_device_time_s: float = 0.0
    leaders: list[tuple[float, int]] = field(default_factory=list)
    final_trials: list[int] = field(default_factory=list)
    generate_task: str = ""
    open_tasks: dict[str, None] = field(default_factory=dict)
    paused: bool = False
    owner: str = ""
    traceparent: str = ""
    device_time_saved_s: float = 0.0
    overdrawn_trials: int = 0
    overdrawn_iterations: int = 0
    measured: dict[int, bytearray] = field(default_factory=dict)
    repeats: dict[int, bytearray] = field(default_factory=dict)
    reused: dict[str, None] = field(default_factory=dict)
    digests: dict[int, bytes] = field(default_factory=dict)
    ladder: Ladder | None = None
    digest_parts: tuple[pb.SearchSpec, bytes, bytes] | None = field(default=None, compare=False)

    @property
    def in_work(self) -> int:
        """Trials that have not ended and are not held at a rung."""
        return self.active if self.ladder is None else self.active - len(self.ladder.held)

    @property
    def name(self) -> str:
        """Resource name."""
        return f"searches/{self.id}"

    def trial_name(self, number: int) -> str:
        """Return the resource name of one of its trials."""
        return f"searches/{self.id}/trials/{number}"

    def final_sources(self) -> list[int]:
        """Return the trials that the final phase enlarges and trains: the best, or the last measured, newest first."""
        if self.spec.final.pick != pb.FINAL_PICK_LAST:
            return [number for _, number in self.leaders]
        measured = filter(lambda t: t.outcome == pb.TRIAL_OUTCOME_SUCCEEDED and not t.final, reversed(self.trials))
        newest = [trial.number for trial in islice(measured, max(1, self.spec.final.top_k))]
        return newest or sorted([number for _, number in self.leaders], reverse=True)  # those were scored at a rung


@dataclass(slots=True)
class State:
    """Everything that is durable. `dirty` names the rows that changed since the last snapshot, and is not compared.

    `drained` says of each drained agent whether its trainings are asked back. `deleted` are ids that stay used.
    `datasets` are those that were added, by resource name, in the order of adding.
    `measured` finds who measured a digest first, `repeats` who did in each other search, `measuring` who is at it,
    `waiting` who waits; as the searches say. `rules` is the revision of rules that the latest start named.
    `network_names` has "" for one that is gone; `network_uses` counts trials by network from the first deletion on.
    """

    epoch: int = 0
    sequence: int = 0
    uptime_s: float = 0.0
    tasks_created: int = 0
    searches: dict[str, SearchRun] = field(default_factory=dict)
    tasks: Tasks = field(default_factory=Tasks)
    networks: Networks = field(default_factory=Networks)
    network_names: list[str] = field(default_factory=list)
    drained: dict[str, bool] = field(default_factory=dict)
    deleted: dict[str, None] = field(default_factory=dict)
    datasets: dict[str, dataset_pb2.Dataset] = field(default_factory=dict)
    measured: dict[bytes, tuple[str, int]] = field(default_factory=dict)
    repeats: dict[bytes, dict[str, int]] = field(default_factory=dict)
    measuring: dict[bytes, tuple[str, int]] = field(default_factory=dict)
    waiting: dict[bytes, dict[tuple[str, int], None]] = field(default_factory=dict)
    rules: int = 0
    network_uses: dict[str, int] | None = field(default=None, compare=False)
    dirty: dict[str, None] = field(default_factory=dict, compare=False)
