"""Data sets that are added, on a real scheduler: uploaded, named, listed, used, deleted, kept by sweeps."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nasmesh.data import load as loading
from nasmesh.data.resolve import added as manifest_of
from nasmesh.errors import Conflict, Denied, Invalid, NotFound, Stale
from nasmesh.rpc.channel import errors_from_rpc
from nasmesh.rpc.identity import Identity, Role
from nasmesh.store.directory import DirectoryStore
from nasmesh.store.keys import ObjectKind, bare
from nasmesh.store.memory import MemoryStore
from nasmesh.v1 import dataset_pb2, object_pb2
from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import scheduler_service_pb2 as pb
from scheduler import sweep
from scheduler.admin.checking import check
from scheduler.datasets import Datasets
from scheduler.listings import Listings
from scheduler.searches import Searches
from tests.builders import data_files
from tests.builders import scheduling as make
from tests.builders.scheduler_calls import SUCCEEDED, go, refused
from tests.builders.scheduler_server import client, create, ended, running, working

CHUNK = 500_000


@pytest.fixture(autouse=True)
def _home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path_factory.mktemp("home")))
    yield
    loading.forget()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    images = np.random.default_rng(2).integers(0, 256, (90, 1, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", x=images, y=np.arange(90) % 3)
    return tmp_path / "d.npz"


async def pieces(content: bytes, sha256: str | None = None) -> AsyncIterator[pb.UploadDatasetObjectRequest]:
    digest = hashlib.sha256(content).hexdigest() if sha256 is None else sha256
    for start in range(0, len(content), CHUNK):
        yield pb.UploadDatasetObjectRequest(chunk=content[start : start + CHUNK], sha256=digest if not start else "")


async def upload(stub: Any, path: Path) -> object_pb2.ObjectRef:
    """Read files here, and send shards and manifest; return the manifest's reference."""
    local = MemoryStore()
    spec = data_files.stored(path, local)
    for shard in manifest_of(spec.manifest, local).shards:
        ref = (await stub.UploadDatasetObject(pieces(local.get(shard.object)))).object
        assert ref == shard.object
    return (await stub.UploadDatasetObject(pieces(local.get(spec.manifest)))).object


def test_a_data_set_is_uploaded_named_listed_and_used_by_a_search(files: Path) -> None:
    async def body() -> None:
        store = MemoryStore()
        async with running(store=store) as scheduler, client(scheduler.address) as stub:
            ref = await upload(stub, files)
            request = pb.CreateDatasetRequest(dataset_id="mine", manifest=ref, request_id="r")
            made = (await stub.CreateDataset(request)).dataset
            assert (await stub.CreateDataset(request)).dataset == made
            assert (made.name, made.classes, list(made.sample_dims)) == ("datasets/mine", 3, [1, 8, 8])
            assert made.create_time.seconds > 0
            assert (await stub.GetDataset(pb.GetDatasetRequest(name=made.name))).dataset == made
            listed = (await stub.ListDatasets(pb.ListDatasetsRequest())).datasets
            assert [d.name for d in listed] == sorted(d.name for d in listed)
            assert made in listed
            asked: list[dispatch_pb.Lease] = []

            def script(lease: dispatch_pb.Lease) -> dispatch_pb.AttemptOutcome | None:
                asked.append(lease)
                return make.make_outcome(lease)

            async with working(scheduler.address, script):
                spec = make.make_spec(max_trials=2)
                spec.data.CopyFrom(dataset_pb2.DatasetSpec(dataset="datasets/mine"))
                spec.data.view.fraction = 0.5
                await create(stub, spec, search_id="s")
                search = await ended(stub, "searches/s")
            assert search.state == SUCCEEDED
            assert search.spec.data.manifest == ref
            trained = [lease.train.data for lease in asked if lease.HasField("train")]
            assert trained
            assert all(data == search.spec.data for data in trained)
            assert len(loading.load(trained[0], store).train) == round(0.5 * 66)

    go(body())


def test_a_name_is_given_once_and_only_to_what_is_there(files: Path) -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub:
            ref = await upload(stub, files)

            def ask(name: str, manifest: object_pb2.ObjectRef) -> Any:
                return stub.CreateDataset(pb.CreateDatasetRequest(dataset_id=name, manifest=manifest))

            await ask("mine", ref)
            assert (await refused(ask("mine", ref), Conflict)).reason == "DATASET_EXISTS"
            assert (await refused(ask("digits", ref), Conflict)).reason == "DATASET_EXISTS"
            assert (await refused(ask("No Name", ref), Invalid)).reason == "NAME_INVALID"
            missing = object_pb2.ObjectRef()
            missing.CopyFrom(ref)
            missing.sha256 = "0" * 64
            missing.key = f"datasets/sha256/00/{missing.sha256}.bin"
            assert (await refused(ask("other", missing), NotFound)).reason == "OBJECT_MISSING"
            shard = (await stub.UploadDatasetObject(pieces(b"no manifest"))).object
            assert (await refused(ask("other", shard), Invalid)).reason == "MANIFEST_INVALID"
            network = object_pb2.ObjectRef()
            network.CopyFrom(ref)
            network.key = network.key.replace("datasets/", "networks/")
            assert (await refused(ask("other", network), Invalid)).reason == "OBJECT_REF_INVALID"
            # A manifest whose shards were never uploaded.
            local = MemoryStore()
            other = files.with_name("other.npz")
            np.savez(other, x=np.ones((40, 3)), y=np.arange(40) % 2)
            spec = data_files.stored(other, local)
            alone = (await stub.UploadDatasetObject(pieces(local.get(spec.manifest)))).object
            error = await refused(ask("other", alone), NotFound)
            assert (error.reason, "shards[0]" in error.message) == ("OBJECT_MISSING", True)

    go(body())


def test_what_no_message_could_list_is_not_given_a_name(files: Path) -> None:
    async def body() -> None:
        store = MemoryStore()
        async with running(store=store) as scheduler, client(scheduler.address) as stub:
            manifest = manifest_of(await upload(stub, files), store)
            classes = manifest.classes = manifest.samples = 16_000
            manifest.class_names[:] = [f"{index:0256}" for index in range(classes)]
            manifest.class_counts[:] = [1] * classes
            del manifest.shards[1:]
            manifest.shards[0].samples = classes
            manifest.splits[0].samples += classes - sum(part.samples for part in manifest.splits)
            ref = (await stub.UploadDatasetObject(pieces(manifest.SerializeToString()))).object
            wide = stub.CreateDataset(pb.CreateDatasetRequest(dataset_id="wide", manifest=ref))
            error = await refused(wide, Invalid)
            assert (error.reason, error.field) == ("MANIFEST_INVALID", "manifest.class_names")
            names = [dataset.name for dataset in (await stub.ListDatasets(pb.ListDatasetsRequest())).datasets]
            assert "datasets/wide" not in names

    go(body())


def test_uploads_of_no_sense_are_refused() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub:
            wrong = await refused(stub.UploadDatasetObject(pieces(b"abc", "0" * 64)), Invalid)
            assert wrong.reason == "OBJECT_DIGEST_MISMATCH"
            assert (await refused(stub.UploadDatasetObject(pieces(b"")), Invalid)).reason == "OBJECT_EMPTY"
            large = await refused(stub.UploadDatasetObject(pieces(bytes(65 << 20))), Invalid)
            assert large.reason == "OBJECT_TOO_LARGE"

    go(body())


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"dataset": "datasets/yours"}, "spec.data.dataset"),
        ({"view": dataset_pb2.DataView(classes=[0, 3])}, "spec.data.view.classes"),
        ({"view": dataset_pb2.DataView(fraction=2)}, "spec.data.view.fraction"),
        ({"division": dataset_pb2.DIVISION_RULE_BY_GROUP}, "spec.data.division"),
        ({"manifest": object_pb2.ObjectRef(key="x")}, "spec.data.manifest"),
    ],
)
def test_searches_that_ask_for_what_is_not_there_are_refused(files: Path, change: dict[str, Any], field: str) -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, working(scheduler.address):
            ref = await upload(stub, files)
            await stub.CreateDataset(pb.CreateDatasetRequest(dataset_id="mine", manifest=ref))
            spec = make.make_spec()
            spec.data.CopyFrom(dataset_pb2.DatasetSpec(**{"dataset": "datasets/mine", **change}))
            with pytest.raises(Invalid) as caught, errors_from_rpc():
                await create(stub, spec)
            assert field in [violation.field for violation in caught.value.violations]

    go(body())


def test_kernels_for_rows_of_a_table_is_refused_at_once(tmp_path: Path) -> None:
    async def body() -> None:
        np.savez(tmp_path / "rows.npz", x=np.random.default_rng(1).normal(size=(60, 5)), y=np.arange(60) % 2)
        async with running() as scheduler, client(scheduler.address) as stub, working(scheduler.address):
            ref = await upload(stub, tmp_path / "rows.npz")
            await stub.CreateDataset(pb.CreateDatasetRequest(dataset_id="rows", manifest=ref))
            spec = make.make_spec()
            spec.data.dataset = "datasets/rows"
            with pytest.raises(Invalid, match="rows of a table") as caught, errors_from_rpc():
                await create(stub, spec)
            assert caught.value.violations[0].field == "spec.space.chain.kernels"

    go(body())


def test_a_deleted_name_is_gone_and_searches_keep_their_data(files: Path, tmp_path: Path, monkeypatch: Any) -> None:
    async def body() -> None:
        store = DirectoryStore(tmp_path / "objects")
        journal = tmp_path / "journal.db"
        async with running(journal, store) as scheduler, client(scheduler.address) as stub:
            ref = await upload(stub, files)
            for name in ("mine", "again"):
                await stub.CreateDataset(pb.CreateDatasetRequest(dataset_id=name, manifest=ref))
            async with working(scheduler.address):
                spec = make.make_spec(max_trials=1)
                spec.data.dataset = "datasets/mine"
                await create(stub, spec, search_id="s")
                await ended(stub, "searches/s")
            for name in ("mine", "again"):
                await stub.DeleteDataset(pb.DeleteDatasetRequest(name=f"datasets/{name}"))
            gone = await refused(stub.DeleteDataset(pb.DeleteDatasetRequest(name="datasets/mine")), NotFound)
            assert gone.reason == "DATASET_UNKNOWN"
            fixed = await refused(stub.DeleteDataset(pb.DeleteDatasetRequest(name="datasets/digits")), Stale)
            assert fixed.reason == "DATASET_BUILT_IN"
            await stub.CreateDataset(pb.CreateDatasetRequest(dataset_id="kept", manifest=ref))
        async with running(journal, store) as scheduler, client(scheduler.address) as stub:
            names = {d.name for d in (await stub.ListDatasets(pb.ListDatasetsRequest())).datasets}
            assert "datasets/kept" in names
            assert not names & {"datasets/mine", "datasets/again"}
            stray = store.put(ObjectKind.DATASET, b"nobody names this", extension="bin")
            monkeypatch.setattr(sweep.limits, "SWEEP_AGE_MIN_S", 0.0)
            await stub.DeleteDataset(pb.DeleteDatasetRequest(name="datasets/kept"))
            request = pb.DeleteUnreferencedObjectsRequest(apply=True)
            request.min_age.FromNanoseconds(1)
            await asyncio.to_thread(_let_time_pass, store)
            done = await stub.DeleteUnreferencedObjects(request)
            assert list(done.sample_keys).count(stray.key) == 1
            # The search names the manifest, the manifest its shards.
            left = {bare(item.key) for item in store.objects()}
            manifest = manifest_of(ref, store)
            assert {bare(ref.key), *(bare(shard.object.key) for shard in manifest.shards)} <= left

    go(body())


def test_what_a_search_uses_is_still_described_when_its_name_is_gone_or_given_anew(files: Path) -> None:
    async def body() -> None:
        store = MemoryStore()
        async with running(store=store) as scheduler, client(scheduler.address) as stub:
            ref = await upload(stub, files)
            made = (await stub.CreateDataset(pb.CreateDatasetRequest(dataset_id="mine", manifest=ref))).dataset
            async with working(scheduler.address):
                spec = make.make_spec(max_trials=1)
                await create(stub, spec, search_id="built-in")
                spec.data.dataset = made.name
                await create(stub, spec, search_id="s")

            async def used(search: str) -> dataset_pb2.Dataset:
                return (await stub.GetDataset(pb.GetDatasetRequest(name="datasets/x", search=search))).dataset

            assert await used("searches/s") == made
            assert (await used("searches/built-in")).name == "datasets/digits"
            await stub.DeleteDataset(pb.DeleteDatasetRequest(name=made.name))
            np.savez(files, x=np.random.default_rng(3).normal(size=(40, 3)), y=np.random.default_rng(3).normal(size=40))
            for _ in range(2):  # without the name, and with the name for something else
                found = await used("searches/s")
                assert (found.name, found.manifest, found.classes) == (made.name, ref, 3)
                assert list(found.std) == list(made.std)
                again = await upload(stub, files)
                await stub.CreateDataset(pb.CreateDatasetRequest(dataset_id="mine", manifest=again, request_id="r"))
            assert (await stub.GetDataset(pb.GetDatasetRequest(name=made.name))).dataset.targets == 1
            asked = pb.GetDatasetRequest(name=made.name, search="searches/none")
            assert (await refused(stub.GetDataset(asked), NotFound)).reason == "SEARCH_UNKNOWN"
            store.delete(ref.key, min_age_s=0)
            assert (await refused(used("searches/s"), NotFound)).reason == "OBJECT_MISSING"

    go(body())


def _let_time_pass(store: DirectoryStore) -> None:
    """Return once every object is older than a nanosecond by the clock that dates files."""
    while any(item.age_s <= 0 for item in store.objects()):
        pass


def test_somebody_elses_data_sets_do_not_exist_for_a_caller(files: Path) -> None:
    ann = Identity("clients/ann", frozenset({Role.CLIENT_WRITE}))
    ben = Identity("clients/ben", frozenset({Role.CLIENT_WRITE}))
    reader = Identity("clients/ann", frozenset({Role.CLIENT_READ}))

    async def body() -> None:
        store = MemoryStore()
        spec = data_files.stored(files, store)
        async with running(store=store) as scheduler:
            datasets = Datasets(scheduler.core, store)
            request = pb.CreateDatasetRequest(dataset_id="anns", manifest=spec.manifest)
            made = (await datasets.create(request, caller=ann)).dataset
            assert made.owner == "clients/ann"
            listings = Listings(scheduler.core.engine, Searches(scheduler.core.engine), "memory")
            assert listings.dataset("datasets/anns", caller=ann) == made
            for call in (
                lambda: listings.dataset("datasets/anns", caller=ben),
                lambda: datasets.delete(pb.DeleteDatasetRequest(name="datasets/anns"), caller=ben),
            ):
                with pytest.raises(NotFound):
                    call()
            with pytest.raises(Denied):
                datasets.delete(pb.DeleteDatasetRequest(name="datasets/anns"), caller=reader)

    go(body())


def test_a_check_of_the_journal_with_its_store_finds_a_lost_shard(files: Path, tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "objects")
    journal = tmp_path / "journal.db"

    async def body() -> None:
        async with running(journal, store) as scheduler, client(scheduler.address) as stub:
            ref = await upload(stub, files)
            await stub.CreateDataset(pb.CreateDatasetRequest(dataset_id="mine", manifest=ref))

    go(body())
    whole = check(journal, store)
    assert (whole.objects, [found.what for found in whole.violations]) == (2, [])
    shard = next(path for path in (tmp_path / "objects" / "datasets").rglob("*.bin") if path.stat().st_size > 2000)
    shard.unlink()
    lost = check(journal, store)
    assert [found.invariant for found in lost.violations] == ["I9"]
    assert shard.name in lost.violations[0].what
