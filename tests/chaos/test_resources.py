"""T16: a journal's disk of 1 MiB, 64 descriptors, a full spool, a thousand connections: typed errors, nothing lost."""

import asyncio
import contextlib
import os
import resource
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
import pytest

from nasmesh.v1 import scheduler_service_pb2 as api
from nasmesh.v1 import scheduler_service_pb2_grpc as rpc
from tests.builders import scheduling as make
from tests.builders.addresses import free_address
from tests.chaos import witness
from tests.chaos.kills import check_journal
from tests.chaos.programs import Program, scheduler
from tests.chaos.service_kills import service
from tests.sim.history import Observation, faults

KIB = 1024
# Case: what runs for every change, and what the long version adds.
JOURNALS = (1024 * KIB, 512 * KIB, 2048 * KIB)
DESCRIPTORS = (64, 48, 128)
SPOOLS = ("train", "evaluate", "generate")
CONNECTIONS = (1000, 2000, 4000)

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 and os.environ.get("CI") != "true", reason="mounting a small disk needs root"
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    long = metafunc.config.getoption("--long")
    for name, cases in (("size", JOURNALS), ("most", DESCRIPTORS), ("kind", SPOOLS), ("count", CONNECTIONS)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, cases if long else cases[:1])


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[Callable[[int], None]]:
    """Mount a disk of so many bytes; yields what gives it another size."""
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=True)

    def resize(other: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={other}", str(path)], check=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", str(path)], check=True)


def fill(path: Path, *, leave: int) -> None:
    """Fill a disk but for so many bytes."""
    free = os.statvfs(path).f_bavail * os.statvfs(path).f_frsize
    (path / "filling").write_bytes(bytes(max(0, free - leave)))


@contextmanager
def served(program: Program) -> Iterator[Program]:
    program.start()
    try:
        assert program.await_serving()
        yield program
    finally:
        program.close()


async def search(address: str, history: list[Observation], name: str, trials: int) -> None:
    """Run a search to its end and check what came of it."""
    client = witness.Client(address, history)
    await client.create(name, make.make_spec(max_trials=trials, parallelism=8))
    await client.follow("watcher", name)
    witness.check_results(await client.read(name))


async def refused(address: str) -> tuple[grpc.RpcError, int]:
    """Return the error that a creation ends with before long, and how many were taken before."""
    number = 0
    while True:
        number += 1
        spec = make.make_spec(max_trials=1)
        try:
            async with witness.dial(address) as channel:
                request = api.CreateSearchRequest(search_id=f"filling-{number}", spec=spec)
                await rpc.SchedulerServiceStub(channel).CreateSearch(request, timeout=20)
        except grpc.RpcError as error:
            if "GENERATOR_ABSENT" not in str(error) and "no connected server" not in str(error):
                return error, number - 1
            number -= 1
            await witness.again()


@needs_root
def test_journal_when_its_disk_is_full_then_refused_with_the_reason_and_gone_on_with_once_there_is_room(
    tmp_path: Path, size: int, record_property: Callable[[str, object], None]
) -> None:
    history: list[Observation] = []
    address = free_address()

    async def body() -> None:
        async with witness.working(address, history):
            await asyncio.wait_for(search(address, history, "before", 5), 30)
            fill(tmp_path / "small", leave=96 * KIB)
            error, taken = await asyncio.wait_for(refused(address), 60)
            assert error.code() is grpc.StatusCode.UNAVAILABLE, error
            assert "no space left" in str(error.details()), error
            client = witness.Client(address, [])
            found = (await client.ask("GetSearch", api.GetSearchRequest(name="searches/before"))).search
            assert found.sequence > 0, "old rows are readable"
            resize(64 * 1024 * KIB)
            await asyncio.wait_for(search(address, history, "after", 5), 60)
            everything = witness.Client(address, history)
            for number in range(1, taken + 1):  # what was taken while the disk filled is all there
                await asyncio.wait_for(everything.follow("late", f"filling-{number}"), 30)
                await everything.read(f"filling-{number}")

    with small_disk(tmp_path / "small", size) as resize:
        with served(scheduler(tmp_path, address, journal_at=tmp_path / "small")):
            asyncio.run(body())
        check_journal(tmp_path / "small")
    assert not list(faults(history))
    record_property(
        "counts", f"T16: journal on a disk of {size} bytes: refused, then gone on with; {len(history)} observations"
    )


def test_scheduler_when_descriptors_run_out_then_it_goes_on_for_those_it_serves(
    tmp_path: Path, most: int, record_property: Callable[[str, object], None]
) -> None:
    history: list[Observation] = []
    address = free_address()
    host, _, port = address.partition(":")

    async def body(program: Program) -> None:
        async with witness.working(address, history):
            await asyncio.wait_for(search(address, history, "before", 5), 30)
            psutil.Process(program.pid).rlimit(psutil.RLIMIT_NOFILE, (most, most))
            idle = [socket.create_connection((host, int(port))) for _ in range(2 * most)]
            client = witness.Client(address, [])
            running = asyncio.create_task(search(address, history, "during", 20))
            await asyncio.sleep(0.5)
            assert not program.has_died()
            for connection in idle:
                connection.close()
            await asyncio.wait_for(running, 60)
            assert (await client.ask("GetServerInfo", api.GetServerInfoRequest())).epoch == 1

    with served(scheduler(tmp_path, address)) as program:
        asyncio.run(body(program))
    check_journal(tmp_path)
    assert not list(faults(history))
    record_property("counts", f"T16: {most} descriptors, {2 * most} connections: lived on; {len(history)} observations")


@needs_root
def test_agent_when_its_spool_is_full_then_work_goes_on_without_what_a_kill_would_need(
    tmp_path: Path, kind: str, record_property: Callable[[str, object], None]
) -> None:
    history: list[Observation] = []
    address = free_address()

    async def body() -> None:
        await asyncio.wait_for(search(address, history, "one", 4), 90)

    with contextlib.ExitStack() as stack:
        stack.enter_context(small_disk(tmp_path / kind, 64 * KIB))
        stack.enter_context(served(scheduler(tmp_path, address)))
        programs = [service(tmp_path, name, name, "--scheduler", address) for name in SPOOLS]
        for program in programs:
            stack.enter_context(served(program))
        fill(tmp_path / kind, leave=0)
        asyncio.run(body())
        full = next(program for program in programs if program.log.name == f"{kind}.log")
        assert "not_remembered" in full.log.read_text(), "the agent says that it could not spool"
    check_journal(tmp_path)
    assert not list(faults(history))
    record_property("counts", f"T16: full spool of {kind}: searched on; {len(history)} observations")


def test_scheduler_when_a_thousand_clients_connect_then_all_are_answered_and_forgotten(
    tmp_path: Path, count: int, record_property: Callable[[str, object], None]
) -> None:
    history: list[Observation] = []
    address = free_address()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4 * count + 1000), hard))

    async def one(opened: list[grpc.aio.Channel]) -> int:
        channel = witness.dial(address)
        opened.append(channel)
        return (await rpc.SchedulerServiceStub(channel).GetServerInfo(api.GetServerInfoRequest(), timeout=60)).epoch

    async def body(process: psutil.Process) -> int:
        opened: list[grpc.aio.Channel] = []
        async with witness.working(address, history):
            epochs = await asyncio.gather(*(one(opened) for _ in range(count)))
            assert epochs == [1] * count
            most = process.num_fds()
            assert most >= count, "they are all connected"
            await asyncio.wait_for(search(address, history, "among-many", 10), 60)
            await asyncio.gather(*(channel.close() for channel in opened))
            while process.num_fds() > most - count:
                await witness.again()
        return most

    with served(scheduler(tmp_path, address)) as program:
        process = psutil.Process(program.pid)
        before = process.memory_info().rss
        most = asyncio.run(asyncio.wait_for(body(process), 200))
        grown = (process.memory_info().rss - before) // KIB
    assert grown < 200 * KIB, f"{grown} KiB"
    assert not list(faults(history))
    record_property(
        "counts", f"T16: {count} clients, {most} descriptors, {grown // KIB} MiB; all answered, all forgotten"
    )
