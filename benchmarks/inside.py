"""A scheduler's engine with agents in the same process, without sockets: what the scheduler itself costs."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks import noop
from nasmesh.clock import SystemClock
from nasmesh.errors import NasmeshError
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import scheduler_service_pb2 as api
from nasmesh.v1 import search_pb2
from scheduler.agents import AgentEntry
from scheduler.desk import Desk
from scheduler.engine import Engine
from scheduler.journal.sqlite import SqliteJournal
from scheduler.searches import Searches


class _Inbox:
    """An agent's stream as the engine sees it: what was sent is kept until it is read."""

    def __init__(self) -> None:
        self.leases: list[pb.Lease] = []
        self.replies = 0

    def send(self, message: pb.WorkResponse) -> None:
        """Keep leases, count acknowledgements."""
        kind = message.WhichOneof("kind")
        if kind == "lease":
            self.leases.append(message.lease)
        elif kind == "outcome_reply":
            self.replies += 1
        elif kind == "batch":
            self.leases.extend(message.batch.leases)
            self.replies += len(message.batch.outcome_replies)

    def close(self, error: NasmeshError) -> None:
        """Raise: nothing here closes streams."""
        raise error


@dataclass(slots=True)
class Spent:
    """What steps took and did: processor time of the engine, wall time of the journal's writes, each step's wall time.

    `batches` holds the events that were written, step by step, where they are kept.
    """

    tasks: int = 0
    engine_s: float = 0.0
    journal_s: float = 0.0
    step_s: list[float] = field(default_factory=list)
    batches: list[tuple[bytes, ...]] = field(default_factory=list)


class Inside:
    """An engine over an SQLite journal (synchronous=FULL) and agents that end whatever they are leased at once."""

    def __init__(self, path: Path, *, agents: int = 64, in_flight: int = 64) -> None:
        """Open the journal at `path`; every agent has one slot for training and one for scoring."""
        self.engine = Engine(SqliteJournal(path), SystemClock())
        self.engine.recover()
        self._desk = Desk(self.engine)
        self._outcomes = noop.Outcomes(in_flight_below=in_flight)
        self._in_flight = in_flight
        self.keeps_batches = False
        self._agents: list[tuple[AgentEntry, _Inbox]] = []
        self.engine.execute([])
        kinds = [(noop.TRAIN, noop.EVALUATE), (noop.GENERATE,)]
        for index in range(agents):
            self._connect(f"worker-{index:03d}", kinds[0])
        self._connect("proposer", kinds[1])

    def _connect(self, name: str, kinds: tuple[search_pb2.TaskKind.ValueType, ...]) -> None:
        inbox = _Inbox()
        entry = self.engine.execute([partial(self._desk.hello, inbox, noop.hello(name, kinds))])[0]
        if not isinstance(entry, AgentEntry):
            raise RuntimeError(f"{name} was refused: {entry}")
        self._agents.append((entry, inbox))
        self.engine.execute([partial(self._desk.ready, entry, pb.AgentReady(kind=kind, free=1)) for kind in kinds])

    def create(self, search_id: str, *, trials: int) -> None:
        """Create a search of so many trials."""
        spec = noop.spec(max_trials=trials, parallelism=self._in_flight)
        request = api.CreateSearchRequest(search_id=search_id, spec=spec)
        answer = self.engine.execute([partial(Searches(self.engine).create, request)])[0]
        if isinstance(answer, Exception):
            raise answer

    def close(self) -> None:
        """Close the journal."""
        self.engine.journal.close()

    def work(self, *, until_tasks: int | None = None) -> Spent:
        """Let agents work until so many tasks have ended, or until nothing is left; returns what the engine spent."""
        spent = Spent()
        while until_tasks is None or spent.tasks < until_tasks:
            commands = self._reports()
            if not commands:
                break
            self._step(commands, spent)
        return spent

    def _reports(self) -> list[Callable[[], object]]:
        commands: list[Callable[[], object]] = []
        for entry, inbox in self._agents:
            leases, inbox.leases = inbox.leases, []
            for lease in leases:
                outcome = pb.AttemptOutcome()
                outcome.CopyFrom(self._outcomes.of(lease))
                commands.append(partial(self._desk.outcome, entry, outcome))
            for kind in {_KINDS[lease.WhichOneof("work") or ""] for lease in leases}:
                commands.append(partial(self._desk.ready, entry, pb.AgentReady(kind=kind, free=1)))
        return commands

    def _step(self, commands: list[Callable[[], object]], spent: Spent) -> None:
        before = sum(inbox.replies for _, inbox in self._agents)
        started, processor = time.perf_counter(), time.thread_time()
        step = self.engine.prepare(commands)
        prepared, engine = time.perf_counter(), time.thread_time() - processor
        if step.batch is not None:
            self.engine.journal.append(step.batch)
            if self.keeps_batches:
                spent.batches.append(step.batch.events)
        appended, processor = time.perf_counter(), time.thread_time()
        self.engine.publish(step)
        spent.engine_s += engine + time.thread_time() - processor
        spent.journal_s += appended - prepared
        spent.step_s.append(time.perf_counter() - started)
        for result in step.results:
            if isinstance(result, Exception):
                raise result
        spent.tasks += sum(inbox.replies for _, inbox in self._agents) - before


_KINDS = {"generate": noop.GENERATE, "train": noop.TRAIN, "evaluate": noop.EVALUATE}
