"""Journals with a past: a scheduler without sockets on a real file, and one agent that answers as told."""

import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from nasmesh.clock import ManualClock
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import job_pb2, search_pb2
from nasmesh.v1 import scheduler_service_pb2 as api
from scheduler.desk import Desk
from scheduler.domain import OPEN_SEARCHES
from scheduler.engine import Engine
from scheduler.journal.base import Journal
from scheduler.journal.schema import event_crc, row_crc
from scheduler.journal.sqlite import SqliteJournal
from scheduler.searches import Searches
from tests.builders import scheduling as make

Answer = Callable[[pb.Lease], pb.AttemptOutcome]


class Past:
    """A scheduler on a journal, until it is closed, or left as a killed one leaves it."""

    def __init__(
        self, at: Path | Journal, clock: ManualClock | None = None, server: job_pb2.Server | None = None
    ) -> None:
        self.clock = clock or ManualClock()
        self.engine = Engine(SqliteJournal(at) if isinstance(at, Path) else at, self.clock, seed=1)
        self.engine.recover()
        self.desk, self.searches = Desk(self.engine), Searches(self.engine)
        self.session = make.Recorder()
        hello = make.make_hello("past")
        if server is not None:
            del hello.server.generators[:]
            hello.server.generators.extend(server.generators)
        self.entry = self.do(partial(self.desk.hello, self.session, hello))

    def do(self, *commands: Any) -> Any:
        results = self.engine.execute(list(commands))
        for result in results:
            if isinstance(result, Exception):
                raise result
        return results[0] if results else None

    def leases(self, free: int = 2) -> list[pb.Lease]:
        """Say that there is room and return what is leased."""
        kinds = (pb.AgentReady(kind=search_pb2.TaskKind.ValueType(kind), free=free) for kind in make.ALL_KINDS)
        self.do(*(partial(self.desk.ready, self.entry, ready) for ready in kinds))
        found = [message.lease for message in self.session.sent if message.HasField("lease")]
        self.session.sent.clear()
        return found

    def create(self, search: str, **more: Any) -> None:
        spec = more.pop("spec", None) or make.make_spec(**more)
        request = api.CreateSearchRequest(search_id=search, spec=spec, request_id=f"create-{search}")
        self.do(partial(self.searches.create, request))

    def work(self, search: str, answer: Answer = make.make_outcome, *, until: int = 10_000) -> None:
        """Answer leases until the search has ended, or this many were answered; back-offs pass in the meantime."""
        while self.engine.state.searches[search].state in OPEN_SEARCHES and until > 0:
            self.clock.advance(2.0)
            self.do()
            for lease in self.leases():
                until -= 1
                self.report(answer(lease))

    def report(self, outcome: pb.AttemptOutcome) -> None:
        self.do(partial(self.desk.outcome, self.entry, outcome))

    def close(self) -> None:
        self.engine.journal.close()


def one_of_each(path: Path) -> None:
    """Write a journal at rest with a search that ended, "ended", and one at work, "open"."""
    past = Past(path)
    past.create("ended", max_trials=20)
    past.work("ended")
    past.create("open", max_trials=20, parallelism=4)
    past.work("open", until=9)
    past.close()


def ended(path: Path, search: str = "s", **more: Any) -> None:
    """Write a journal with one search that has ended."""
    past = Past(path)
    past.create(search, **{"max_trials": 5, "final": True, **more})
    past.work(search)
    past.close()


def recovered(path: Path) -> Engine:
    """Return a scheduler's engine that has read a journal back."""
    engine = Engine(SqliteJournal(path), ManualClock(), seed=1)
    engine.recover()
    return engine


def edit_event(path: Path, sequence: int, body: bytes) -> None:
    """Replace an event as somebody would who knows about checksums."""
    with sqlite3.connect(path) as db:
        db.execute("UPDATE event SET body = ?, crc = ? WHERE sequence = ?", (body, event_crc(sequence, body), sequence))


def edit_row(path: Path, key: str, body: bytes) -> None:
    """Replace a snapshot row likewise."""
    with sqlite3.connect(path) as db:
        db.execute("UPDATE snapshot SET body = ?, crc = ? WHERE key = ?", (body, row_crc(key, body), key))


def events_of(path: Path) -> dict[int, bytes]:
    """Return all events of a journal."""
    with sqlite3.connect(path) as db:
        return dict(db.execute("SELECT sequence, body FROM event ORDER BY sequence"))
