"""A client follows a search while the scheduler, a real process on a real journal, is killed and started again."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest

from nasmesh.client import Client
from nasmesh.errors import Compacted
from nasmesh.rpc.channel import errors_from_rpc, open_aio_channel, open_channel
from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import scheduler_service_pb2 as pb
from nasmesh.v1 import search_pb2
from nasmesh.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from tests.builders import scheduling as make
from tests.builders.scheduler_calls import SUCCEEDED, ended_by_polling, go, refused
from tests.builders.scheduler_server import ScriptedAgent, client, create, running, working
from tests.e2e.mesh import Mesh

TRIALS = 80
KILLS = 3


class Worker:
    """An agent that outlives schedulers: it names what it holds, and says again what was not acknowledged."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._spool: dict[str, dispatch_pb.AttemptOutcome] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    @contextmanager
    def working(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._thread.join(10)

    async def _run(self) -> None:
        while not self._over.is_set():
            with suppress(grpc.RpcError, AssertionError, asyncio.InvalidStateError):
                async with open_aio_channel(self._address) as channel:
                    await self._converse(ScriptedAgent(channel))

    async def _converse(self, agent: ScriptedAgent) -> None:
        hello = make.make_hello("worker", slots=4)
        hello.held.extend(outcome.token for outcome in self._spool.values())
        welcome = await agent.greet(hello)
        for token in welcome.superseded:
            self._spool.pop(token.SerializeToString(), None)
        for outcome in list(self._spool.values()):
            await agent.say(outcome=outcome)
        await agent.want_all(4)
        while not self._over.is_set():
            message = await agent.call.read()
            if message is grpc.aio.EOF:
                return
            if message.WhichOneof("kind") == "lease":
                outcome = make.make_outcome(message.lease)
                self._spool[outcome.token.SerializeToString()] = outcome
                await agent.say(outcome=outcome)
            elif message.WhichOneof("kind") == "outcome_reply":
                self._spool.pop(message.outcome_reply.token.SerializeToString(), None)
                await agent.want_all(4)


def follow_by_hand(address: str, strike: dict[int, "Kill"]) -> list[pb.WatchSearchResponse]:
    """Follow a search as the contract says: after each break, from the last sequence number that was read."""
    seen: list[pb.WatchSearchResponse] = []
    while not seen or not seen[-1].search.end_time.seconds:
        with suppress(grpc.RpcError), open_channel(address) as channel:
            after = seen[-1].sequence if seen else 0
            request = pb.WatchSearchRequest(name="searches/s", after_sequence=after)
            for change in SchedulerServiceStub(channel).WatchSearch(request):
                if change.WhichOneof("change") != "progress":
                    seen.append(change)
                if len(seen) in strike:
                    strike.pop(len(seen)).strike()
    return seen


class Kill:
    """Kills the scheduler at once, and starts it again where it was."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def strike(self) -> None:
        self._mesh.kill9("scheduler")
        self._mesh.restart("scheduler")


def test_watch_when_the_scheduler_is_killed_and_restarted_then_nothing_is_missed_or_doubled(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path)
    tmp_path.mkdir(exist_ok=True)
    try:
        address = mesh.start("scheduler")
        with Worker(address).working(), Client(address, patience_s=60) as patient:
            while not list(patient.generators()):
                pass
            patient.create_search(make.make_spec(max_trials=TRIALS, parallelism=4), search_id="s")
            by_client: list[pb.WatchSearchResponse] = []
            reader = threading.Thread(target=lambda: by_client.extend(patient.watch("s")))
            reader.start()
            strikes = {(number + 1) * TRIALS // 2: Kill(mesh) for number in range(KILLS)}
            by_hand = follow_by_hand(address, strikes)
            reader.join(60)
            whole = list(patient.watch("s"))
            final = patient.get_search("s")
        epoch = final.sequence
        assert not strikes, "the search ended before the last kill"
        assert final.state == SUCCEEDED
        assert [change.sequence for change in whole] == list(range(1, epoch + 1))
        assert by_hand == whole
        assert [change for change in by_client if change.WhichOneof("change") != "progress"] == whole
        assert final.trials.succeeded == TRIALS
    finally:
        mesh.close()


def test_watch_when_restarted_from_a_snapshot_then_compacted_and_the_client_lists_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.engine.SNAPSHOT_EVENTS", 40)

    async def body() -> None:
        async with running(tmp_path / "j.db") as scheduler, client(scheduler.address) as stub:  # noqa: SIM117
            async with working(scheduler.address):
                await create(stub, make.make_spec(max_trials=30, parallelism=2), search_id="s")
                search = await ended_by_polling(stub, "searches/s")
        async with running(tmp_path / "j.db") as scheduler, client(scheduler.address) as stub:
            request = pb.WatchSearchRequest(name="searches/s", after_sequence=3)
            error = await refused(anext(aiter(stub.WatchSearch(request))), Compacted)
            assert error.reason == "SEQUENCE_COMPACTED"
            assert "list the trials" in error.message
            assert error.metadata["sequence"] == str(search.sequence)
            again = await asyncio.to_thread(listed_again, scheduler.address)
            trials = [change.trial for change in again if change.HasField("trial")]
            assert [trial.number for trial in trials] == list(range(1, 31))
            assert all(trial.outcome == search_pb2.TRIAL_OUTCOME_SUCCEEDED for trial in trials)
            assert again[-1].search == search

    go(body())


def listed_again(address: str) -> list[pb.WatchSearchResponse]:
    with Client(address) as again, errors_from_rpc(address):
        return list(again.watch("s", 3))
