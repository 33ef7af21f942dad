"""Yesterday's journals and programs: every old schema opens and goes on; clients and agents of version 1 are served.

`tests/assets/journal-v*.db` and `journal-postgres-v*.sql` were written by the code of then: make_journal.py beside them
tells how. `protos-v1.binpb` holds the contracts of commit 12c3422: no stub of today takes part on that side.
"""

import asyncio
import shutil
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from nasmesh.clock import ManualClock
from nasmesh.v1 import dispatch_service_pb2 as pb
from scheduler import invariants
from scheduler.desk import Desk
from scheduler.domain import OPEN_SEARCHES, SearchState, TaskState
from scheduler.engine import Engine
from scheduler.journal import postgres_schema, schema
from scheduler.journal.places import journal_of, reader_of
from scheduler.journal.postgres_url import PostgresPlace
from tests.builders import scheduling as make
from tests.builders.old_journals import ASSETS, restored_database
from tests.builders.scheduler_calls import go
from tests.builders.scheduler_server import running

FILES = sorted(ASSETS.glob("journal-v*.db"))
DATABASES = sorted(ASSETS.glob("journal-postgres-v*.sql"))
Place = Path | PostgresPlace


@pytest.fixture(params=[*FILES, *DATABASES], ids=lambda path: path.stem)
def old_journal(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param in FILES:
        return Path(shutil.copy(request.param, tmp_path / "journal.db"))
    return restored_database(request.getfixturevalue("database"), request.param)


def recovered(place: Place) -> Engine:
    engine = Engine(journal_of(place), ManualClock(monotonic=5.0), seed=2)
    engine.recover()
    invariants.check(engine.state)
    return engine


def test_journals_when_counted_then_every_older_schema_has_one() -> None:
    assert [path.stem for path in FILES] == [f"journal-v{n}" for n in range(1, schema.SCHEMA_VERSION)]
    assert [path.stem for path in DATABASES] == [
        f"journal-postgres-v{n}" for n in range(1, postgres_schema.SCHEMA_VERSION)
    ]


def test_old_journal_when_opened_then_everything_in_it_is_there(old_journal: Place) -> None:
    with closing(reader_of(old_journal)) as reader:
        epoch = reader.open()
    engine = recovered(old_journal)
    state = engine.state
    told = {run.id: (run.state, len(run.trials)) for run in state.searches.values()}
    assert told == {
        "ended": (SearchState.SUCCEEDED, 5),
        "quarantined": (SearchState.FAILED, 1),
        "cancelled": (SearchState.CANCELLED, 0),
        "open": (SearchState.RUNNING, 5),
    }
    assert state.epoch == epoch + 1
    assert state.tasks["quarantined-t1-train"].state is TaskState.QUARANTINED
    assert state.tasks["open-t5-train"].state is TaskState.QUEUED
    assert state.tasks["open-t3-train"].state is TaskState.RUNNING
    assert engine.answered("create-open") is not None, "request ids of before are still known"
    assert engine.answered("cancel-1") is not None
    engine.journal.close()


def test_old_journal_when_gone_on_with_then_its_open_search_ends_from_the_kept_checkpoint(old_journal: Place) -> None:
    engine = recovered(old_journal)
    desk, session = Desk(engine), make.Recorder()
    held = [task.id for task in engine.state.tasks.values() if task.state is TaskState.RUNNING]
    entry = engine.execute([lambda: desk.hello(session, make.make_hello("old"))])[0]
    resumed: list[str] = []
    for _ in range(100):
        for kind in make.ALL_KINDS:
            engine.execute([partial(desk.ready, entry, pb.AgentReady(kind=kind, free=2))])
        leases = [message.lease for message in session.sent if message.HasField("lease")]
        session.sent.clear()
        for lease in leases:
            if lease.train.HasField("resume_from"):
                resumed.append(lease.token.task)
            engine.execute([partial(desk.outcome, entry, make.make_outcome(lease))])
        engine.clock.advance(1.0)  # type: ignore[attr-defined]
        if engine.state.searches["open"].state not in OPEN_SEARCHES:
            break
    invariants.check(engine.state)
    assert engine.state.searches["open"].state is SearchState.SUCCEEDED
    assert sorted(resumed) == sorted(task for task in held if task.endswith("-train"))
    engine.journal.close()
    again = recovered(old_journal)
    assert again.state.searches == engine.state.searches
    again.journal.close()


class FrozenContracts:
    """Messages and calls of version 1, made from its descriptors alone."""

    def __init__(self) -> None:
        files = descriptor_pb2.FileDescriptorSet.FromString((ASSETS / "protos-v1.binpb").read_bytes())
        self._pool = descriptor_pool.DescriptorPool()
        for file in files.file:
            self._pool.Add(file)  # type: ignore[no-untyped-call]

    def message(self, name: str, /, **fields: object) -> Any:
        kind = message_factory.GetMessageClass(self._pool.FindMessageTypeByName(f"nasmesh.v1.{name}"))
        return kind(**fields)

    def parse(self, name: str, content: bytes) -> Any:
        return type(self.message(name)).FromString(content)

    def call(self, channel: grpc.aio.Channel, service: str, method: str) -> Callable[..., Any]:
        known = self._pool.FindServiceByName(f"nasmesh.v1.{service}").FindMethodByName(method)
        reply = message_factory.GetMessageClass(known.output_type)
        kind = {
            (False, False): channel.unary_unary,
            (False, True): channel.unary_stream,
            (True, True): channel.stream_stream,
        }[known.client_streaming, known.server_streaming]
        path = f"/nasmesh.v1.{service}/{method}"
        return kind(path, request_serializer=lambda m: m.SerializeToString(), response_deserializer=reply.FromString)

    def again(self, name: str, message: Any) -> Any:
        """Return a message of today as version 1 reads it."""
        return self.parse(name, message.SerializeToString())


async def work_as_version_1(old: FrozenContracts, channel: grpc.aio.Channel) -> None:
    """An agent as it was: one message of a kind at a time, and it must never be sent what it does not know."""
    stream = old.call(channel, "DispatchService", "Work")()
    hello = old.again("AgentHello", make.make_hello("frozen"))
    await stream.write(old.message("WorkRequest", hello=hello))

    async def offer() -> None:
        for kind in make.ALL_KINDS:
            await stream.write(old.message("WorkRequest", ready=old.message("AgentReady", kind=kind, free=2)))

    await offer()
    while (message := await stream.read()) is not grpc.aio.EOF:
        kind = message.WhichOneof("kind")
        assert kind is not None, "a message that version 1 does not know"
        if kind == "lease":
            lease = pb.Lease.FromString(message.lease.SerializeToString())
            outcome = old.again("AttemptOutcome", make.make_outcome(lease))
            await stream.write(old.message("WorkRequest", outcome=outcome))
            await offer()


def test_frozen_client_and_agent_when_served_by_today_then_a_whole_search_runs(tmp_path: Path) -> None:
    old = FrozenContracts()

    async def body() -> None:
        async with (
            running(tmp_path / "journal.db") as scheduler,
            grpc.aio.insecure_channel(scheduler.address) as channel,
        ):
            agent = asyncio.create_task(work_as_version_1(old, channel))
            call = lambda method, request: old.call(channel, "SchedulerService", method)(request)  # noqa: E731
            while not (await call("ListGenerators", old.message("ListGeneratorsRequest"))).generators:
                await asyncio.sleep(0)
            spec = old.again("SearchSpec", make.make_spec(max_trials=5, final=True))
            request = old.message("CreateSearchRequest", spec=spec, search_id="v1", request_id="r")
            created = (await call("CreateSearch", request)).search
            assert (await call("CreateSearch", request)).search.name == created.name == "searches/v1"
            sequences = []
            async for change in call("WatchSearch", old.message("WatchSearchRequest", name="searches/v1")):
                assert change.WhichOneof("change") in ("search", "trial", "progress")
                sequences.append(change.sequence)
            assert sequences == sorted(sequences)
            search = (await call("GetSearch", old.message("GetSearchRequest", name="searches/v1"))).search
            assert search.state == 3, search.reason
            trials = (await call("ListTrials", old.message("ListTrialsRequest", parent="searches/v1"))).trials
            assert [trial.number for trial in trials] == [1, 2, 3, 4, 5, 6]
            info = await call("GetServerInfo", old.message("GetServerInfoRequest"))
            assert info.journal == "sqlite"
            assert not agent.done(), agent
            agent.cancel()

    go(body())
