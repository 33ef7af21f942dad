"""The agents that are or were connected: what they can do, what they hold. In memory only: agents say it all again."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from nasmesh.errors import NasmeshError
from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import generate_service_pb2 as generate_pb
from nasmesh.v1 import job_pb2
from scheduler.domain import TaskKind

KEEP_GONE_S = 24 * 3600.0
"""So long an agent that is gone is shown to people, in seconds of uptime: a clock set forward forgets nobody."""
SWEEP_S = 3600.0


class Session(Protocol):
    """An agent's open stream. Messages are sent in order; neither method blocks or raises."""

    def send(self, message: dispatch_pb.WorkResponse) -> None:
        """Queue a message for the agent."""
        ...

    def close(self, error: NasmeshError) -> None:
        """End the stream with an error."""
        ...


@dataclass(slots=True)
class AgentEntry:
    """One agent. `gang_address`: where gangs that its train server leads expect the others; empty where it joins none.

    `draining` is its own wish, `drained` a person's. `free` is what it last said it can begin at once, less what it was
    given since, `ahead` the same of what would wait there for a slot; `held` and `used` are what it holds. The latter
    follow from the state; `free` and `ahead` do not, so that whoever gives and takes back must keep them right.
    `instance` tells agents of one name apart; `host` is the machine's name, `address` where it dialled in from.
    `gives_bytes` is what its server's trainings may hold together (0: it does not say), `gone_s` when its last stream
    ended, on the scheduler's monotonic clock.
    """

    name: str
    slots: dict[TaskKind, int]
    server: job_pb2.Server
    labels: dict[str, str]
    session: Session | None
    last_seen_us: int
    draining: bool = False
    drained: bool = False
    gang_address: str = ""
    accepts_batches: bool = False
    version: str = ""
    instance: str = ""
    host: str = ""
    address: str = ""
    gives_bytes: int = 0
    gone_s: float = 0.0
    most_ahead: dict[TaskKind, int] = field(default_factory=dict)
    free: dict[TaskKind, int] = field(default_factory=dict)
    ahead: dict[TaskKind, int] = field(default_factory=dict)
    held: dict[str, TaskKind] = field(default_factory=dict)
    used: dict[TaskKind, int] = field(default_factory=dict)
    sorts: dict[TaskKind, frozenset[str] | None] = field(default_factory=dict)

    def room(self, kind: TaskKind) -> int:
        """Return how many leases of a kind it can begin now: within its slots, and what it asked for."""
        free = self.free.get(kind, 0)
        if free <= 0 or self.session is None or self.draining or self.drained:
            return 0
        left = self.slots.get(kind, 0) - self.used.get(kind, 0)
        return free if free < left else left

    def room_ahead(self, kind: TaskKind) -> int:
        """Return how many leases of a kind it would take beyond those, to begin them when a slot comes free."""
        ahead = self.ahead.get(kind, 0)
        if ahead <= 0 or self.session is None or self.draining or self.drained:
            return 0
        left = self.slots.get(kind, 0) + self.most_ahead.get(kind, 0) - self.used.get(kind, 0)
        return ahead if ahead < left else left

    def given(self, kind: TaskKind) -> bool:
        """Take a lease off what it asked for; returns whether it is one that waits there for a slot."""
        free = self.free.get(kind, 0)
        if free > 0:
            self.free[kind] = free - 1
            return False
        self.ahead[kind] = max(0, self.ahead.get(kind, 0) - 1)
        return True

    def taken_back(self, kind: TaskKind, *, ahead: bool) -> None:
        """Put back what `given` took, because the agent never heard of the lease."""
        room = self.ahead if ahead else self.free
        room[kind] = room.get(kind, 0) + 1

    def sort(self, kind: TaskKind) -> frozenset[str] | None:
        """Return what it can do of a kind: names of generators or data sets; None: anything."""
        if kind not in self.sorts:
            names: frozenset[str] | None = frozenset(generator.name for generator in self.server.generators)
            if kind is not TaskKind.GENERATE:
                known = self.server.datasets
                names = frozenset(d.name for d in known if d.available) if known else None
            self.sorts[kind] = names
        return self.sorts[kind]

    def can_do(self, kind: TaskKind, need: str) -> bool:
        """Say whether it serves what a task needs: a generator or a data set, "" for any."""
        names = self.sort(kind)
        return names is None or not need or need in names

    def can_train(self, data: str) -> bool:
        """Say whether it drives a train server that has a data set ("" for any)."""
        return bool(self.slots.get(TaskKind.TRAIN)) and self.can_do(TaskKind.TRAIN, data)


class Agents:
    """All agents known since the start."""

    def __init__(self) -> None:
        """Know none."""
        self._swept = 0.0
        self._entries: dict[str, AgentEntry] = {}
        self._held: dict[str, dict[str, TaskKind]] = {}

    def get(self, name: str) -> AgentEntry | None:
        """Return an agent by name."""
        return self._entries.get(name)

    def put(self, entry: AgentEntry, now: float) -> None:
        """Add or replace an agent, which came now, in monotonic seconds; what it holds stays.

        Those that are gone for long are forgotten now and then.
        """
        if now - self._swept > SWEEP_S:
            self._swept = now
            self._forget_gone(now - KEEP_GONE_S)
        self._entries[entry.name] = entry
        self._book(entry)

    def _book(self, entry: AgentEntry) -> None:
        entry.held = self._held.setdefault(entry.name, {})
        entry.used = dict(Counter(entry.held.values()))

    def _forget_gone(self, before: float) -> None:
        """Forget agents that hold nothing and whose stream ended before a time: names of deployers come once only."""
        for name, known in list(self._entries.items()):
            if known.session is None and not self._held.get(name) and known.gone_s < before:
                del self._entries[name]
                self._held.pop(name, None)

    def all(self) -> Iterable[AgentEntry]:
        """Return all agents in the order of names."""
        return [self._entries[name] for name in sorted(self._entries)]

    def connected(self) -> Iterable[AgentEntry]:
        """Return the agents with an open stream, in the order of names."""
        return [entry for entry in self.all() if entry.session is not None]

    def known(self, now: float, keep_s: float) -> Iterable[AgentEntry]:
        """Return the agents with an open stream, and those whose last one ended less than `keep_s` ago."""
        return [entry for entry in self.all() if entry.session is not None or now - entry.gone_s < keep_s]

    def held_by(self, name: str) -> list[str]:
        """Return the tasks that an agent holds, known or not."""
        return list(self._held.get(name, ()))

    def forget_held(self) -> None:
        """Forget what agents hold, before it is booked again."""
        self._held.clear()
        for entry in self._entries.values():
            self._book(entry)

    def grant(self, name: str, task: str, kind: TaskKind) -> None:
        """Book a lease on an agent, which need not be known yet."""
        self._held.setdefault(name, {})[task] = kind
        entry = self._entries.get(name)
        if entry is not None:
            entry.used[kind] = entry.used.get(kind, 0) + 1

    def release(self, name: str, task: str) -> tuple[AgentEntry, TaskKind] | None:
        """Book the end of an attempt; returns the agent, if it is known, and the kind that it has a slot more for."""
        kind = self._held[name].pop(task, None) if name in self._held else None
        entry = self._entries.get(name)
        if entry is None or kind is None:
            return None
        entry.used[kind] -= 1
        return entry, kind

    def generator(self, name: str) -> generate_pb.Generator | None:
        """Return a generator that a connected agent serves."""
        return next((g for g in self.generators() if g.name == name), None)

    def generators(self) -> list[generate_pb.Generator]:
        """Return the generators that connected agents serve, by name, each once."""
        found = {g.name: g for entry in self.connected() for g in entry.server.generators}
        return [found[name] for name in sorted(found)]
