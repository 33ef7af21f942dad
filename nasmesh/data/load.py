"""Loads the samples of a data set and divides them, once per process."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

from nasmesh.data import catalog, digits, fashion_mnist
from nasmesh.data.samples import Images, Labels, Samples
from nasmesh.data.splits import Indices, Shares, divide
from nasmesh.errors import Invalid, NasmeshError
from nasmesh.v1 import dataset_pb2 as pb
from nasmesh.v1 import measurement_pb2

_READERS: dict[str, Callable[[], Samples]] = {"digits": digits.read, "fashion-mnist": fashion_mnist.read}
_FINDERS: dict[str, Callable[[], object]] = {"digits": digits.find, "fashion-mnist": fashion_mnist.find}


@dataclass(frozen=True, slots=True, eq=False)
class Splits:
    """A data set in memory: images uint8 [N, C, H, W], labels int64 [N], and the indices of each split.

    `digest` is the SHA-256 over the raw samples and labels.
    """

    images: Images
    labels: Labels
    train: Indices
    validation: Indices
    test: Indices
    digest: str
    info: catalog.DatasetInfo


def load(spec: pb.DatasetSpec) -> Splits:
    """Return the data set that `spec` names, divided as it says.

    Raises NotFound (DATASET_ABSENT) and Invalid (DATASET_UNKNOWN, DATASET_SPEC_INVALID, DATASET_CORRUPT).
    """
    catalog.check(spec)
    filled = catalog.complete(spec)
    return _divided(filled.SerializeToString(deterministic=True))


@functools.lru_cache(maxsize=8)
def _divided(serialized: bytes) -> Splits:
    spec = pb.DatasetSpec.FromString(serialized)
    info = catalog.describe(spec.dataset)
    samples, digest = _raw(info.name)
    shares = Shares(validation=spec.validation_fraction, test=spec.test_fraction, own_test=samples.test_samples)
    division = divide(samples.labels, shares, seed=spec.split_seed & (2**63 - 1))
    return Splits(
        images=samples.images,
        labels=samples.labels,
        train=division.train,
        validation=division.validation,
        test=division.test,
        digest=digest,
        info=info,
    )


@functools.lru_cache(maxsize=4)
def _raw(name: str) -> tuple[Samples, str]:
    samples = _READERS[name]()
    digest = samples.digest()
    if digest != catalog.DATASETS[name].digest:
        raise Invalid(
            "DATASET_CORRUPT",
            f"datasets/{name}: the samples on this machine are not the known ones; {catalog.DATASETS[name].obtain}",
            field="data.dataset",
        )
    samples.images.flags.writeable = False
    samples.labels.flags.writeable = False
    return samples, digest


def is_available(name: str) -> bool:
    """Return whether the samples of a known data set are on this machine, without reading them."""
    try:
        _FINDERS[name]()
    except NasmeshError:
        return False
    return True


def dataset_resources() -> list[pb.Dataset]:
    """Return every known data set as servers list it."""
    return [_resource(info, available=is_available(info.name)) for info in catalog.DATASETS.values()]


def _resource(info: catalog.DatasetInfo, *, available: bool) -> pb.Dataset:
    order = (measurement_pb2.SPLIT_TRAIN, measurement_pb2.SPLIT_VALIDATION, measurement_pb2.SPLIT_TEST)
    return pb.Dataset(
        name=f"datasets/{info.name}",
        description=info.description if available else f"{info.description}; to obtain it, {info.obtain}",
        sample_dims=info.sample_dims,
        classes=info.classes,
        splits=[pb.SplitSize(split=split, samples=size) for split, size in zip(order, info.split_sizes, strict=True)],
        content_digest=info.digest if available else "",
        available=available,
    )
