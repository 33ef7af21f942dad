"""Writes journal-vN.db: a journal as the last commit with schema N wrote it. Run in a checkout of that commit.

    git worktree add ../old COMMIT && cd ../old
    PYTHONPATH=. ../nasmesh/.venv/bin/python ../nasmesh/tests/assets/make_journal.py journal-vN.db EVENTS

    N  COMMIT   EVENTS between snapshots
    1  12c3422  40
    2  bb114dc  20

journal-postgres-v1.sql is journal-v2.db after `nasmesh admin migrate` of bb114dc, written by `pg_dump --schema=nasmesh
--inserts --no-owner --no-privileges`, without comments and settings.

It holds a snapshot and events after it, and searches of every kind: ended with a final phase, cancelled, quarantined,
and one in the middle, with an attempt in work, one queued, and a checkpoint to continue from.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

from nasmesh.clock import ManualClock
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import scheduler_service_pb2 as api
from nasmesh.v1 import search_pb2
from scheduler import engine as engine_module
from scheduler.desk import Desk
from scheduler.domain import OPEN_SEARCHES
from scheduler.engine import Engine
from scheduler.journal.sqlite import SqliteJournal
from scheduler.searches import Searches
from tests.builders import scheduling as make


class Old:
    """One scheduler of the old code with one agent that does as told."""

    def __init__(self, path: Path) -> None:
        engine_module.SNAPSHOT_EVENTS = int(sys.argv[2])
        self.clock = ManualClock()
        self.engine = Engine(SqliteJournal(path), self.clock, seed=1)
        self.engine.recover()
        self.desk, self.searches = Desk(self.engine), Searches(self.engine)
        self.session = make.Recorder()
        self.entry = self.do(partial(self.desk.hello, self.session, make.make_hello("old")))

    def do(self, *commands: Any) -> Any:
        results = self.engine.execute(list(commands))
        for result in results:
            if isinstance(result, Exception):
                raise result
        return results[0] if results else None

    def ready(self, free: int = 2) -> None:
        kinds = (pb.AgentReady(kind=search_pb2.TaskKind.ValueType(kind), free=free) for kind in make.ALL_KINDS)
        self.do(*(partial(self.desk.ready, self.entry, ready) for ready in kinds))

    def leases(self) -> list[pb.Lease]:
        found = [message.lease for message in self.session.sent if message.HasField("lease")]
        self.session.sent.clear()
        return found

    def create(self, search: str, **more: Any) -> None:
        request = api.CreateSearchRequest(search_id=search, spec=make.make_spec(**more), request_id=f"create-{search}")
        self.do(partial(self.searches.create, request))

    def work(self, search: str, outcome: Any = make.make_outcome, *, until: int = 10_000) -> None:
        """Answer leases until the search has ended, or this many were answered; back-offs pass in the meantime."""
        while self.engine.state.searches[search].state in OPEN_SEARCHES and until > 0:
            self.clock.advance(2.0)
            self.do()
            self.ready()
            for lease in self.leases():
                until -= 1
                self.do(partial(self.desk.outcome, self.entry, outcome(lease)))


def crash(lease: pb.Lease) -> pb.AttemptOutcome:
    return make.make_failure(lease) if lease.HasField("train") else make.make_outcome(lease)


def main() -> None:
    old = Old(Path(sys.argv[1]))
    old.create("ended", max_trials=4, parallelism=2, final=True)
    old.work("ended")
    old.create("quarantined", max_trials=1)
    old.work("quarantined", crash)
    old.create("cancelled", max_trials=3)
    old.ready()
    old.leases()
    old.do(partial(old.searches.cancel, api.CancelSearchRequest(name="searches/cancelled", request_id="cancel-1")))
    old.create("open", max_trials=8, parallelism=5)
    old.work("open", until=3)
    old.ready(free=1)
    beat = pb.AgentHeartbeat()
    for lease in old.leases():
        beat.attempts.add(token=lease.token, checkpoint=make.make_ref("kept checkpoint", "checkpoints"))
    old.do(partial(old.desk.heartbeat, old.entry, beat))
    state = old.engine.state
    for run in state.searches.values():
        print(run.id, run.state.name, len(run.trials), [(t, state.tasks[t].state.name) for t in run.open_tasks])
    print("events", state.sequence, "snapshot at", old.engine.journal.snapshot()[0])
    old.engine.journal.close()


if __name__ == "__main__":
    main()
