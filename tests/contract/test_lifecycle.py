"""Holding, changing and deleting searches on a real scheduler, with agents that answer by a script."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from nasmesh.errors import Busy, Conflict, Invalid, NasmeshError, NotFound, Raced, Stale
from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import scheduler_service_pb2 as pb
from nasmesh.v1 import search_pb2
from tests.builders import scheduler_lifecycle as wish
from tests.builders import scheduling as make
from tests.builders.scheduler_calls import SUCCEEDED, go, refused
from tests.builders.scheduler_server import ScriptedAgent, client, create, ended, running, scripted, trials_of, working

TRAIN, GENERATE = search_pb2.TASK_KIND_TRAIN, search_pb2.TASK_KIND_GENERATE
PAUSED = search_pb2.SEARCH_STATE_PAUSED


async def propose(agent: ScriptedAgent, count: int = 1) -> None:
    """Take the generator's lease and answer it."""
    await agent.want(GENERATE)
    lease = (await agent.hear("lease")).lease
    outcome = dispatch_pb.AttemptOutcome(token=lease.token, generate=make.generate_result(lease, count=count))
    await agent.finish(outcome)


async def training(agent: ScriptedAgent) -> dispatch_pb.Lease:
    await agent.want(TRAIN)
    lease = (await agent.hear("lease")).lease
    assert lease.HasField("train")
    return lease


async def get(stub: Any, name: str = "searches/s") -> search_pb2.Search:
    return (await stub.GetSearch(pb.GetSearchRequest(name=name))).search  # type: ignore[no-any-return]


def test_pause_when_a_training_runs_then_it_is_given_back_and_goes_on_from_its_checkpoint() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, scripted(scheduler.address) as agent:
            await agent.greet(make.make_hello("a", slots=1))
            await create(stub, make.make_spec(max_trials=1), search_id="s")
            await propose(agent)
            lease = await training(agent)
            request = pb.PauseSearchRequest(name="searches/s", request_id="p")
            reply = await stub.PauseSearch(request)
            assert reply.search.state == PAUSED
            asked = (await agent.hear("cancel")).cancel
            assert (asked.token, asked.checkpoint) == (lease.token, True)
            back = wish.released(lease, "halfway")
            assert await agent.finish(back) == dispatch_pb.OUTCOME_DISPOSITION_RECORDED
            await agent.want(TRAIN)
            found = (await trials_of(stub, "searches/s"))[0]
            assert found.phase == search_pb2.TRIAL_PHASE_TRAIN_QUEUED
            assert await stub.PauseSearch(request) == reply
            assert (await get(stub)).state == PAUSED
            listed = await stub.ListSearches(pb.ListSearchesRequest(filter="state=PAUSED"))
            assert [item.name for item in listed.searches] == ["searches/s"]
            assert not (await stub.ListSearches(pb.ListSearchesRequest(filter="state=RUNNING"))).searches
            await stub.ResumeSearch(pb.ResumeSearchRequest(name="searches/s"))
            again = (await agent.hear("lease")).lease  # nothing came while it was paused: this is the next message
            assert (again.token.task, again.token.attempt) == (lease.token.task, 2)
            assert again.train.resume_from == back.released.checkpoint
            attempt = (await get_attempt(agent, lease.token.task, 1)).attempt
            assert not attempt.HasField("failure")

    go(body())


async def get_attempt(agent: ScriptedAgent, task: str, number: int) -> dispatch_pb.GetAttemptResponse:
    from nasmesh.v1 import dispatch_service_pb2_grpc as rpc

    return await rpc.DispatchServiceStub(agent.channel).GetAttempt(  # type: ignore[no-any-return]
        dispatch_pb.GetAttemptRequest(task=task, attempt=number)
    )


def test_pause_when_the_scheduler_restarts_then_it_holds_and_the_agent_is_asked_again(tmp_path: Path) -> None:
    async def body() -> None:
        async with running(tmp_path / "j.db") as scheduler, client(scheduler.address) as stub:  # noqa: SIM117
            async with scripted(scheduler.address) as agent:
                await agent.greet(make.make_hello("a", slots=1))
                await create(stub, make.make_spec(max_trials=1), search_id="s")
                await propose(agent)
                lease = await training(agent)
                await stub.PauseSearch(pb.PauseSearchRequest(name="searches/s"))
        async with running(tmp_path / "j.db") as scheduler, client(scheduler.address) as stub:
            assert (await get(stub)).state == PAUSED
            async with scripted(scheduler.address) as agent:
                hello = make.make_hello("a", slots=1)
                hello.held.append(lease.token)
                welcome = await agent.greet(hello)
                assert not welcome.superseded
                asked = (await agent.hear("cancel")).cancel
                assert (asked.token, asked.checkpoint) == (lease.token, True)
                await agent.finish(wish.released(lease, "later"))
            async with working(scheduler.address):
                await stub.ResumeSearch(pb.ResumeSearchRequest(name="searches/s"))
                assert (await ended(stub, "searches/s")).state == SUCCEEDED

    go(body())


def test_pause_when_in_the_final_phase_then_finals_wait_and_cancelling_still_ends_it() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub:

            def script(lease: dispatch_pb.Lease) -> dispatch_pb.AttemptOutcome | None:
                return None if lease.HasField("train") and lease.train.config.steps == 50 else make.make_outcome(lease)

            async with working(scheduler.address, script):
                await create(stub, make.make_spec(max_trials=1, final=True), search_id="s")
                while (await get(stub)).state != search_pb2.SEARCH_STATE_FINALIZING:
                    await asyncio.sleep(0)
                assert (await stub.PauseSearch(pb.PauseSearchRequest(name="searches/s"))).search.state == PAUSED
                search = (await stub.CancelSearch(pb.CancelSearchRequest(name="searches/s"))).search
                assert search.state == search_pb2.SEARCH_STATE_CANCELLED
                error = await refused(stub.PauseSearch(pb.PauseSearchRequest(name="searches/s")), Stale)
                assert error.reason == "SEARCH_ENDED"
                error = await refused(stub.ResumeSearch(pb.ResumeSearchRequest(name="searches/s")), Stale)
                assert error.reason == "SEARCH_ENDED"

    go(body())


async def update(stub: Any, search: str = "s", request_id: str = "", etag: str = "", **fields: object) -> Any:
    _, request = wish.update(search, request_id, **fields)
    request.search.etag = etag
    return await stub.UpdateSearch(request)


def test_update_when_the_budget_grows_or_shrinks_then_the_search_follows() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, working(scheduler.address, hold_later):
            await create(stub, make.make_spec(max_trials=2, parallelism=2), search_id="s")
            while (await get(stub)).trials.active < 2:
                await asyncio.sleep(0)
            await update(stub, budget__max_trials=5, parallelism=4, labels={"team": "a"})
            while len(await trials_of(stub, "searches/s")) < 4:  # asked again at once: there is room for two more
                await asyncio.sleep(0)
            search = (await update(stub, budget__max_trials=1)).search
            assert (search.spec.budget.max_trials, search.spec.parallelism) == (1, 4)
            assert search.spec.labels["team"] == "a"
            assert search.state == search_pb2.SEARCH_STATE_RUNNING
            await stub.CancelSearch(pb.CancelSearchRequest(name="searches/s"))

    go(body())


def hold_later(lease: dispatch_pb.Lease) -> dispatch_pb.AttemptOutcome | None:
    return None if lease.HasField("train") else make.make_outcome(lease)


def test_update_when_the_budget_is_spent_already_then_the_phase_ends_with_what_there_is() -> None:
    async def body() -> None:
        def script(lease: dispatch_pb.Lease) -> dispatch_pb.AttemptOutcome | None:
            return None if lease.trial.endswith("/3") else make.make_outcome(lease)

        async with running() as scheduler, client(scheduler.address) as stub, working(scheduler.address, script):
            await create(stub, make.make_spec(max_trials=9, parallelism=1), search_id="s")
            while (await get(stub)).trials.succeeded < 2:
                await asyncio.sleep(0)
            await update(stub, budget__max_device_time_s=3.5)
            search = await ended(stub, "searches/s")
            assert search.state == SUCCEEDED
            assert "max_device_time_s reached: 3.5 of 3.5 s" in search.reason
            assert (search.trials.succeeded, search.trials.stopped) == (2, search.trials.stopped)

    go(body())


BAD_UPDATES: list[tuple[dict[str, object], str, type[NasmeshError], str]] = [
    ({}, "", Invalid, "UPDATE_MASK_INVALID"),
    ({"seed": 3}, "", Invalid, "UPDATE_MASK_INVALID"),
    ({"budget__max_trials": -1}, "", Invalid, "SPEC_INVALID"),
    ({"budget__max_trials": 0}, "", Invalid, "SPEC_INVALID"),
    ({"parallelism": 5000}, "", Invalid, "SPEC_INVALID"),
    ({"priority": 101}, "", Invalid, "SPEC_INVALID"),
    ({"labels": {"a=b": "c"}}, "", Invalid, "SPEC_INVALID"),
    ({"priority": 1}, "old", Raced, "ETAG_STALE"),
]


def test_update_when_it_makes_no_sense_then_refused_with_the_field() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, scripted(scheduler.address) as agent:
            await agent.greet(make.make_hello("a"))
            before = await create(stub, make.make_spec(), search_id="s")
            for fields, etag, kind, reason in BAD_UPDATES:
                error = await refused(update(stub, etag=etag, **fields), kind)
                assert error.reason == reason, fields
                assert error.field, fields
            assert "did you mean spec.priority?" in (await refused(misspelt(stub), Invalid)).message
            assert await get(stub) == before
            _, request = wish.update("s", priority=7)
            request.validate_only, request.search.etag = True, before.etag
            assert (await stub.UpdateSearch(request)).search.spec.priority == 7
            assert await get(stub) == before
            request.validate_only = False
            after = (await stub.UpdateSearch(request)).search
            assert (after.spec.priority, after.etag != before.etag) == (7, True)

    go(body())


async def misspelt(stub: Any) -> Any:
    request = pb.UpdateSearchRequest()
    request.search.name = "searches/s"
    request.update_mask.paths.append("spec.prioritty")
    return await stub.UpdateSearch(request)


def test_request_ids_when_used_for_another_wish_then_refused() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, scripted(scheduler.address) as agent:
            await agent.greet(make.make_hello("a"))
            await create(stub, make.make_spec(max_trials=9), search_id="s")
            await create(stub, make.make_spec(max_trials=9), search_id="t")
            first: list[tuple[Any, Any, Any]] = [
                (stub.PauseSearch, wish.pause("s", "1")[1], wish.pause("t", "1")[1]),
                (stub.ResumeSearch, wish.resume("s", "2")[1], wish.resume("t", "2")[1]),
                (stub.UpdateSearch, wish.update("s", "3", priority=1)[1], wish.update("s", "3", priority=2)[1]),
                (stub.EnqueueTrial, wish.enqueue("s", "x", "4")[1], wish.enqueue("s", "y", "4")[1]),
                (stub.DrainAgent, wish.drain("agents/a", "5")[1], wish.drain("agents/a", "5", release=True)[1]),
                (stub.UndrainAgent, wish.undrain("agents/a", "6")[1], wish.undrain("agents/b", "6")[1]),
            ]
            for call, request, other in first:
                reply = await call(request)
                assert await call(request) == reply
                assert (await refused(call(other), Conflict)).reason == "REQUEST_ID_REUSED"
            assert (await refused(stub.PauseSearch(wish.pause("s", "2")[1]), Conflict)).reason == "REQUEST_ID_REUSED"
            assert len(await trials_of(stub, "searches/s")) == 1
            for name in ("s", "t"):
                await stub.CancelSearch(pb.CancelSearchRequest(name=f"searches/{name}"))
            gone = await stub.DeleteSearch(wish.delete("s", "7")[1])
            assert await stub.DeleteSearch(wish.delete("s", "7")[1]) == gone
            other = stub.DeleteSearch(wish.delete("t", "7")[1])
            assert (await refused(other, Conflict)).reason == "REQUEST_ID_REUSED"

    go(body())


def test_delete_when_open_unknown_or_dry_then_nothing_goes_and_a_deleted_id_stays_used(tmp_path: Path) -> None:
    async def body() -> None:
        async with running(tmp_path / "j.db") as scheduler, client(scheduler.address) as stub:
            async with working(scheduler.address):
                await create(stub, make.make_spec(max_trials=3), search_id="s")
                await create(stub, make.make_spec(max_trials=2), search_id="kept")
                for name in ("s", "kept"):
                    await ended(stub, f"searches/{name}")
            async with scripted(scheduler.address) as agent:
                await agent.greet(make.make_hello("a"))
                await create(stub, make.make_spec(), search_id="open")
                error = await refused(stub.DeleteSearch(wish.delete("open")[1]), Stale)
                assert error.reason == "SEARCH_OPEN"
                assert (await refused(stub.DeleteSearch(wish.delete("no")[1]), NotFound)).reason == "SEARCH_UNKNOWN"
                would = await stub.DeleteSearch(wish.delete("s", apply=False)[1])
                assert (would.trials, would.unreferenced_objects) == (3, 9)  # network, checkpoint, model of each
                assert (await get(stub)).trials.succeeded == 3
                assert await stub.DeleteSearch(wish.delete("s")[1]) == would
                assert (await refused(get(stub), NotFound)).reason == "SEARCH_UNKNOWN"
                networks = (await stub.ListNetworks(pb.ListNetworksRequest())).networks
                kept = await trials_of(stub, "searches/kept")
                assert [n.name for n in networks] == [t.network.name for t in kept]
                again = pb.CreateSearchRequest(search_id="s", spec=make.make_spec())
                error = await refused(stub.CreateSearch(again), Conflict)
                assert error.reason == "SEARCH_EXISTS"
                assert "no id is used twice" in error.message
        async with running(tmp_path / "j.db") as scheduler, client(scheduler.address) as stub:
            names = [s.name for s in (await stub.ListSearches(pb.ListSearchesRequest())).searches]
            assert names == ["searches/open", "searches/kept"]
            async with scripted(scheduler.address) as agent:
                await agent.greet(make.make_hello("a"))
                assert (await refused(stub.CreateSearch(again), Conflict)).reason == "SEARCH_EXISTS"

    go(body())


def test_open_searches_when_a_client_has_its_quota_then_the_next_is_refused() -> None:
    from nasmesh import limits
    from nasmesh.rpc.identity import LOCAL, Identity, Role

    async def body() -> None:
        async with running() as scheduler, scripted(scheduler.address) as agent:
            await agent.greet(make.make_hello("a"))
            core = scheduler.core
            from scheduler.searches import Searches

            searches = Searches(core.engine)
            ann = Identity("clients/ann", frozenset({Role.CLIENT_WRITE}))

            def make_one(number: int, caller: Identity) -> Any:
                request = pb.CreateSearchRequest(search_id=f"s{number}", spec=make.make_spec())
                return core.submit(lambda: searches.create(request, caller=caller))

            for number in range(limits.OPEN_SEARCHES):
                await make_one(number, ann)
            with pytest.raises(Busy, match="cancel one") as caught:
                await make_one(90, ann)
            assert (caught.value.reason, caught.value.metadata["quota"]) == ("QUOTA_EXCEEDED", "open_searches")
            await make_one(91, Identity("clients/ben", frozenset({Role.CLIENT_WRITE})))
            await make_one(92, Identity("clients/root", frozenset({Role.ADMIN})))
            for number in range(93, 93 + limits.OPEN_SEARCHES + 1):
                await make_one(number, LOCAL)
            cancel = pb.CancelSearchRequest(name="searches/s0")
            await core.submit(lambda: searches.cancel(cancel, caller=ann))
            await make_one(90, ann)

    go(body())
