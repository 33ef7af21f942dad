"""What one step of the engine gathers before it is durable: results, events, messages, news."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from scheduler.agents import AgentEntry, Session
from scheduler.domain import TaskKind
from scheduler.journal.base import Answer, Batch
from scheduler.watch import Change

Command = Callable[[], object]


class News(NamedTuple):
    """A change for the watchers of a search; `ended`: it is the last one."""

    search: str
    change: Change
    ended: bool


@dataclass(slots=True)
class Step:
    """What one step is about to do. `results` holds a value or an error for each command, in order.

    `unheard` counts the news of each search, which nobody has been told of yet.
    """

    first_sequence: int
    results: list[object] = field(default_factory=list)
    events: list[bytes] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)
    outbox: list[tuple[Session, dispatch_pb.WorkResponse]] = field(default_factory=list)
    news: list[News] = field(default_factory=list)
    unheard: dict[str, int] = field(default_factory=dict)
    given: list[tuple[AgentEntry, TaskKind]] = field(default_factory=list)
    batch: Batch | None = None

    def tell(self, news: News) -> None:
        """Add a change for watchers."""
        self.news.append(news)
        self.unheard[news.search] = self.unheard.get(news.search, 0) + 1
