"""Loads the samples of a data set, built in or added, and divides them, once per process."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from nasmesh.data import cache, catalog, cifar, digits, fashion_mnist, resolve, synthetic
from nasmesh.data.info import DatasetInfo
from nasmesh.data.samples import Groups, Labels, Samples, Targets
from nasmesh.data.source import ArraySource, Indices, Source
from nasmesh.data.splits import Division, Shares, divide, strata_of, take_view
from nasmesh.errors import Invalid, NasmeshError
from nasmesh.store.base import ObjectStore
from nasmesh.v1 import dataset_pb2 as pb

_READERS: dict[str, Callable[[], Samples]] = {
    "digits": digits.read,
    "fashion-mnist": fashion_mnist.read,
    "cifar10": partial(cifar.read_built_in, "cifar10"),
    "cifar100": partial(cifar.read_built_in, "cifar100"),
    "synthetic": synthetic.read,
}
_FINDERS: dict[str, Callable[[], object]] = {
    "digits": digits.find,
    "fashion-mnist": fashion_mnist.find,
    "cifar10": partial(cifar.find, "cifar10"),
    "cifar100": partial(cifar.find, "cifar100"),
    "synthetic": lambda: None,
}
# Data sets held by a process at once, and divisions of them. A slot trains on one; the next search may use another.
_HELD, _DIVISIONS = 2, 8
_NO_LABELS: Labels = np.zeros(0, dtype=np.int64)
_NO_TARGETS: Targets = np.zeros((0, 0), dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Splits:
    """A data set, divided: where its samples come from, what is to be learned, and the sample indices of each split.

    Classification has `labels` int64 [N], regression `targets` float32 [N, T], standardised; the other one is empty.
    Labels that the view leaves out are -1, and in no split. `digest` is the SHA-256 over the raw samples and labels of
    the whole data set; `info` speaks of the view's classes.
    """

    samples: Source
    labels: Labels
    targets: Targets
    train: Indices
    validation: Indices
    test: Indices
    digest: str
    info: DatasetInfo


class _Whole(NamedTuple):
    """A data set as it is, undivided."""

    samples: Source
    labels: Labels
    targets: Targets
    groups: Groups | None
    digest: str


def load(spec: pb.DatasetSpec, store: ObjectStore | None = None) -> Splits:
    """Return the data set that `spec` names, divided as it says; `store` holds added ones [the environment's].

    Raises NotFound (DATASET_ABSENT, OBJECT_MISSING), Invalid (DATASET_UNKNOWN, DATASET_SPEC_INVALID, MANIFEST_INVALID,
    DATASET_CORRUPT, OBJECT_CORRUPT, DATASET_GROUPS_TOO_FEW, DATASET_GROUP_SHARED, DATASET_SPLIT_EMPTY,
    DATASET_CLASS_UNTRAINED), Unavailable (STORE_DOWN, CACHE_DOWN).
    """
    catalog.check(spec)
    info = resolve.described(spec, store)
    catalog.check(spec, info=info)
    filled = catalog.complete(spec, info)
    key = filled.SerializeToString(deterministic=True)
    with _lock:
        if key not in _divisions:
            _divisions[key] = _divided(filled, info, _whole(filled, info, store))
        _divisions.move_to_end(key)
        while len(_divisions) > _DIVISIONS:
            _divisions.popitem(last=False)
        return _divisions[key]


_lock = threading.RLock()
_divisions: OrderedDict[bytes, Splits] = OrderedDict()
_held: OrderedDict[str, _Whole] = OrderedDict()


def forget() -> None:
    """Drop what this process holds of data sets; the next load reads them again."""
    with _lock:
        _divisions.clear()
        _held.clear()
        resolve.forget()


def _whole(spec: pb.DatasetSpec, info: DatasetInfo, store: ObjectStore | None) -> _Whole:
    key = spec.manifest.sha256 or info.name
    if key not in _held:
        _held[key] = _added(spec, info, store) if spec.HasField("manifest") else _built_in(info.name)
    _held.move_to_end(key)
    while len(_held) > _HELD:
        _, old = _held.popitem(last=False)
        for division in [name for name, splits in _divisions.items() if splits.samples is old.samples]:
            del _divisions[division]
    return _held[key]


def _built_in(name: str) -> _Whole:
    samples = _READERS[name]()
    digest = samples.digest()
    known = catalog.DATASETS[name]
    whole = (len(samples.labels), samples.test_samples) == (known.samples + known.test_samples, known.test_samples)
    if known.digest not in ("", digest) or not whole:
        raise Invalid(
            "DATASET_CORRUPT",
            f"datasets/{name}: the samples on this machine are not the known ones; {known.obtain}",
            field="data.dataset",
        )
    samples.labels.flags.writeable = False
    return _Whole(ArraySource(samples.images), samples.labels, _NO_TARGETS, None, digest)


def _added(spec: pb.DatasetSpec, info: DatasetInfo, store: ObjectStore | None) -> _Whole:
    store = store or resolve.environment_store()
    described = resolve.added(spec.manifest, store)
    found = cache.open_cached(described, spec.manifest.sha256, store)
    if not info.targets:
        found.answers.flags.writeable = False
        return _Whole(found.samples, found.answers, _NO_TARGETS, found.groups, info.digest)
    mean, std = np.asarray(info.target_mean), np.asarray(info.target_std)
    targets = ((found.answers - mean) / std).astype(np.float32)
    targets.flags.writeable = False
    return _Whole(found.samples, _NO_LABELS, targets, found.groups, info.digest)


def _divided(spec: pb.DatasetSpec, info: DatasetInfo, whole: _Whole) -> Splits:
    seed = spec.split_seed & (2**63 - 1)
    strata = strata_of(whole.labels, whole.targets)
    groups = whole.groups if spec.division == pb.DIVISION_RULE_BY_GROUP else None
    shares = Shares(validation=spec.validation_fraction, test=spec.test_fraction, own_test=info.test_samples)
    division = divide(strata, shares, seed=seed, groups=groups)
    labels, seen = whole.labels, catalog.viewed(info, spec.view)
    if spec.view.classes:
        places = np.full(info.classes, -1, dtype=np.int64)
        places[list(spec.view.classes)] = np.arange(len(spec.view.classes))
        labels = strata = places[labels]
        labels.flags.writeable = False
    division = take_view(division, strata, spec.view, seed=seed)
    _check_division(division, labels, seen)
    return Splits(
        samples=whole.samples,
        labels=labels,
        targets=whole.targets,
        train=division.train,
        validation=division.validation,
        test=division.test,
        digest=whole.digest,
        info=seen,
    )


def _check_division(division: Division, labels: Labels, info: DatasetInfo) -> None:
    """Raise Invalid where a split is empty, or asks for a class that nothing was trained on."""
    for name, part in (("train", division.train), ("validation", division.validation), ("test", division.test)):
        if not len(part):
            raise Invalid(
                "DATASET_SPLIT_EMPTY",
                f"data: no sample is left in the {name} split; use more of the data, or other fractions",
                field="data",
            )
    if not len(labels):
        return
    for name, part in (("validation", division.validation), ("test", division.test)):
        untrained = np.setdiff1d(labels[part], labels[division.train]).tolist()
        if untrained:
            raise Invalid(
                "DATASET_CLASS_UNTRAINED",
                f"data: the {name} split asks for {_named(untrained, info)}, which the train split lacks;"
                " use more of the data, another split_seed, or divide it STRATIFIED",
                field="data",
                metadata={"classes": ",".join(map(str, untrained[:20]))},
            )


def _named(labels: Sequence[int], info: DatasetInfo) -> str:
    shown = [info.class_names[label] if info.class_names else str(label) for label in labels[:5]]
    if len(labels) == 1:
        return f"class {shown[0]}"
    more = f" and {len(labels) - 5} more" if len(labels) > 5 else ""
    return f"{len(labels)} classes ({', '.join(shown)}{more})"


def is_available(name: str) -> bool:
    """Return whether the samples of a known data set are on this machine, without reading them."""
    try:
        _FINDERS[name]()
    except NasmeshError:
        return False
    return True


def dataset_resources() -> list[pb.Dataset]:
    """Return every built-in data set as servers list it; added ones are the scheduler's to list."""
    return [catalog.message(info, available=is_available(info.name)) for info in catalog.DATASETS.values()]
