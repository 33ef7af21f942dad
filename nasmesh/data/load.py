"""Loads the samples of a data set and divides them, once per process."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nasmesh.data import catalog, digits, fashion_mnist
from nasmesh.data.info import DatasetInfo
from nasmesh.data.samples import Labels, Samples
from nasmesh.data.source import ArraySource, Indices, Source
from nasmesh.data.splits import Shares, divide
from nasmesh.errors import Invalid, NasmeshError
from nasmesh.store.base import ObjectStore
from nasmesh.v1 import dataset_pb2 as pb
from nasmesh.v1 import measurement_pb2

Targets = NDArray[np.float32]  # [N, targets]

_READERS: dict[str, Callable[[], Samples]] = {"digits": digits.read, "fashion-mnist": fashion_mnist.read}
_FINDERS: dict[str, Callable[[], object]] = {"digits": digits.find, "fashion-mnist": fashion_mnist.find}


@dataclass(frozen=True, slots=True, eq=False)
class Splits:
    """A data set, divided: where its samples come from, what is to be learned, and the sample indices of each split.

    Classification has `labels` int64 [N], regression `targets` float32 [N, T], standardised; the other one is empty.
    `digest` is the SHA-256 over the raw samples and labels.
    """

    samples: Source
    labels: Labels
    targets: Targets
    train: Indices
    validation: Indices
    test: Indices
    digest: str
    info: DatasetInfo


def load(spec: pb.DatasetSpec, store: ObjectStore | None = None) -> Splits:  # noqa: ARG001 (built-in ones need none)
    """Return the data set that `spec` names, divided as it says; `store` holds added ones [the environment's].

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
        samples=ArraySource(samples.images),
        labels=samples.labels,
        targets=np.zeros((0, 0), dtype=np.float32),
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


def _resource(info: DatasetInfo, *, available: bool) -> pb.Dataset:
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
