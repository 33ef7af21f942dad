"""SchedulerService on a real port, with agents that answer by a script."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from nasmesh.errors import Conflict, Invalid, NotFound, Stale, Unavailable
from nasmesh.rpc.channel import errors_from_rpc
from nasmesh.store.keys import ObjectKind
from nasmesh.store.memory import MemoryStore
from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import measurement_pb2, search_pb2
from nasmesh.v1 import scheduler_service_pb2 as pb
from tests.builders import scheduling as make
from tests.builders.scheduler_calls import SUCCEEDED, go, refused
from tests.builders.scheduler_server import client, create, ended, running, scripted, trials_of, working


def test_search_when_run_to_its_end_then_final_trial_is_scored_once_on_test() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, working(scheduler.address):
            spec = make.make_spec(max_trials=5, parallelism=2, final=True)
            spec.final.top_k, spec.final.repeats = 2, 2
            await create(stub, spec, search_id="walk")
            search = await ended(stub, "searches/walk")
            assert search.state == SUCCEEDED, search.reason
            assert "max_trials reached: 5 of 5" in search.reason
            assert "test split, scored once" in search.reason
            trials = await trials_of(stub, search.name)
            assert [trial.number for trial in trials] == list(range(1, 10))
            assert [trial.final for trial in trials] == [False] * 5 + [True] * 4
            for trial in trials:
                splits = {m.split for m in trial.measurements if m.metric == "accuracy"}
                validated = measurement_pb2.SPLIT_VALIDATION
                assert splits == ({validated, measurement_pb2.SPLIT_TEST} if trial.final else {validated})
                assert trial.train.steps == (50 if trial.final else 10)
                assert trial.train.HasField("seed")
                assert trial.device_time_s == pytest.approx(1.75)
            assert len({trial.train.seed for trial in trials}) == 9
            assert len(search.final_trials) == 4
            validated = measurement_pb2.SPLIT_VALIDATION
            found = [(t.name, m) for t in trials for m in t.measurements if m.metric == "accuracy"]
            values = {name: m.value for name, m in found if m.split == validated}
            best = max((t.name for t in trials if not t.final), key=values.__getitem__)
            assert search.best_trial == best
            assert values[search.final_trials[0]] == max(values[name] for name in search.final_trials)
            assert {parent for t in trials if t.final for parent in t.parents} >= {best}
            assert search.device_time_s == pytest.approx(9 * 1.75)
            assert search.trials.succeeded == 9

    go(body())


def test_create_when_repeated_with_its_request_id_then_one_search() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, scripted(scheduler.address) as agent:
            await agent.greet(make.make_hello("one"))
            request = pb.CreateSearchRequest(spec=make.make_spec(), request_id="r-1")
            first, second = await asyncio.gather(stub.CreateSearch(request), stub.CreateSearch(request))
            assert first == second
            assert len((await stub.ListSearches(pb.ListSearchesRequest())).searches) == 1
            request.spec.parallelism = 9
            assert (await refused(stub.CreateSearch(request), Conflict)).reason == "REQUEST_ID_REUSED"
            again = pb.CreateSearchRequest(
                spec=make.make_spec(), search_id=first.search.name.partition("/")[2], request_id="r-2"
            )
            assert (await refused(stub.CreateSearch(again), Conflict)).reason == "SEARCH_EXISTS"

    go(body())


def test_request_ids_when_the_scheduler_restarts_then_still_known(tmp_path: Path) -> None:
    async def body() -> None:
        request = pb.CreateSearchRequest(spec=make.make_spec(), request_id="r-1")
        async with running(tmp_path / "j.db") as scheduler, client(scheduler.address) as stub:  # noqa: SIM117
            async with scripted(scheduler.address) as agent:
                await agent.greet(make.make_hello("one"))
                first = await stub.CreateSearch(request)
        async with running(tmp_path / "j.db") as scheduler, client(scheduler.address) as stub:
            assert await stub.CreateSearch(request) == first
            info = await stub.GetServerInfo(pb.GetServerInfoRequest())
            assert (info.epoch, info.journal, info.store) == (2, "sqlite", "memory")

    go(body())


def test_restart_when_in_the_middle_then_the_search_goes_on_to_the_same_results(tmp_path: Path) -> None:
    async def body() -> None:
        stop_after = 3
        leases = 0

        def script(lease: dispatch_pb.Lease) -> dispatch_pb.AttemptOutcome | None:
            nonlocal leases
            leases += lease.HasField("evaluate")
            return make.make_outcome(lease) if leases <= stop_after else None

        async with running(tmp_path / "j.db") as scheduler, client(scheduler.address) as stub:
            async with working(scheduler.address, script):
                await create(stub, make.make_spec(max_trials=6, final=True), search_id="s")
                async for change in stub.WatchSearch(pb.WatchSearchRequest(name="searches/s")):
                    if change.search.trials.succeeded == stop_after:
                        break
            before = await trials_of(stub, "searches/s")
        async with running(tmp_path / "j.db") as scheduler, client(scheduler.address) as stub:
            after = {trial.name: trial for trial in await trials_of(stub, "searches/s")}
            for trial in before:
                if trial.outcome:
                    assert after[trial.name] == trial
            async with working(scheduler.address):
                search = await ended(stub, "searches/s")
            assert search.state == SUCCEEDED
            assert search.trials.succeeded == 7
            numbers = [trial.number for trial in await trials_of(stub, "searches/s")]
            assert numbers == list(range(1, 8))

    go(body())


def test_lists_when_paged_and_filtered_then_each_item_once() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, working(scheduler.address):
            for index in range(5):
                spec = make.make_spec(max_trials=3)
                spec.labels["parity"] = "odd" if index % 2 else "even"
                await create(stub, spec, search_id=f"s{index}")
            for index in range(5):
                await ended(stub, f"searches/s{index}")
            seen, token = [], ""
            while True:
                page = await stub.ListSearches(pb.ListSearchesRequest(page_size=2, page_token=token))
                seen += [search.name for search in page.searches]
                token = page.next_page_token
                if not token:
                    break
            assert seen == [f"searches/s{index}" for index in (4, 3, 2, 1, 0)]
            odd = pb.ListSearchesRequest(filter="state=SUCCEEDED, label.parity=odd, generator=generators/fake")
            assert [s.name for s in (await stub.ListSearches(odd)).searches] == ["searches/s3", "searches/s1"]
            none = pb.ListTrialsRequest(parent="searches/s1", filter="outcome=FAILED,final=false")
            assert not (await stub.ListTrials(none)).trials
            page = await stub.ListTrials(pb.ListTrialsRequest(parent="searches/s1", page_size=2))
            rest = pb.ListTrialsRequest(parent="searches/s1", page_size=2, page_token=page.next_page_token)
            assert [t.number for t in (await stub.ListTrials(rest)).trials] == [3]
            first = await stub.ListNetworks(pb.ListNetworksRequest(page_size=10))
            second = await stub.ListNetworks(pb.ListNetworksRequest(page_token=first.next_page_token))
            names = [network.name for network in (*first.networks, *second.networks)]
            assert len(names) == len(set(names)) == 15
            got = await stub.GetNetwork(pb.GetNetworkRequest(name=names[3]))
            assert got.network == first.networks[3]
            assert [g.name for g in (await stub.ListGenerators(pb.ListGeneratorsRequest())).generators] == [
                make.GENERATOR
            ]
            datasets = (await stub.ListDatasets(pb.ListDatasetsRequest(page_size=3))).datasets
            here = [(d.name.removeprefix("datasets/"), d.available) for d in datasets]
            assert here == [("cifar10", False), ("cifar100", False), ("digits", True)]
            assert [a.name for a in (await stub.ListAgents(pb.ListAgentsRequest())).agents] == ["agents/worker"]
            for call in (
                stub.ListSearches(pb.ListSearchesRequest(page_token=page.next_page_token)),
                stub.ListSearches(pb.ListSearchesRequest(page_token="%%%")),
                stub.ListAgents(pb.ListAgentsRequest(page_token="x")),
            ):
                assert (await refused(call, Invalid)).reason == "PAGE_TOKEN_INVALID"
            assert (
                await refused(stub.ListSearches(pb.ListSearchesRequest(page_size=-1)), Invalid)
            ).field == "page_size"
            for text in ("state=WRONG", "colour=blue", "state"):
                error = await refused(stub.ListSearches(pb.ListSearchesRequest(filter=text)), Invalid)
                assert error.reason == "FILTER_INVALID"

    go(body())


def test_reads_when_there_is_no_such_thing_then_not_found() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub:
            network = "networks/" + "0" * 64
            for call, reason in (
                (stub.GetSearch(pb.GetSearchRequest(name="searches/none")), "SEARCH_UNKNOWN"),
                (stub.CancelSearch(pb.CancelSearchRequest(name="searches/none")), "SEARCH_UNKNOWN"),
                (stub.ListTrials(pb.ListTrialsRequest(parent="searches/none")), "SEARCH_UNKNOWN"),
                (anext(aiter(stub.WatchSearch(pb.WatchSearchRequest(name="searches/none")))), "SEARCH_UNKNOWN"),
                (stub.GetTrial(pb.GetTrialRequest(name="searches/none/trials/1")), "TRIAL_UNKNOWN"),
                (stub.GetNetwork(pb.GetNetworkRequest(name=network)), "NETWORK_UNKNOWN"),
                (anext(aiter(stub.ExportNetwork(pb.ExportNetworkRequest(name=network)))), "NETWORK_UNKNOWN"),
                (stub.GetDataset(pb.GetDatasetRequest(name="datasets/none")), "DATASET_UNKNOWN"),
                (stub.GetAgent(pb.GetAgentRequest(name="agents/none")), "AGENT_UNKNOWN"),
            ):
                assert (await refused(call, NotFound)).reason == reason
            assert (
                await refused(stub.GetSearch(pb.GetSearchRequest(name="nonsense")), Invalid)
            ).reason == "NAME_INVALID"

    go(body())


def test_create_when_no_generator_is_connected_then_absent_with_the_fix() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub:
            error = await refused(stub.CreateSearch(pb.CreateSearchRequest(spec=make.make_spec())), Unavailable)
            assert error.reason == "GENERATOR_ABSENT"
            assert "nasmesh serve generate" in error.message

    go(body())


def test_create_when_no_train_server_has_the_data_then_absent_with_how_to_obtain_it() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, scripted(scheduler.address) as agent:
            hello = make.make_hello("one")
            hello.server.datasets.add(name="datasets/fashion-mnist", description="clothing; run: make data")
            await agent.greet(hello)
            spec = make.make_spec()
            spec.data.dataset = "datasets/fashion-mnist"
            error = await refused(stub.CreateSearch(pb.CreateSearchRequest(spec=spec)), Unavailable)
            assert error.reason == "DATASET_ABSENT"
            assert "make data" in error.message

    go(body())


def test_create_when_no_evaluate_server_has_the_table_then_absent_with_those_that_are() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, scripted(scheduler.address) as agent:
            spec = make.make_spec()
            spec.ClearField("train")
            spec.evaluate.table = "tables/digits-sell"
            hello = make.make_hello("one")
            hello.server.tables.append("tables/digits-cell")
            await agent.greet(hello)
            error = await refused(stub.CreateSearch(pb.CreateSearchRequest(spec=spec)), Unavailable)
            assert error.reason == "TABLE_ABSENT"
            assert "tables/digits-cell" in error.message
            spec.evaluate.table = "tables/digits-cell"
            assert (await stub.CreateSearch(pb.CreateSearchRequest(spec=spec))).search.name

    go(body())


def test_create_when_a_server_does_not_name_its_tables_then_it_may_have_any() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, scripted(scheduler.address) as agent:
            spec = make.make_spec()
            spec.ClearField("train")
            spec.evaluate.table = "tables/of-its-own"
            await agent.greet(make.make_hello("one"))
            assert (await stub.CreateSearch(pb.CreateSearchRequest(spec=spec))).search.name

    go(body())


def test_create_when_validated_only_then_defaults_are_shown_and_nothing_is_created() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, scripted(scheduler.address) as agent:
            await agent.greet(make.make_hello("one"))
            request = pb.CreateSearchRequest(spec=make.make_spec(final=True), search_id="s", validate_only=True)
            search = (await stub.CreateSearch(request)).search
            assert search.spec.train.batch_size == 64
            assert search.spec.generator.settings["width"] == 4
            assert search.spec.final.evaluate.split == measurement_pb2.SPLIT_TEST
            assert search.spec.final.train.steps == 50
            assert not (await stub.ListSearches(pb.ListSearchesRequest())).searches

    go(body())


def test_cancel_when_repeated_or_ended_then_left_as_it_is() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, working(scheduler.address):
            await create(stub, make.make_spec(max_trials=2), search_id="s")
            done = await ended(stub, "searches/s")
            request = pb.CancelSearchRequest(name="searches/s", request_id="c")
            assert (await stub.CancelSearch(request)).search == done
            assert (await stub.CancelSearch(request)).search == done

    go(body())


async def pieces(content: bytes, size: int, sha256: str = "") -> AsyncIterator[pb.ImportNetworkRequest]:
    for start in range(0, len(content), size):
        yield pb.ImportNetworkRequest(chunk=content[start : start + size], sha256=sha256 if start == 0 else "")


def test_objects_when_imported_and_exported_then_the_same_bytes() -> None:
    async def body() -> None:
        store = MemoryStore()
        content = bytes(range(256)) * 9000
        async with running(store=store) as scheduler, client(scheduler.address) as stub:
            digest = hashlib.sha256(content).hexdigest()
            ref = (await stub.ImportNetwork(pieces(content, 700_000, digest))).object
            assert (ref.sha256, ref.size_bytes) == (digest, len(content))
            assert store.get(ref) == content
            error = await refused(stub.ImportNetwork(pieces(content, 700_000, "0" * 64)), Invalid)
            assert error.reason == "OBJECT_DIGEST_MISMATCH"
            assert (await refused(stub.ImportNetwork(pieces(b"", 1)), Invalid)).reason == "OBJECT_EMPTY"

            def script(lease: dispatch_pb.Lease) -> dispatch_pb.AttemptOutcome | None:
                outcome = make.make_outcome(lease)
                if lease.HasField("train"):
                    model = store.put(ObjectKind.CHECKPOINT, content)
                    outcome.train.model.CopyFrom(model)
                if lease.HasField("evaluate"):
                    outcome.evaluate.report.CopyFrom(store.put(ObjectKind.REPORT, b"{}", extension="json"))
                return outcome if not lease.HasField("finalize") else None

            async with working(scheduler.address, script):
                await create(stub, make.make_spec(max_trials=1, final=True), search_id="s")
                while (await stub.GetSearch(pb.GetSearchRequest(name="searches/s"))).search.state == 1:
                    await asyncio.sleep(0)
            export = pb.ExportNetworkRequest(name="searches/s/trials/1")
            got = [piece async for piece in stub.ExportNetwork(export)]
            assert got[0].object.sha256 == digest
            assert b"".join(piece.chunk for piece in got) == content
            export.form = pb.EXPORT_FORM_CHECKPOINT
            error = await refused(anext(aiter(stub.ExportNetwork(export))), NotFound)
            assert error.reason == "OBJECT_MISSING"
            export.form = pb.EXPORT_FORM_REPORT
            assert b"".join([piece.chunk async for piece in stub.ExportNetwork(export)]) == b"{}"
            export.form = pb.EXPORT_FORM_QUANTIZED
            error = await refused(anext(aiter(stub.ExportNetwork(export))), Stale)
            assert error.reason == "NOT_QUANTIZED"
            assert "evaluate.quantization" in error.message

    go(body())


def test_export_when_not_trained_then_stale() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, scripted(scheduler.address) as agent:
            await agent.greet(make.make_hello("one"))
            await create(stub, make.make_spec(), search_id="s")
            await agent.want(search_pb2.TASK_KIND_GENERATE)
            await agent.finish(make.make_outcome((await agent.hear("lease")).lease))
            export = pb.ExportNetworkRequest(name="searches/s/trials/1")
            assert (await refused(anext(aiter(stub.ExportNetwork(export))), Stale)).reason == "NOT_TRAINED"

    go(body())


def test_generator_when_it_refuses_then_the_search_fails_with_its_reason() -> None:
    async def body() -> None:
        def script(lease: dispatch_pb.Lease) -> dispatch_pb.AttemptOutcome:
            return make.make_failure(lease, "SPACE_UNSUPPORTED", retryable=False)

        async with running() as scheduler, client(scheduler.address) as stub, working(scheduler.address, script):
            await create(stub, make.make_spec(), search_id="s")
            search = await ended(stub, "searches/s")
            assert search.state == search_pb2.SEARCH_STATE_FAILED
            assert search.reason == "SPACE_UNSUPPORTED: as told"

    go(body())


def test_journal_when_the_disk_is_full_then_refused_and_nothing_lost(tmp_path: Path) -> None:
    async def body() -> None:
        async with running(tmp_path / "j.db") as scheduler, client(scheduler.address) as stub:  # noqa: SIM117
            async with scripted(scheduler.address) as agent:
                await agent.greet(make.make_hello("one"))
                await create(stub, make.make_spec(), search_id="kept")
                db: Any = scheduler.core.engine.journal._db()  # type: ignore[attr-defined]
                pages = db.execute("PRAGMA page_count").fetchone()[0]
                db.execute(f"PRAGMA max_page_count = {pages}")
                spec = make.make_spec()
                spec.labels.update({f"k{i}": "v" * 100 for i in range(32)})
                error = None
                for index in range(20):
                    try:
                        with errors_from_rpc():
                            await stub.CreateSearch(pb.CreateSearchRequest(spec=spec, search_id=f"more{index}"))
                    except Unavailable as caught:
                        error = caught
                        break
                assert error is not None
                assert error.reason == "JOURNAL_FULL"
                known = {search.name for search in (await stub.ListSearches(pb.ListSearchesRequest())).searches}
                assert known == {"searches/kept", *(f"searches/more{i}" for i in range(index))}
                db.execute("PRAGMA max_page_count = 1000000")
                reasons = set()
                while True:  # the engine tries the journal again once a second
                    try:
                        with errors_from_rpc():
                            await stub.CreateSearch(pb.CreateSearchRequest(spec=make.make_spec(), search_id="after"))
                        break
                    except Unavailable as caught:
                        reasons.add(caught.reason)
                assert reasons <= {"JOURNAL_FULL"}

    go(body())
