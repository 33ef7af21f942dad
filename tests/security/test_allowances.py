"""How much one owner may have, and how often a caller may call, are the operator's to say: on a real server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nasmesh.errors import Busy, Invalid, NotFound
from nasmesh.rpc.channel import open_aio_channel
from nasmesh.rpc.rates import Rates
from nasmesh.settings import read_settings
from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import dispatch_service_pb2_grpc as dispatch_rpc
from nasmesh.v1 import scheduler_service_pb2 as pb
from nasmesh.v1 import scheduler_service_pb2_grpc as rpc
from scheduler.__main__ import main, parse_flags
from scheduler.program import start
from scheduler.quotas import Quotas
from tests.builders import scheduler_lifecycle as wish
from tests.builders import scheduling as make
from tests.builders.access import Mesh, make_mesh
from tests.builders.scheduler_calls import go, refused
from tests.builders.scheduler_server import ScriptedAgent, create


@asynccontextmanager
async def serving(mesh: Mesh, environ: dict[str, str], *flags: str) -> AsyncIterator[str]:
    """Serve with what a command line and an environment say, and an agent; yields the address."""
    access = mesh.access(tokens=True).flags()
    given = ["--listen", "127.0.0.1:0", "--journal", "memory:", "--store", "memory:", *access, *flags]
    scheduler = await start(parse_flags(given, read_settings(environ)))
    try:
        token = mesh.client(token=mesh.token("worker", "agent"))
        async with open_aio_channel(scheduler.address, access=token) as channel:
            await ScriptedAgent(channel).greet(make.make_hello("worker"))
            yield scheduler.address
    finally:
        await scheduler.stop(0)


@asynccontextmanager
async def client(mesh: Mesh, address: str, name: str) -> AsyncIterator[Any]:
    access = mesh.client(token=mesh.token(name, "client:write"))
    async with open_aio_channel(address, access=access) as channel:
        yield rpc.SchedulerServiceStub(channel)


async def busy(call: Any) -> Busy:
    error = await refused(call, Busy)
    assert isinstance(error, Busy)
    return error


def test_quotas_when_given_then_each_owner_has_those_and_no_other(tmp_path: Path) -> None:
    mesh = make_mesh(tmp_path)

    async def body() -> None:
        environ = {"NASMESH_QUEUED_NETWORKS": "1", "NASMESH_OPEN_SEARCHES": "7"}
        async with (
            serving(mesh, environ, "--open-searches", "2", "--watches", "1") as address,
            client(mesh, address, "ann") as ann,
            client(mesh, address, "ben") as ben,
        ):
            await create(ann, make.make_spec(), search_id="a")
            await create(ann, make.make_spec(), search_id="b")
            error = await busy(create(ann, make.make_spec(), search_id="c"))
            assert (error.reason, error.metadata) == ("QUOTA_EXCEEDED", {"quota": "open_searches", "limit": "2"})
            assert "at most 2 at once" in error.message
            await create(ben, make.make_spec(), search_id="d")
            await ben.EnqueueTrial(wish.enqueue("d", "x")[1])
            error = await busy(ben.EnqueueTrial(wish.enqueue("d", "y")[1]))
            assert (error.reason, error.metadata) == ("QUOTA_EXCEEDED", {"quota": "queued_networks", "limit": "1"})
            watch = ben.WatchSearch(pb.WatchSearchRequest(name="searches/d"))
            await watch.read()
            error = await busy(ben.WatchSearch(pb.WatchSearchRequest(name="searches/d")).read())
            assert (error.reason, "1 watches" in error.message) == ("WATCHES_EXCEEDED", True)
            watch.cancel()

    go(body())


def test_rate_when_given_then_calls_beyond_its_burst_are_refused(tmp_path: Path) -> None:
    mesh = make_mesh(tmp_path)

    async def body() -> None:
        async with (
            serving(mesh, {"NASMESH_CLIENT_RATE": "0.001/3"}) as address,
            client(mesh, address, "ann") as ann,
        ):
            for _ in range(3):
                await ann.GetServerInfo(pb.GetServerInfoRequest())
            error = await busy(ann.GetServerInfo(pb.GetServerInfoRequest()))
            assert (error.reason, "0.001 times a second" in error.message) == ("RATE_EXCEEDED", True)

    go(body())


def test_agents_rate_when_given_then_its_stream_is_not_counted_and_calls_beyond_the_burst_are_refused(
    tmp_path: Path,
) -> None:
    mesh = make_mesh(tmp_path)

    async def body() -> None:
        async with serving(mesh, {"NASMESH_AGENT_RATE": "0.001/2"}) as address:
            token = mesh.client(token=mesh.token("other", "agent"))
            async with open_aio_channel(address, access=token) as channel:
                agent = ScriptedAgent(channel)
                await agent.greet(make.make_hello("other"))
                stub = dispatch_rpc.DispatchServiceStub(channel)
                unknown = dispatch_pb.GetAttemptRequest(task="a-t1-train")
                for _ in range(2):
                    error = await refused(stub.GetAttempt(unknown), NotFound)
                    assert error.message == "there is no attempt at task 'a-t1-train'"
                error = await busy(stub.GetAttempt(unknown))
                assert (error.reason, "0.001 times a second" in error.message) == ("RATE_EXCEEDED", True)

    go(body())


def test_numbers_when_left_out_then_those_of_the_documents() -> None:
    options = parse_flags([], read_settings({}))
    assert (options.quotas, options.rates) == (Quotas(), Rates())
    told = Path("docs/security.md").read_text()
    quotas, rates = options.quotas, options.rates
    for flag, number in (
        ("open-searches N", quotas.open_searches),
        ("queued-networks N", quotas.queued_networks),
        ("watches N", rates.watches),
        ("client-rate CALLS/BURST", rates.client),
        ("agent-rate CALLS/BURST", rates.agent),
    ):
        variable = flag.split()[0].replace("-", "_").upper()
        assert f"| `--{flag}` | `NASMESH_{variable}` | {number} |" in told


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *(
            (flag, value)
            for flag in ("open-searches", "queued-networks", "watches")
            for value in ("0", "-1", "1.5", "x")
        ),
        ("open-searches", "1000001"),
        ("open-searches", "٣"),
        *(("client-rate", value) for value in ("10", "0/5", "5/0.5", "nan/5", "5/inf", "-1/5", "1/2/3", "1e3/5", "")),
        ("agent-rate", "2000000/5"),
    ],
)
def test_number_when_it_makes_no_sense_then_refused_by_its_name(
    flag: str, value: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([f"--{flag}={value}"]) == 2
    assert f"error: {flag}: " in capfd.readouterr().err
    variable = f"NASMESH_{flag.replace('-', '_').upper()}"
    if value:
        with pytest.raises(Invalid) as caught:
            read_settings({variable: value})
        assert (caught.value.reason, caught.value.field) == ("SETTING_INVALID", variable)
