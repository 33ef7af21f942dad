"""Data sets that people add: uploading, creating, deleting, and whose they are. Samples are never read here."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

from nasmesh import ids, limits
from nasmesh.data import catalog, manifest
from nasmesh.errors import Busy, Conflict, Denied, Invalid, NotFound, Stale
from nasmesh.logs import get_logger
from nasmesh.rpc.identity import Identity, Role
from nasmesh.store.base import ObjectStore
from nasmesh.store.keys import ObjectKind
from nasmesh.v1 import dataset_manifest_pb2, dataset_pb2, object_pb2
from nasmesh.v1 import scheduler_service_pb2 as pb
from scheduler import transfer
from scheduler.core import Core
from scheduler.domain import State
from scheduler.engine import Engine
from scheduler.once import once
from scheduler.ownership import is_visible
from scheduler.wishes import DatasetAdded, DatasetDeleted

_RETRY_S = 30.0
_log = get_logger("datasets")


class Datasets:
    """The added data sets of a scheduler."""

    def __init__(self, core: Core, store: ObjectStore) -> None:
        """Keep names in a core's state; objects are in a store."""
        self._core = core
        self._store = store

    async def receive(self, requests: AsyncIterator[pb.UploadDatasetObjectRequest]) -> object_pb2.ObjectRef:
        """Store the bytes that a client streams; raises what UploadDatasetObject documents."""
        return await transfer.receive(
            self._store, requests, kind=ObjectKind.DATASET, most=limits.DATASET_OBJECT_BYTES, extension="bin"
        )

    async def create(self, request: pb.CreateDatasetRequest, *, caller: Identity) -> pb.CreateDatasetResponse:
        """Give a name to a manifest; raises what CreateDataset documents."""
        name = ids.format_name("datasets", request.dataset_id, field="dataset_id")
        found = await asyncio.to_thread(_checked, self._store, request.manifest)
        dataset = manifest.dataset_of(found, name, request.manifest)
        if dataset.ByteSize() > limits.DATASET_LISTED_BYTES:
            raise Invalid(
                "MANIFEST_INVALID",
                f"manifest: names of classes and statistics have {dataset.ByteSize():,} bytes, no list holds more than"
                f" {limits.DATASET_LISTED_BYTES:,}; shorten class_names",
                field="manifest.class_names",
            )
        dataset.owner = caller.name
        return await self._core.submit(partial(self._create, request, dataset, caller))

    async def described(self, dataset: dataset_pb2.Dataset) -> dataset_pb2.Dataset:
        """Return a data set of which only the manifest is known with what that says, any other as it is.

        Raises NotFound (OBJECT_MISSING), Unavailable (STORE_DOWN), Invalid (OBJECT_CORRUPT, MANIFEST_INVALID).
        """
        if dataset.sample_dims or not dataset.HasField("manifest"):
            return dataset
        found = await asyncio.to_thread(manifest.fetch, self._store, dataset.manifest)
        return manifest.dataset_of(found, dataset.name, dataset.manifest)

    def delete(self, request: pb.DeleteDatasetRequest, *, caller: Identity) -> pb.DeleteDatasetResponse:
        """Forget a name, as a command of the engine; raises what DeleteDataset documents."""
        act = partial(self._delete, request.name, caller)
        return once(self._engine, request.request_id, request, act, pb.DeleteDatasetResponse, caller=caller)

    # --- below -----------------------------------------------------------------------------------------------

    @property
    def _engine(self) -> Engine:
        return self._core.engine

    def _create(
        self, request: pb.CreateDatasetRequest, dataset: dataset_pb2.Dataset, caller: Identity
    ) -> pb.CreateDatasetResponse:
        act = partial(self._record, dataset, caller)
        return once(self._engine, request.request_id, request, act, pb.CreateDatasetResponse, caller=caller)

    def _record(self, dataset: dataset_pb2.Dataset, caller: Identity) -> pb.CreateDatasetResponse:
        state = self._engine.state
        if dataset.name in state.datasets or dataset.name.rpartition("/")[2] in catalog.DATASETS:
            raise Conflict(
                "DATASET_EXISTS",
                f"dataset_id: {dataset.name} exists; choose another name, or delete it first",
                field="dataset_id",
            )
        _check_quota(state, caller)
        self._engine.record(DatasetAdded(dataset))
        _log.info("dataset_added", dataset=dataset.name, manifest=dataset.manifest.sha256)
        reply = pb.CreateDatasetResponse()
        reply.dataset.CopyFrom(state.datasets[dataset.name])
        return reply

    def _delete(self, name: str, caller: Identity) -> pb.DeleteDatasetResponse:
        identifier = ids.parse_name("datasets", name)
        if identifier in catalog.DATASETS:
            raise Stale("DATASET_BUILT_IN", f"name: {name} is built in and cannot be deleted", field="name")
        found = self._engine.state.datasets.get(name)
        if found is None or not is_visible(caller, found.owner):
            raise NotFound("DATASET_UNKNOWN", f"there is no data set {name}", field="name")
        if not caller.roles & {Role.CLIENT_WRITE, Role.ADMIN}:
            raise Denied("ROLE_FORBIDDEN", f"name: {name} may only be read with this identity", field="name")
        self._engine.record(DatasetDeleted(name))
        _log.info("dataset_deleted", dataset=name)
        return pb.DeleteDatasetResponse()


def visible(state: State, caller: Identity) -> dict[str, dataset_pb2.Dataset]:
    """Return the added data sets that a caller may know of, by name."""
    return {name: dataset for name, dataset in state.datasets.items() if is_visible(caller, dataset.owner)}


def _check_quota(state: State, caller: Identity) -> None:
    held = sum(dataset.owner == caller.name for dataset in state.datasets.values())
    if held >= limits.DATASETS:
        raise Busy(
            "QUOTA_EXCEEDED",
            f"{caller.name or 'this scheduler'} has {held} data sets, at most {limits.DATASETS}: delete one",
            retry_after_s=_RETRY_S,
            metadata={"quota": "datasets", "limit": str(limits.DATASETS)},
        )


def _checked(store: ObjectStore, ref: object_pb2.ObjectRef) -> dataset_manifest_pb2.DatasetManifest:
    """Return the manifest, once it and all that it names is in the store; raises as `create`."""
    found = manifest.fetch(store, ref)
    for index, shard in enumerate(found.shards):
        if not store.exists(shard.object):
            raise NotFound(
                "OBJECT_MISSING",
                f"manifest.shards[{index}]: object {shard.object.key} is not in the store; upload it first",
                field="manifest",
            )
    return found


def shards_of(
    store: ObjectStore, manifests: list[object_pb2.ObjectRef], *, tolerant: bool = False
) -> list[object_pb2.ObjectRef]:
    """Return all shards that manifests name, each once; raises Unavailable (STORE_DOWN), Invalid (OBJECT_CORRUPT).

    A manifest that is not there any more names nothing: no data can be read through it. `tolerant`: nor does one that
    is damaged, whoever asks says so by other means.
    """
    found: dict[str, object_pb2.ObjectRef] = {}
    for ref in manifests:
        try:
            read = manifest.fetch(store, ref)
        except NotFound:
            continue
        except Invalid:
            if not tolerant:
                raise
            continue
        found.update((shard.object.key, shard.object) for shard in read.shards)
    return list(found.values())
