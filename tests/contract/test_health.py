"""Health that means it: a real scheduler with a journal that is full, stuck, or slow to be read back."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nasmesh.clock import ManualClock
from nasmesh.errors import Unavailable
from nasmesh.rpc.channel import open_channel
from nasmesh.store.memory import MemoryStore
from nasmesh.v1 import scheduler_service_pb2 as api
from scheduler.activity import Activity
from scheduler.engine import RETRY_JOURNAL_S, Engine
from scheduler.journal.base import Batch
from scheduler.journal.memory import MemoryDisk, MemoryJournal
from scheduler.pace import FOLLOWED
from scheduler.program import Options, Scheduler, start
from tests.builders import scheduling as make
from tests.builders.health import NOT_SERVING, SERVING, health_of, until
from tests.builders.scheduler_calls import go, refused
from tests.builders.scheduler_server import client, create, working
from tests.e2e.mesh import ROOT, await_port_file

STUCK_S = 0.2
NAMES = ("", "nasmesh.v1.SchedulerService", "nasmesh.v1.DispatchService")


class HeldJournal(MemoryJournal):
    """A journal whose reads and writes can be made to hang, as a disk on a lost network does."""

    def __init__(self, disk: MemoryDisk | None = None) -> None:
        super().__init__(disk)
        self.writes = threading.Event()
        self.reads = threading.Event()
        self.writes.set()
        self.reads.set()

    def append(self, batch: Batch) -> None:
        self.writes.wait()
        super().append(batch)

    def snapshot(self) -> tuple[int, Iterator[tuple[str, bytes]]]:
        self.reads.wait()
        return super().snapshot()


async def statuses(stub: health_pb2_grpc.HealthStub) -> set[int]:
    return {(await stub.Check(health_pb2.HealthCheckRequest(service=name))).status for name in NAMES}


async def serve(journal: MemoryJournal) -> Scheduler:
    return await start(
        Options("127.0.0.1:0", "memory:", "memory:"), journal=journal, store=MemoryStore(), stuck_s=STUCK_S
    )


async def info(address: str) -> api.GetServerInfoResponse:
    async with client(address) as stub:
        return await stub.GetServerInfo(api.GetServerInfoRequest())


def test_journal_when_full_then_not_serving_and_serving_again_without_any_call() -> None:
    async def body() -> None:
        disk = MemoryDisk()
        scheduler = await serve(MemoryJournal(disk))
        address = scheduler.address
        async with health_of(address) as health, client(address) as stub, working(address, lambda _: None):
            assert await statuses(health) == {SERVING}
            await create(stub, make.make_spec(max_trials=1), search_id="before")
            disk.full = True
            error = await refused(create(stub, make.make_spec(max_trials=1), search_id="refused"), Unavailable)
            assert error.reason == "JOURNAL_FULL"
            await until(health, NOT_SERVING)
            activity = (await info(address)).activity
            assert not activity.serving
            assert activity.commit_failures >= 1
            disk.full = False
            await until(health, SERVING)
            assert await statuses(health) == {SERVING}
            assert (await info(address)).activity.serving
        await scheduler.stop(0)

    go(body())


@pytest.mark.parametrize("commits", [1, 2 * FOLLOWED], ids=["at the start", "while the loop waits for commits"])
def test_journal_when_stuck_then_not_serving_and_info_still_answers(commits: int) -> None:
    async def body() -> None:
        journal = HeldJournal()
        scheduler = await serve(journal)
        address = scheduler.address
        async with health_of(address) as health, client(address) as stub, working(address, lambda _: None):
            await create(stub, make.make_spec(max_trials=1), search_id="before")
            for number in range(commits):
                await stub.CancelSearch(api.CancelSearchRequest(name="searches/before", request_id=f"r{number}"))
            journal.writes.clear()
            waiting = asyncio.ensure_future(create(stub, make.make_spec(max_trials=1), search_id="stuck"))
            await until(health, NOT_SERVING)
            assert await statuses(health) == {NOT_SERVING}
            assert not (await info(address)).activity.serving
            assert not waiting.done()
            journal.writes.set()
            await until(health, SERVING)
            assert (await waiting).name == "searches/stuck"
        await scheduler.stop(0)

    go(body())


def test_commit_when_old_and_nothing_waits_then_not_stuck() -> None:
    activity = Activity()
    activity.writing(100.0)
    activity.committed(100.5)
    assert activity.stuck_s(10_000.0) == 0.0
    activity.writing(10_000.0)
    assert activity.stuck_s(10_011.0) == 11.0
    activity.commit_failed(10_011.0)
    activity.writing(10_012.0)
    activity.commit_failed(10_012.0)
    assert activity.stuck_s(10_020.0) == 9.0, "since the first refusal"
    activity.writing(10_020.0)
    activity.committed(10_021.0)
    assert activity.stuck_s(10_030.0) == 0.0


def test_scheduler_when_replay_is_not_done_then_not_serving_until_it_is() -> None:
    async def body() -> None:
        journal = HeldJournal()
        journal.reads.clear()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        options = Options(f"127.0.0.1:{port}", "memory:", "memory:")
        starting = asyncio.create_task(start(options, journal=journal, store=MemoryStore()))
        async with health_of(f"127.0.0.1:{port}") as health:
            told = await health.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True)
            assert told.status == NOT_SERVING
            journal.reads.set()
            await until(health, SERVING)
        await (await starting).stop(0)

    go(body())


def test_scheduler_when_it_stops_then_watchers_of_health_hear_it_first() -> None:
    async def body() -> None:
        scheduler = await serve(MemoryJournal())
        async with health_of(scheduler.address) as health:
            heard = asyncio.create_task(until(health, NOT_SERVING))
            assert await statuses(health) == {SERVING}
            await scheduler.stop(1)
            await asyncio.wait_for(heard, 5)

    go(body())


def test_journal_when_it_mends_without_work_then_the_engine_notices_by_itself() -> None:
    disk = MemoryDisk()
    clock = ManualClock()
    engine = Engine(MemoryJournal(disk), clock)
    engine.recover()
    disk.full = True
    step = engine.prepare([])
    engine.abort(step, Unavailable("JOURNAL_FULL", "full"))
    assert engine.next_deadline() == clock.monotonic() + RETRY_JOURNAL_S
    clock.advance(RETRY_JOURNAL_S)
    engine.execute([])
    assert engine.next_deadline() == clock.monotonic() + RETRY_JOURNAL_S, "refused once more"
    disk.full = False
    clock.advance(RETRY_JOURNAL_S)
    engine.execute([])
    assert engine.next_deadline() == float("inf")


def test_server_when_it_drains_then_watchers_of_health_hear_it(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("NASMESH_")}
    flags = ["--listen", "127.0.0.1:0", "--port-file", str(tmp_path / "port")]
    process = subprocess.Popen(
        [sys.executable, "-m", "generate_svc", *flags],
        env={**environment, "NASMESH_HOME": str(tmp_path)},
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    try:
        address = await_port_file(process, tmp_path / "port")
        with open_channel(address) as channel:
            heard = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert next(heard).status == SERVING
            process.send_signal(signal.SIGTERM)
            assert next(heard).status == NOT_SERVING
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
