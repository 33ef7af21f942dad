"""The manifest of an added data set: reading, checking, and what is known from it. Pure Python, the scheduler's too."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from google.protobuf.message import DecodeError

from nasmesh import limits
from nasmesh.data.info import CLASSIFICATION, IMAGE, REGRESSION, SERIES, TABLE, DatasetInfo
from nasmesh.errors import FieldViolation, Invalid
from nasmesh.store.base import ObjectStore
from nasmesh.store.keys import ObjectKind, check_ref
from nasmesh.v1 import dataset_manifest_pb2 as pb
from nasmesh.v1 import dataset_pb2, measurement_pb2, object_pb2

FORMAT_VERSION = 1
_RANKS = {IMAGE: 3, SERIES: 2, TABLE: 1}
_SPLITS = (measurement_pb2.SPLIT_TRAIN, measurement_pb2.SPLIT_VALIDATION, measurement_pb2.SPLIT_TEST)
_CLASSES = 100_000
_NAME_CHARS = 256
_LISTED_CHARS = 1 << 16  # of names of columns that a list of data sets holds
_TEXT_CHARS = 1000
_SKIPPED = 1000


def fetch(store: ObjectStore, ref: object_pb2.ObjectRef, *, field: str = "manifest") -> pb.DatasetManifest:
    """Return the checked manifest that a reference names.

    Raises Invalid (OBJECT_REF_INVALID, OBJECT_KEY_MISMATCH, OBJECT_CORRUPT, MANIFEST_INVALID), NotFound
    (OBJECT_MISSING), Unavailable (STORE_DOWN).
    """
    check_form(ref, field=field)
    return parse(store.get(ref), field=field)


def check_form(ref: object_pb2.ObjectRef, *, field: str) -> None:
    """Raise Invalid where a reference is not that of a data set's object, or of one no manifest needs the size of."""
    if check_ref(ref, field=field) is not ObjectKind.DATASET:
        raise Invalid("OBJECT_REF_INVALID", f"{field}: {ref.key[:120]!r} is no object of a data set", field=field)
    if ref.size_bytes > limits.DATASET_OBJECT_BYTES:
        raise Invalid("MANIFEST_INVALID", f"{field}: {ref.size_bytes:,} bytes are no manifest", field=field)


def parse(content: bytes, *, field: str = "manifest") -> pb.DatasetManifest:
    """Return the manifest in these bytes; raises Invalid (MANIFEST_INVALID) with every field that is wrong."""
    try:
        manifest = pb.DatasetManifest.FromString(content)
    except DecodeError as error:
        raise Invalid("MANIFEST_INVALID", f"{field}: the object is no manifest of a data set", field=field) from error
    faults = [FieldViolation(f"{field}.{name}", f"{field}.{name}: {what}") for name, what in _faults(manifest)]
    if faults:
        raise Invalid("MANIFEST_INVALID", faults[0].description, field=faults[0].field, violations=faults)
    return manifest


def _faults(manifest: pb.DatasetManifest) -> Iterator[tuple[str, str]]:
    if manifest.format_version != FORMAT_VERSION:
        yield "format_version", f"this is version {manifest.format_version}, understood is {FORMAT_VERSION}; update"
        return
    if manifest.kind not in _RANKS:
        yield "kind", "say IMAGE, SERIES or TABLE"
        return
    yield from _shape_faults(manifest)
    yield from _shard_faults(manifest)
    yield from _task_faults(manifest)
    channels = manifest.sample_dims[0] if manifest.sample_dims else 0
    yield from _statistics_faults("mean", "std", manifest.mean, manifest.std, channels)
    yield from _name_faults("channel_names", manifest.channel_names, channels)
    yield from _name_faults("target_names", manifest.target_names, manifest.targets)
    if len(manifest.content_digest) != 64 or set(manifest.content_digest) - set("0123456789abcdef"):
        yield "content_digest", "is no SHA-256"
    if len(manifest.description) > _TEXT_CHARS or len(manifest.source) > _NAME_CHARS:
        yield "description", f"at most {_TEXT_CHARS} characters"
    if len(manifest.skipped) > _SKIPPED or manifest.skipped_count < len(manifest.skipped):
        yield "skipped", f"at most {_SKIPPED} files are named, and skipped_count counts them all"


def _shape_faults(manifest: pb.DatasetManifest) -> Iterator[tuple[str, str]]:
    dims = manifest.sample_dims
    if len(dims) != _RANKS[manifest.kind] or any(not 0 < dim <= limits.ADMISSION_DIM for dim in dims):
        yield "sample_dims", f"{list(dims)} are no dimensions of {_RANKS[manifest.kind]} from 1 to 65,536"
    elif math.prod(dims) * (1 if manifest.kind == IMAGE else 4) > limits.DATASET_SAMPLE_BYTES:
        yield "sample_dims", f"a sample of {list(dims)} has more than {limits.DATASET_SAMPLE_BYTES:,} bytes"
    if manifest.samples < 1:
        yield "samples", "there is none"
    elif not 0 <= manifest.test_samples < manifest.samples:
        yield "test_samples", f"{manifest.test_samples} of {manifest.samples}"
    sizes = {part.split: part.samples for part in manifest.splits}
    if set(sizes) != set(_SPLITS) or len(manifest.splits) != len(_SPLITS):
        yield "splits", "name train, validation and test once each"
    elif sum(sizes.values()) != manifest.samples or min(sizes.values()) < 1:
        yield "splits", f"they have {sum(sizes.values())} samples, none may be empty; there are {manifest.samples}"


def _shard_faults(manifest: pb.DatasetManifest) -> Iterator[tuple[str, str]]:
    for index, shard in enumerate(manifest.shards):
        try:
            if check_ref(shard.object, field="object") is not ObjectKind.DATASET:
                yield f"shards[{index}].object", "is no object of a data set"
        except Invalid as error:
            yield f"shards[{index}].object", error.message
        if shard.samples < 1 or shard.object.size_bytes > limits.DATASET_OBJECT_BYTES:
            yield f"shards[{index}]", "it is empty, or too large"
    if sum(shard.samples for shard in manifest.shards) != manifest.samples:
        yield "shards", f"they do not have {manifest.samples} samples together"


def _task_faults(manifest: pb.DatasetManifest) -> Iterator[tuple[str, str]]:
    if manifest.task == CLASSIFICATION:
        if not 2 <= manifest.classes <= _CLASSES:
            yield "classes", f"{manifest.classes} is not from 2 to {_CLASSES:,}"
        elif len(manifest.class_counts) != manifest.classes or sum(manifest.class_counts) != manifest.samples:
            yield "class_counts", "there must be one for each class, of all samples together"
        elif min(manifest.class_counts) < 1:
            empty = [index for index, count in enumerate(manifest.class_counts) if count < 1]
            yield "class_counts", f"class {empty[0]} has no sample"
        yield from _name_faults("class_names", manifest.class_names, manifest.classes)
        if manifest.targets:
            yield "targets", "leave it at 0 for classification"
    elif manifest.task == REGRESSION:
        if not 1 <= manifest.targets <= limits.ADMISSION_DIM:
            yield "targets", f"{manifest.targets} numbers cannot be predicted"
        yield from _statistics_faults(
            "target_mean", "target_std", manifest.target_mean, manifest.target_std, manifest.targets
        )
        if manifest.classes or manifest.class_names or manifest.class_counts:
            yield "classes", "leave classes, class_names and class_counts out for regression"
    else:
        yield "task", "say CLASSIFICATION or REGRESSION"


def _name_faults(field: str, names: Sequence[str], count: int) -> Iterator[tuple[str, str]]:
    if names and len(names) != count:
        yield field, f"{len(names)} names for {count}"
    if any(len(name) > _NAME_CHARS for name in names):
        yield field, f"a name has at most {_NAME_CHARS} characters"


def _statistics_faults(
    mean_name: str, std_name: str, mean: Sequence[float], std: Sequence[float], count: int
) -> Iterator[tuple[str, str]]:
    if len(mean) != count or not all(map(math.isfinite, mean)):
        yield mean_name, f"{count} finite numbers are needed"
    if len(std) != count or not all(math.isfinite(value) and value > 0 for value in std):
        yield std_name, f"{count} finite numbers above 0 are needed"


def info_of(manifest: pb.DatasetManifest, name: str) -> DatasetInfo:
    """Return what is known of an added data set, by the id that it has here."""
    listed = info_of_dataset(dataset_of(manifest, f"datasets/{name}", object_pb2.ObjectRef()))
    return replace(listed, class_counts=tuple(manifest.class_counts))


def dataset_of(manifest: pb.DatasetManifest, name: str, ref: object_pb2.ObjectRef) -> dataset_pb2.Dataset:
    """Return an added data set as it is listed, by its resource name; owner and time are for the caller to fill in."""
    return dataset_pb2.Dataset(
        name=name,
        description=manifest.description,
        sample_dims=manifest.sample_dims,
        classes=manifest.classes,
        splits=manifest.splits,
        content_digest=manifest.content_digest,
        available=True,
        kind=manifest.kind,
        task=manifest.task,
        class_names=manifest.class_names,
        targets=manifest.targets,
        manifest=ref,
        size_bytes=ref.size_bytes + sum(shard.object.size_bytes for shard in manifest.shards),
        grouped=manifest.grouped,
        test_samples=manifest.test_samples,
        mean=manifest.mean,
        std=manifest.std,
        target_mean=manifest.target_mean,
        target_std=manifest.target_std,
        channel_names=manifest.channel_names if sum(map(len, manifest.channel_names)) <= _LISTED_CHARS else (),
        target_names=manifest.target_names if sum(map(len, manifest.target_names)) <= _LISTED_CHARS else (),
    )


def info_of_dataset(dataset: dataset_pb2.Dataset) -> DatasetInfo:
    """Return what a listed data set says of itself: all but the class counts."""
    sizes = {part.split: part.samples for part in dataset.splits}
    return DatasetInfo(
        name=dataset.name.rpartition("/")[2],
        description=dataset.description,
        sample_dims=tuple(dataset.sample_dims),
        classes=dataset.classes,
        has_test_split=dataset.test_samples > 0,
        mean=tuple(dataset.mean),
        std=tuple(dataset.std),
        target_mean=tuple(dataset.target_mean),
        target_std=tuple(dataset.target_std),
        samples=sum(sizes.values()) - dataset.test_samples,
        test_samples=dataset.test_samples,
        split_sizes=(sizes.get(_SPLITS[0], 0), sizes.get(_SPLITS[1], 0), sizes.get(_SPLITS[2], 0)),
        digest=dataset.content_digest,
        obtain="its objects are in the object store",
        kind=dataset.kind or IMAGE,
        task=dataset.task or CLASSIFICATION,
        targets=dataset.targets,
        class_names=tuple(dataset.class_names),
        grouped=dataset.grouped,
    )
