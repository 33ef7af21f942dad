"""WatchSearch over a real server: what is missed, doubled, compacted, and progress marks."""

import pytest

from nasmesh.errors import Compacted, Invalid
from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import scheduler_service_pb2 as pb
from nasmesh.v1 import search_pb2
from tests.builders import scheduling as make
from tests.builders.scheduler_calls import SUCCEEDED, ended_by_polling, go, refused
from tests.builders.scheduler_server import client, create, running, scripted, trials_of, working


def test_watch_when_joined_late_or_again_then_no_change_is_missed_or_doubled() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, working(scheduler.address):
            await create(stub, make.make_spec(max_trials=4), search_id="s")
            live = [c async for c in stub.WatchSearch(pb.WatchSearchRequest(name="searches/s"))]
            again = [c async for c in stub.WatchSearch(pb.WatchSearchRequest(name="searches/s"))]
            late = [c async for c in stub.WatchSearch(pb.WatchSearchRequest(name="searches/s", after_sequence=9))]
            assert [c.sequence for c in live] == list(range(1, live[-1].sequence + 1))
            assert live == again
            assert late == live[9:]
            assert live[-1].search.state == SUCCEEDED
            search = (await stub.GetSearch(pb.GetSearchRequest(name="searches/s"))).search
            assert search == live[-1].search
            latest = {c.trial.name: c.trial for c in live if c.HasField("trial")}
            assert list(latest.values()) == await trials_of(stub, "searches/s")
            beyond = pb.WatchSearchRequest(name="searches/s", after_sequence=10_000)
            assert (await refused(anext(aiter(stub.WatchSearch(beyond))), Invalid)).field == "after_sequence"

    go(body())


def test_watch_when_history_is_gone_then_compacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.watch.HISTORY", 5)

    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, working(scheduler.address):
            await create(stub, make.make_spec(), search_id="s")
            search = await ended_by_polling(stub, "searches/s")
            request = pb.WatchSearchRequest(name="searches/s", after_sequence=1)
            error = await refused(anext(aiter(stub.WatchSearch(request))), Compacted)
            assert error.reason == "SEQUENCE_COMPACTED"
            request.after_sequence = search.sequence - 2
            assert len([c async for c in stub.WatchSearch(request)]) == 2

    go(body())


def test_watch_when_a_trial_is_trained_then_progress_marks_come() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, scripted(scheduler.address) as agent:
            await agent.greet(make.make_hello("one"))
            await create(stub, make.make_spec(max_trials=1, parallelism=1), search_id="s")
            await agent.want(search_pb2.TASK_KIND_GENERATE)
            await agent.finish(make.make_outcome((await agent.hear("lease")).lease))
            await agent.want(search_pb2.TASK_KIND_TRAIN)
            lease = (await agent.hear("lease")).lease
            watch = stub.WatchSearch(pb.WatchSearchRequest(name="searches/s"))
            await watch.read()
            beat = dispatch_pb.AgentHeartbeat(attempts=[dispatch_pb.AttemptProgress(token=lease.token)])
            beat.attempts[0].train.step = 17
            bad = dispatch_pb.AgentHeartbeat(attempts=[dispatch_pb.AttemptProgress(token=lease.token)])
            bad.attempts[0].train.loss = float("inf")
            await agent.say(heartbeat=bad)
            await agent.say(heartbeat=beat)
            while True:
                change = await watch.read()
                if change.HasField("progress"):
                    break
            assert change.progress.trial == "searches/s/trials/1"
            assert change.progress.train.step == 17
            assert change.progress.agent == "agents/one"
            watch.cancel()

    go(body())
