"""Adds data from a path: reads it, uploads what is new, gives it a name; the same data again is no error."""

from pathlib import Path
from typing import TYPE_CHECKING

from nasmesh.errors import Conflict, NotFound, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from nasmesh.client import Client
    from nasmesh.data.adding.options import Options
    from nasmesh.v1 import dataset_manifest_pb2, dataset_pb2, object_pb2


def store_dataset(client: "Client", name: str, path: Path, options: "Options") -> "tuple[dataset_pb2.Dataset, int]":
    """Return a data set that is read, uploaded and named, and how much was left out; the same data again is no error.

    Raises Conflict (DATASET_EXISTS for a built-in name, DATASET_CHANGED where it is taken by other content), and what
    reading and uploading raise.
    """
    from nasmesh.client.datasets import dataset_name
    from nasmesh.data.catalog import DATASETS

    identifier = dataset_name(name).partition("/")[2]
    if identifier in DATASETS:  # told before gigabytes are read and uploaded
        raise Conflict("DATASET_EXISTS", f"name: datasets/{identifier} is built in; choose another name", field="name")
    manifest, ref = read_dataset(path, options, client.upload_dataset_object)
    try:
        return client.create_dataset(identifier, ref), manifest.skipped_count
    except Conflict as error:
        if error.reason != "DATASET_EXISTS":
            raise
        there = _there(client, name)
        if _says(there) == _says(listed(manifest, name, ref)):
            return there, manifest.skipped_count
        what = "its samples are the same, but classes, columns or splits are called or cut otherwise"
        if there.content_digest != manifest.content_digest:
            what = f"digest {there.content_digest[:12]}, now {manifest.content_digest[:12]}"
        raise Conflict(
            "DATASET_CHANGED",
            f"name: {there.name} exists and {path} has changed since it was added ({what}); choose another name, or"
            " delete it first",
            field="name",
        ) from error


def _there(client: "Client", name: str) -> "dataset_pb2.Dataset":
    """Return the data set that has a name already; raises Conflict (DATASET_EXISTS) for one of somebody else."""
    try:
        return client.get_dataset(name)
    except NotFound as error:  # or it was deleted since: another attempt will do
        what = f"name: {name} is taken by somebody else's data set; choose another name"
        raise Conflict("DATASET_EXISTS", what, field="name") from error


def _says(item: "dataset_pb2.Dataset") -> bytes:
    """Return what a data set says of its samples: all but its names, whose it is and how it is stored."""
    said = type(item)()
    said.CopyFrom(item)
    for field in ("name", "description", "owner", "create_time", "manifest", "size_bytes", "available"):
        said.ClearField(field)
    return said.SerializeToString(deterministic=True)


def read_dataset(
    path: Path, options: "Options", put: "Callable[[bytes], object_pb2.ObjectRef]"
) -> "tuple[dataset_manifest_pb2.DatasetManifest, object_pb2.ObjectRef]":
    """Return the manifest of what is at a path, and its object.

    Raises Invalid (DATASET_…), Unavailable (EXTRA_ABSENT) where the libraries that read data are not installed.
    """
    try:
        from nasmesh.data.adding.add import add
    except ModuleNotFoundError as error:
        raise Unavailable(
            "EXTRA_ABSENT", f"adding data needs {error.name}; run: pip install 'nasmesh[data]'", field="path"
        ) from error
    return add(path, options, put)


def nowhere(content: bytes) -> "object_pb2.ObjectRef":
    """Return the reference that an object would have, storing nothing."""
    from nasmesh.store.keys import ObjectKind, object_ref

    return object_ref(ObjectKind.DATASET, content, extension="bin")


def listed(
    manifest: "dataset_manifest_pb2.DatasetManifest", name: str, ref: "object_pb2.ObjectRef"
) -> "dataset_pb2.Dataset":
    """Return a data set as it would be listed."""
    from nasmesh.client.datasets import dataset_name
    from nasmesh.data.manifest import dataset_of

    return dataset_of(manifest, dataset_name(name), ref)
