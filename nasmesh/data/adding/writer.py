"""Makes shards and a manifest of what a reader yields, one shard in memory at a time."""

import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasmesh import limits
from nasmesh.data import catalog
from nasmesh.data.adding.reader import Batch, Found, Reader
from nasmesh.data.adding.statistics import Moments
from nasmesh.data.info import IMAGE
from nasmesh.data.manifest import FORMAT_VERSION
from nasmesh.data.shards import Shard, encode, sample_dtype
from nasmesh.data.source import Rows
from nasmesh.data.splits import Shares, divide, strata_of
from nasmesh.errors import Invalid
from nasmesh.v1 import dataset_manifest_pb2 as pb
from nasmesh.v1 import dataset_pb2, measurement_pb2, object_pb2

Put = Callable[[bytes], object_pb2.ObjectRef]
_MOST_SKIPPED = 1000


def write(reader: Reader, put: Put, *, description: str) -> pb.DatasetManifest:
    """Return the manifest of what a reader yields, once `put` has stored every shard.

    Raises Invalid (DATASET_EMPTY, DATASET_CLASS_EMPTY, DATASET_CLASSES_TOO_FEW, DATASET_CLASS_UNTRAINED,
    DATASET_TOO_LARGE), and what the reader and `put` raise.
    """
    writer = _Writer(reader.found, put)
    for batch in reader.batches():
        writer.add(batch)
    reader.bad.raise_any()
    manifest = writer.finish(description)
    manifest.skipped.extend(
        pb.SkippedFile(path=path, reason=reason) for path, reason in reader.bad.named[:_MOST_SKIPPED]
    )
    manifest.skipped_count = reader.bad.count
    return manifest


class _Writer:
    """Collects samples until a shard is full."""

    def __init__(self, found: Found, put: Put) -> None:
        self._found = found
        self._put = put
        self._dtype = sample_dtype(found.kind)
        row_bytes = math.prod(found.dims) * self._dtype.itemsize
        if row_bytes > limits.DATASET_SAMPLE_BYTES:
            raise Invalid(
                "DATASET_TOO_LARGE",
                f"path: a sample of {list(found.dims)} has {row_bytes:,} bytes, at most"
                f" {limits.DATASET_SAMPLE_BYTES:,}; make images smaller (--size) or windows shorter (--window)",
                field="path",
            )
        self._shard_samples = max(1, limits.DATASET_SHARD_BYTES // row_bytes)
        self._waiting: list[Batch] = []
        self._count = 0
        self._digest = hashlib.sha256()
        self._answers: list[NDArray[Any]] = []
        self._groups: list[NDArray[np.int64]] = []
        self._shards: list[pb.DatasetShard] = []
        self._test = 0
        self._moments = Moments(found.dims[0], 255.0 if found.kind == IMAGE else 1.0)
        self._target_moments = Moments(max(1, found.targets))

    def add(self, batch: Batch) -> None:
        if self._test and not batch.is_test:
            raise ValueError("samples of the test split come last")
        if not len(batch.samples):
            return
        if batch.is_test:
            self._test += len(batch.samples)
        else:
            self._moments.add(batch.samples)
            if self._found.targets:
                self._target_moments.add(batch.answers)
        self._waiting.append(batch)
        self._count += len(batch.samples)
        if self._total() + self._count > limits.DATASET_SAMPLES:
            raise Invalid("DATASET_TOO_LARGE", f"path: more than {limits.DATASET_SAMPLES:,} samples", field="path")
        while self._count >= self._shard_samples:
            self._flush(self._shard_samples)

    def finish(self, description: str) -> pb.DatasetManifest:
        if self._count:
            self._flush(self._count)
        total = self._total()
        if not total:
            raise Invalid("DATASET_EMPTY", "path: there is no sample in it", field="path")
        if self._test >= total:
            raise Invalid(
                "DATASET_EMPTY", "path: all samples are in its test split, none is left to train", field="path"
            )
        found = self._found
        answers = np.concatenate(self._answers)
        groups = np.concatenate(self._groups) if found.grouped else None
        for array in (answers, groups) if groups is not None else (answers,):
            self._digest.update(np.ascontiguousarray(array).data)
        self._digest.update(",".join(str(size) for size in (total, *found.dims)).encode())
        counts = self._class_counts(answers)
        return pb.DatasetManifest(
            format_version=FORMAT_VERSION,
            description=description,
            kind=found.kind,
            task=found.task,
            sample_dims=found.dims,
            classes=found.classes,
            class_names=found.class_names,
            targets=found.targets,
            shards=self._shards,
            samples=total,
            test_samples=self._test,
            class_counts=counts,
            mean=self._moments.mean,
            std=self._moments.std,
            target_mean=self._target_moments.mean if found.targets else (),
            target_std=self._target_moments.std if found.targets else (),
            content_digest=self._digest.hexdigest(),
            grouped=found.grouped,
            source=found.source,
            channel_names=found.channel_names,
            target_names=found.target_names,
            splits=_splits(found, answers, groups, self._test),
        )

    def _total(self) -> int:
        return sum(len(part) for part in self._answers)

    def _flush(self, count: int) -> None:
        """Store the first `count` samples that wait."""
        samples = np.ascontiguousarray(_join([b.samples for b in self._waiting], count), dtype=self._dtype)
        wanted = np.dtype("<f4") if self._found.targets else np.dtype("<i8")
        answers = np.ascontiguousarray(_join([b.answers for b in self._waiting], count), dtype=wanted)
        groups = None
        if self._found.grouped:
            parts = [b.groups for b in self._waiting if b.groups is not None]
            groups = np.ascontiguousarray(_join(parts, count), dtype=np.dtype("<i8"))
        ref = self._put(encode(Shard(samples, answers, groups), regression=bool(self._found.targets)))
        self._shards.append(pb.DatasetShard(object=ref, samples=len(samples)))
        self._digest.update(samples.data)
        self._answers.append(answers)
        if groups is not None:
            self._groups.append(groups)
        self._waiting = _rest(self._waiting, count)
        self._count -= len(samples)

    def _class_counts(self, labels: NDArray[Any]) -> list[int]:
        """Return samples of each class; raises Invalid where a class has none, or none to train on."""
        found = self._found
        if found.targets:
            return []
        trained = np.bincount(labels[: len(labels) - self._test], minlength=found.classes)
        counts = np.bincount(labels, minlength=found.classes)
        names = found.class_names or tuple(str(label) for label in range(found.classes))
        empty = [names[label] for label in np.flatnonzero(counts == 0)]
        if empty:
            raise _of_classes("DATASET_CLASS_EMPTY", empty, "without a sample; add some, or take the class out")
        if found.classes < 2:
            raise Invalid(
                "DATASET_CLASSES_TOO_FEW",
                f"path: there is one class ({names[0] if names else ''}); at least two are needed to tell apart",
                field="path",
            )
        untrained = [names[label] for label in np.flatnonzero(trained == 0)]
        if untrained:
            raise _of_classes("DATASET_CLASS_UNTRAINED", untrained, "only in the test split: nothing trains on that")
        return [int(count) for count in counts]


def _of_classes(reason: str, names: list[str], what: str) -> Invalid:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    noun = "classes" if len(names) > 1 else "class"
    return Invalid(reason, f"path: {len(names)} {noun} ({', '.join(names[:5])}{more}) {what}", field="path")


def _join(parts: list[Rows], count: int) -> Rows:
    taken, left = [], count
    for part in parts:
        if left <= 0:
            break
        taken.append(part[:left])
        left -= len(taken[-1])
    return taken[0] if len(taken) == 1 else np.concatenate(taken)


def _rest(batches: list[Batch], count: int) -> list[Batch]:
    rest, left = [], count
    for batch in batches:
        if left >= len(batch.samples):
            left -= len(batch.samples)
            continue
        groups = None if batch.groups is None else batch.groups[left:]
        # A copy: a view would keep the whole of what was stored already.
        rest.append(batch._replace(samples=batch.samples[left:].copy(), answers=batch.answers[left:], groups=groups))
        left = 0
    return rest


def _splits(
    found: Found, answers: NDArray[Any], groups: NDArray[np.int64] | None, test: int
) -> list[dataset_pb2.SplitSize]:
    """Return the sizes under default fractions and seed 0; raises Invalid (DATASET_SPLIT_EMPTY, DATASET_GROUP…)."""
    none = np.zeros(0, dtype=np.int64)
    targets = answers if found.targets else np.zeros((0, 0), dtype=np.float32)
    strata = strata_of(none if found.targets else answers, targets)
    shares = Shares(catalog.DEFAULT_VALIDATION_FRACTION, catalog.DEFAULT_TEST_FRACTION, test)
    division = divide(strata, shares, seed=0, groups=groups)
    parts = (division.train, division.validation, division.test)
    if not all(len(part) for part in parts):
        raise Invalid(
            "DATASET_SPLIT_EMPTY",
            f"path: {len(answers)} samples are too few: nothing is left for one of train, validation and test",
            field="path",
        )
    names = (measurement_pb2.SPLIT_TRAIN, measurement_pb2.SPLIT_VALIDATION, measurement_pb2.SPLIT_TEST)
    return [dataset_pb2.SplitSize(split=name, samples=len(part)) for name, part in zip(names, parts, strict=True)]
