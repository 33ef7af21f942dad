"""A scheduler that stood still (stopped, swapped out, held by its disk) blames nobody for the silence."""

import asyncio
from functools import partial

from nasmesh.clock import ManualClock
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import scheduler_service_pb2, search_pb2
from scheduler.core import Core
from scheduler.desk import Desk
from scheduler.domain import TaskState
from scheduler.engine import Engine
from scheduler.journal.base import Batch
from scheduler.journal.memory import MemoryJournal
from scheduler.searches import Searches
from tests.builders import scheduling as make

TASK = "s-g1"


async def leased(core: Core, desk: Desk) -> None:
    """Have an agent hold the first task of a search."""
    request = scheduler_service_pb2.CreateSearchRequest(search_id="s", spec=make.make_spec())
    entry = await core.submit(partial(desk.hello, make.Recorder(), make.make_hello("a")))
    await core.submit(partial(Searches(core.engine).create, request))
    ready = pb.AgentReady(kind=search_pb2.TASK_KIND_GENERATE, free=1)
    await core.submit(partial(desk.ready, entry, ready))
    assert core.engine.state.tasks[TASK].state is TaskState.RUNNING


async def stand_still(clock: ManualClock, core: Core, seconds: float) -> None:
    """Let time pass while nothing of the scheduler runs, and then let something arrive."""
    clock.advance(seconds)
    await core.submit(lambda: None)
    await core.submit(lambda: None)


def test_standstill_when_longer_than_leases_then_none_is_lost_and_silence_afterwards_still_counts() -> None:
    async def body() -> None:
        clock = ManualClock()
        core = Core(Engine(MemoryJournal(), clock))
        await core.recover()
        running = asyncio.create_task(core.run())
        desk = Desk(core.engine)
        await leased(core, desk)
        for _ in range(3):
            await stand_still(clock, core, 300.0)
        task = core.engine.state.tasks[TASK]
        assert task.state is TaskState.RUNNING
        assert len(task.attempts) == 1
        left = core.engine.next_deadline() - clock.monotonic()
        assert 0 < left <= core.engine.lease_s
        clock.advance(left + 0.5)  # in time to notice it: the agent is silent now
        await core.submit(lambda: None)
        await core.submit(lambda: None)
        assert [a.failure.reason for a in task.attempts[:1] if a.failure] == ["LEASE_EXPIRED"]
        running.cancel()

    asyncio.run(body())


class SlowJournal(MemoryJournal):
    """A disk that takes its time."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self.clock = clock
        self.holds_s = 0.0

    def append(self, batch: Batch) -> None:
        self.clock.advance(self.holds_s)
        super().append(batch)


def test_disk_when_a_commit_takes_longer_than_leases_then_none_is_lost() -> None:
    async def body() -> None:
        clock = ManualClock()
        journal = SlowJournal(clock)
        core = Core(Engine(journal, clock))
        await core.recover()
        running = asyncio.create_task(core.run())
        desk = Desk(core.engine)
        await leased(core, desk)
        searches = Searches(core.engine)
        for index in range(120):  # beyond the commits that the loop does not wait for
            if index == 110:
                journal.holds_s = 300.0
            request = scheduler_service_pb2.CreateSearchRequest(search_id=f"t{index}", spec=make.make_spec())
            request.validate_only = False
            await core.submit(partial(searches.create, request))
            journal.holds_s = 0.0
        task = core.engine.state.tasks[TASK]
        assert task.state is TaskState.RUNNING
        assert len(task.attempts) == 1
        running.cancel()

    asyncio.run(body())
