"""What one step of the engine gathers before it is durable: results, events, messages, news."""

from collections.abc import Callable
from dataclasses import dataclass, field

from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from scheduler.agents import AgentEntry, Session
from scheduler.domain import TaskKind
from scheduler.journal.base import Answer, Batch
from scheduler.watch import Change

Command = Callable[[], object]


@dataclass(slots=True)
class Step:
    """What one step is about to do. `results` holds a value or an error for each command, in order.

    `news` are the changes of each search, `ended` the searches that have no more after them.
    """

    first_sequence: int
    results: list[object] = field(default_factory=list)
    events: list[bytes] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)
    outbox: list[tuple[Session, dispatch_pb.WorkResponse]] = field(default_factory=list)
    news: dict[str, list[Change]] = field(default_factory=dict)
    ended: dict[str, None] = field(default_factory=dict)
    given: list[tuple[AgentEntry, TaskKind, bool]] = field(default_factory=list)
    batch: Batch | None = None
