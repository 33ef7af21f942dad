"""Equal searches at the same time on a real scheduler and a real journal: what one is measuring the other waits for."""

from __future__ import annotations

from pathlib import Path

from nasmesh.errors import Stale
from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import scheduler_service_pb2 as pb
from nasmesh.v1 import scheduler_service_pb2_grpc as rpc
from nasmesh.v1 import search_pb2
from tests.builders import scheduler_lifecycle as wish
from tests.builders import scheduling as make
from tests.builders.scheduler_calls import SUCCEEDED, go, refused
from tests.builders.scheduler_server import Script, client, create, ended, running, trials_of, working

WAITS = search_pb2.TRIAL_PHASE_AWAITS_EQUAL
TRIALS = 2


def equal_spec() -> search_pb2.SearchSpec:
    spec = make.make_spec(max_trials=TRIALS, parallelism=TRIALS)
    spec.train.seed = 5
    spec.generator.settings["width"] = make.WIDE
    return spec


async def until(stub: rpc.SchedulerServiceAsyncStub, search: str, phase: int) -> None:
    """Return when all trials of a search are in a phase."""
    last: dict[int, int] = {}
    async for change in stub.WatchSearch(pb.WatchSearchRequest(name=f"searches/{search}")):
        if change.HasField("trial"):
            last[change.trial.number] = change.trial.phase
        if len(last) == TRIALS and set(last.values()) == {phase}:
            return


def keeping(trained: list[str], *, keeps: bool) -> Script:
    """Return a worker's script that notes what it is to train; `keeps`: and never ends it."""

    def script(lease: dispatch_pb.Lease) -> dispatch_pb.AttemptOutcome | None:
        if lease.HasField("train"):
            trained.append(lease.trial)
            if keeps:
                return None
        return make.make_outcome(lease)

    return script


async def begin_both(stub: rpc.SchedulerServiceAsyncStub) -> None:
    await create(stub, equal_spec(), search_id="s")
    await until(stub, "s", search_pb2.TRIAL_PHASE_TRAINING)
    await create(stub, equal_spec(), search_id="t")
    await until(stub, "t", WAITS)


def test_equal_searches_when_begun_together_then_one_trains_and_both_end_alike_also_over_a_restart(
    tmp_path: Path,
) -> None:
    trained: list[str] = []

    async def body() -> None:
        journal = tmp_path / "journal.db"
        async with (
            running(journal) as scheduler,
            client(scheduler.address) as stub,
            working(scheduler.address, keeping(trained, keeps=True)),
        ):
            await begin_both(stub)
        async with running(journal) as scheduler, client(scheduler.address) as stub:
            assert {trial.phase for trial in await trials_of(stub, "searches/t")} == {WAITS}
            async with working(scheduler.address, keeping(trained, keeps=False)):
                searches = [await ended(stub, f"searches/{name}") for name in ("s", "t")]
            assert [search.state for search in searches] == [SUCCEEDED, SUCCEEDED]
            first, second = [await trials_of(stub, search.name) for search in searches]
            for source, trial in zip(first, second, strict=True):
                assert (trial.reused_from, list(trial.measurements)) == (source.name, list(source.measurements))
            saved = sum(trial.device_time_s for trial in first)
            assert (searches[1].device_time_saved_s, searches[1].device_time_s) == (saved, 0.0)

    go(body())
    assert {name.split("/")[1] for name in trained} == {"s"}


def test_equal_searches_when_the_one_that_trains_is_held_then_the_other_trains_itself() -> None:
    trained: list[str] = []

    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub:
            async with working(scheduler.address, keeping(trained, keeps=True)):
                await begin_both(stub)
                await stub.PauseSearch(wish.pause("s")[1])
                await until(stub, "t", search_pb2.TRIAL_PHASE_TRAIN_QUEUED)
            async with working(scheduler.address, keeping(trained, keeps=False)):
                assert (await ended(stub, "searches/t")).state == SUCCEEDED
            assert not any(trial.reused_from for trial in await trials_of(stub, "searches/t"))

    go(body())
    assert {name.split("/")[1] for name in trained} == {"s", "t"}


def test_search_when_deleted_then_another_that_measured_the_same_is_taken_over_from_also_after_a_restart(
    tmp_path: Path,
) -> None:
    trained: list[str] = []

    async def body() -> None:
        again = equal_spec()
        again.cache = search_pb2.CACHE_MODE_REPEAT
        journal = tmp_path / "journal.db"
        script = keeping(trained, keeps=False)
        async with running(journal) as scheduler, client(scheduler.address) as stub, working(scheduler.address, script):
            for name, spec in (("a", equal_spec()), ("b", again), ("c", equal_spec())):
                await create(stub, spec, search_id=name)
                assert (await ended(stub, f"searches/{name}")).state == SUCCEEDED
            assert {trial.reused_from.split("/")[1] for trial in await trials_of(stub, "searches/c")} == {"a"}
            error = await refused(stub.DeleteSearch(wish.delete("a")[1]), Stale)
            assert (error.reason, "searches/c" in error.message) == ("SEARCH_REFERENCED", True)
            for name in ("c", "a"):
                await stub.DeleteSearch(wish.delete(name)[1])
        async with running(journal) as scheduler, client(scheduler.address) as stub, working(scheduler.address, script):
            await create(stub, equal_spec(), search_id="d")
            assert (await ended(stub, "searches/d")).device_time_s == 0.0
            sources = await trials_of(stub, "searches/b")
            for source, trial in zip(sources, await trials_of(stub, "searches/d"), strict=True):
                assert (trial.reused_from, list(trial.measurements)) == (source.name, list(source.measurements))

    go(body())
    assert {name.split("/")[1] for name in trained} == {"a", "b"}
