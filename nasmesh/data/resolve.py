"""What is known of the data that a specification names, built in or added. Pure Python; reads manifests, no samples."""

import functools
from collections.abc import Callable

from nasmesh.data import catalog, manifest
from nasmesh.data.info import DatasetInfo
from nasmesh.settings import read_settings
from nasmesh.store.base import ObjectStore
from nasmesh.store.open import open_store
from nasmesh.v1 import dataset_manifest_pb2, object_pb2
from nasmesh.v1 import dataset_pb2 as pb

_MANIFESTS = 8  # kept in a process; a manifest is some kilobytes to some hundred


def resolve(spec: pb.DatasetSpec, store: ObjectStore | None = None) -> DatasetInfo:
    """Return what networks for this data must fit; `store` holds added ones [the environment's].

    Raises Invalid (DATASET_UNKNOWN, DATASET_SPEC_INVALID, MANIFEST_INVALID, OBJECT_CORRUPT and the like), NotFound
    (OBJECT_MISSING), Unavailable (STORE_DOWN).
    """
    catalog.check(spec)
    info = described(spec, store)
    catalog.check(spec, info=info)
    return catalog.viewed(info, spec.view)


def described(spec: pb.DatasetSpec, store: ObjectStore | None = None) -> DatasetInfo:
    """Return what is known of the whole data set, without its view; raises as `resolve`."""
    if not spec.HasField("manifest"):
        return catalog.describe(spec.dataset)
    return manifest.info_of(added(spec.manifest, store), spec.dataset.rpartition("/")[2])


def added(ref: object_pb2.ObjectRef, store: ObjectStore | None = None) -> dataset_manifest_pb2.DatasetManifest:
    """Return the manifest of an added data set, read once in a process; raises as `resolve`."""
    fetch = functools.partial(manifest.fetch, store or environment_store(), ref, field="data.manifest")
    return _kept(ref.key, fetch)


def environment_store() -> ObjectStore:
    """Return the store that this process is configured for; raises Invalid (STORE_URL_INVALID), Unavailable."""
    return open_store(read_settings().store)


_manifests: dict[str, dataset_manifest_pb2.DatasetManifest] = {}


def _kept(key: str, fetch: Callable[[], dataset_manifest_pb2.DatasetManifest]) -> dataset_manifest_pb2.DatasetManifest:
    """Return the manifest of an object key: named by its content, so what was read once stays right."""
    if key not in _manifests:
        found = fetch()
        while len(_manifests) >= _MANIFESTS:
            _manifests.pop(next(iter(_manifests)), None)
        _manifests[key] = found
    return _manifests[key]


def forget() -> None:
    """Drop the manifests that this process holds."""
    _manifests.clear()
