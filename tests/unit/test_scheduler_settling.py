"""After a snapshot the journal is put in order: behind the replies, and beside a loop that goes on."""

import asyncio
import threading
from functools import partial

import pytest

from nasmesh.clock import ManualClock
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import scheduler_service_pb2, search_pb2
from scheduler.core import Core
from scheduler.desk import Desk
from scheduler.domain import TaskState
from scheduler.engine import Engine
from scheduler.journal.memory import MemoryJournal
from scheduler.searches import Searches
from tests.builders import scheduling as make

WAIT_S = 30.0


@pytest.fixture(autouse=True)
def _snapshots_come_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.engine.SNAPSHOT_EVENTS", 3)


class SettlingJournal(MemoryJournal):
    """Settles as long as it is held."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.takes_s = 0.0
        self.clock = ManualClock()

    def settle(self) -> None:
        self.begun.set()
        assert self.may_end.wait(WAIT_S)
        self.clock.advance(self.takes_s)


async def create(core: Core, name: str) -> None:
    request = scheduler_service_pb2.CreateSearchRequest(search_id=name, spec=make.make_spec())
    await core.submit(partial(Searches(core.engine).create, request))


async def until_it_settles(core: Core, journal: SettlingJournal) -> int:
    """Create searches, each answered, until a snapshot was written; returns how many."""
    for number in range(100):
        await create(core, f"s{number}")
        await asyncio.sleep(0)  # the replies of a step go out before it is settled
        if await asyncio.to_thread(journal.begun.wait, 0.05):
            return number + 1
    raise AssertionError("no snapshot was written")


def test_replies_when_a_snapshot_was_written_then_they_are_out_while_it_settles_and_the_next_step_waits() -> None:
    async def body() -> None:
        journal = SettlingJournal()
        core = Core(Engine(journal, journal.clock))
        await core.recover()
        running = asyncio.create_task(core.run())
        await core.submit(partial(Desk(core.engine).hello, make.Recorder(), make.make_hello("a")))
        made = await until_it_settles(core, journal)  # each was answered: nobody waited for the settling
        journal.clock.advance(1.0)
        assert core.engine.activity.stuck_s(journal.clock.monotonic()) == 1.0, "health sees a disk that hangs here too"
        later = asyncio.ensure_future(create(core, "later"))
        await asyncio.sleep(0.01)
        assert not later.done(), "nothing else of the journal is called meanwhile"
        assert len(core.engine.state.searches) == made
        journal.may_end.set()
        await asyncio.wait_for(later, WAIT_S)
        running.cancel()

    asyncio.run(body())


def test_settling_when_it_takes_longer_than_leases_then_none_is_lost() -> None:
    async def body() -> None:
        journal = SettlingJournal()
        journal.may_end.set()
        core = Core(Engine(journal, journal.clock))
        await core.recover()
        running = asyncio.create_task(core.run())
        desk = Desk(core.engine)
        entry = await core.submit(partial(desk.hello, make.Recorder(), make.make_hello("a")))
        await create(core, "first")
        ready = pb.AgentReady(kind=search_pb2.TASK_KIND_GENERATE, free=1)
        await core.submit(partial(desk.ready, entry, ready))
        began, journal.takes_s = journal.clock.monotonic(), 300.0
        journal.begun.clear()
        await until_it_settles(core, journal)
        journal.takes_s = 0.0
        await create(core, "last")
        assert journal.clock.monotonic() - began >= 300.0, "it was held so long"
        task = core.engine.state.tasks["first-g1"]
        assert (task.state, len(task.attempts)) == (TaskState.RUNNING, 1)
        running.cancel()

    asyncio.run(body())
