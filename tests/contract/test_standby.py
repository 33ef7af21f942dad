"""A scheduler that stands by: not serving, refusing in words, then leading; clients and agents that find it."""

import asyncio
import time
from contextlib import closing
from pathlib import Path

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2

from nasmesh.client import Client
from nasmesh.errors import Invalid, Stale, Unavailable
from nasmesh.rpc.channel import errors_from_rpc
from nasmesh.settings import parse_addresses
from nasmesh.v1 import scheduler_service_pb2 as api
from scheduler.journal.places import journal_at
from scheduler.program import Options, Scheduler, start
from tests.builders import scheduling as make
from tests.builders.addresses import free_address
from tests.builders.health import NOT_SERVING, SERVING, health_of, until
from tests.builders.scheduler_server import client, create, working

TAKE_OVER_S = 10.0


@pytest.fixture(params=["sqlite", "postgres"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:{tmp_path / 'journal.db'}"
    found: str = request.getfixturevalue("database")
    return found


def options(journal: str, address: str) -> Options:
    return Options(address, journal, "memory:", standby=True)


async def health(address: str) -> int:
    async with health_of(address) as stub:
        reply = await stub.Check(health_pb2.HealthCheckRequest())
    return int(reply.status)


async def standing(address: str) -> None:
    """Return once a server answers there."""
    while True:
        try:
            assert await health(address) == NOT_SERVING
            return
        except grpc.RpcError:  # not served yet
            await asyncio.sleep(0.02)


def test_standby_when_another_leads_then_it_refuses_and_takes_over_with_everything(journal: str) -> None:
    async def body() -> None:
        one, two = free_address(), free_address()
        first = await start(options(journal, one))
        async with client(one) as stub, working(one):
            created = await create(stub, make.make_spec(max_trials=2), search_id="s", request_id="once")
        second = asyncio.create_task(start(options(journal, two)))
        await standing(two)
        async with client(two) as stub:
            for call in (
                stub.GetSearch(api.GetSearchRequest(name="searches/s")),
                stub.GetServerInfo(api.GetServerInfoRequest()),
            ):
                with pytest.raises(Unavailable, match="another leads") as caught, errors_from_rpc():
                    await call
                assert caught.value.reason == "STANDBY"
            with pytest.raises(Unavailable, match="another leads"), errors_from_rpc():
                async for _ in stub.WatchSearch(api.WatchSearchRequest(name="searches/s")):
                    pass
        assert not second.done()
        async with health_of(two) as told:
            serving = asyncio.create_task(until(told, SERVING))
            began = time.monotonic()
            await first.stop(0)
            led: Scheduler = await second
            await asyncio.wait_for(serving, TAKE_OVER_S)
        assert time.monotonic() - began < TAKE_OVER_S
        assert led.core.engine.state.epoch == 2
        async with client(two) as stub, working(two):
            again = await create(stub, make.make_spec(max_trials=2), search_id="s", request_id="once")
        assert again.create_time == created.create_time
        await led.stop(0)

    asyncio.run(body())


def test_leader_when_its_lock_is_lost_while_idle_then_it_stops_and_the_standby_leads(database: str) -> None:
    async def body() -> None:
        one, two = free_address(), free_address()
        first = await start(options(database, one))
        second = asyncio.create_task(start(options(database, two)))
        await standing(two)
        with psycopg.connect(database, autocommit=True) as db:
            db.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted")
        led = await asyncio.wait_for(second, TAKE_OVER_S * 3)
        with pytest.raises(Stale) as caught:
            await asyncio.wait_for(first.wait(), TAKE_OVER_S)
        assert caught.value.reason == "LEADERSHIP_LOST"
        await first.stop(0)
        assert await health(two) == SERVING
        await led.stop(0)

    asyncio.run(body())


def test_standby_when_the_database_is_refused_for_good_then_it_ends(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as db:
        db.execute("CREATE TABLE recipes (name text)")

    async def body() -> None:
        with pytest.raises(Invalid, match="something else"):
            await start(options(database, "127.0.0.1:0"))

    asyncio.run(body())


def test_client_when_given_several_addresses_then_it_asks_the_one_that_leads(tmp_path: Path) -> None:
    journal = f"sqlite:{tmp_path / 'journal.db'}"

    def ask(addresses: str) -> tuple[str, int, list[str]]:
        with closing(Client(addresses, patience_s=20.0)) as asking:
            info = asking.server_info()
            names = [search.name for search in asking.list_searches()]
            return asking.address, info.epoch, names

    def follow(addresses: str) -> str:
        with closing(Client(addresses, patience_s=30.0)) as asking:
            return [change.search.name for change in asking.watch("s") if change.HasField("search")][-1]

    async def body() -> None:
        one, two, nobody = free_address(), free_address(), free_address()
        addresses = f"{nobody},{two},{one}"
        first = await start(options(journal, one))
        second = asyncio.create_task(start(options(journal, two)))
        await standing(two)
        async with client(one) as stub, working(one):
            await create(stub, make.make_spec(max_trials=400), search_id="s")
        assert await asyncio.to_thread(ask, addresses) == (one, 1, ["searches/s"])
        followed = asyncio.create_task(asyncio.to_thread(follow, addresses))
        await first.stop(0)
        led = await second
        assert await asyncio.to_thread(ask, addresses) == (two, 2, ["searches/s"])
        with closing(Client(addresses, patience_s=20.0)) as asking:
            await asyncio.to_thread(asking.cancel_search, "s")
        assert await asyncio.wait_for(followed, 30) == "searches/s"
        await led.stop(0)

    asyncio.run(body())


def test_client_when_nobody_leads_then_unavailable_within_its_patience() -> None:
    one, two = free_address(), free_address()
    with closing(Client(f"{one},{two}", patience_s=0.5)) as asking, pytest.raises(Unavailable) as caught:
        asking.server_info()
    assert caught.value.reason == "UNREACHABLE"


def test_addresses_when_read_then_each_once_in_order_or_refused() -> None:
    assert parse_addresses("a:1, b:2,a:1") == ("a:1", "b:2")
    for text in ("", "a:1,", "a:1,b", ","):
        with pytest.raises(Invalid):
            parse_addresses(text, field="scheduler")


def test_journal_at_when_no_place_then_refused() -> None:
    for url in ("", "redis://h/1"):
        with pytest.raises(Invalid) as caught:
            journal_at(url)
        assert caught.value.reason == "JOURNAL_URL_INVALID"
