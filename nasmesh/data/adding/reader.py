"""What a reader of somebody's files gives to the writer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from nasmesh.data.info import CLASSIFICATION, REGRESSION
from nasmesh.data.source import Rows
from nasmesh.errors import Invalid
from nasmesh.v1 import dataset_pb2 as pb

_SHOWN = 5
_KEPT = 1000
# Up to so many different numbers are taken for classes, and more where each has so many samples on average.
_FEW_CLASSES, _SAMPLES_EACH = 20, 5


@dataclass(frozen=True, slots=True)
class Found:
    """What a reader knows before it reads samples. `classes` is 0 for regression; `source` is the reader's name."""

    source: str
    kind: pb.SampleKind.ValueType
    dims: tuple[int, ...]
    class_names: tuple[str, ...] = ()
    classes: int = 0
    targets: int = 0
    grouped: bool = False
    channel_names: tuple[str, ...] = ()
    target_names: tuple[str, ...] = ()

    @property
    def task(self) -> pb.LearningTask.ValueType:
        """What is learned."""
        return REGRESSION if self.targets else CLASSIFICATION


class Batch(NamedTuple):
    """Samples [n, ...] with labels int64 [n] or targets float32 [n, T], all of the same split."""

    samples: Rows
    answers: NDArray[Any]
    groups: NDArray[np.int64] | None = None
    is_test: bool = False


@dataclass(slots=True)
class BadFiles:
    """What cannot be used, each with its reason: left out where the user chose so, else refused together."""

    skip: bool
    unit: str = "files"
    count: int = 0
    named: list[tuple[str, str]] = field(default_factory=list)

    def add(self, what: str, reason: str) -> None:
        """Note one."""
        self.count += 1
        if len(self.named) < _KEPT:
            self.named.append((what, reason[:200]))

    def raise_any(self) -> None:
        """Raise Invalid (DATASET_FILES_CORRUPT) with their number and the first names, unless they are skipped."""
        if not self.count or self.skip:
            return
        shown = "; ".join(f"{what}: {reason}" for what, reason in self.named[:_SHOWN])
        more = f"; and {self.count - _SHOWN} more" if self.count > _SHOWN else ""
        unit = self.unit if self.count > 1 else self.unit.removesuffix("s")
        raise Invalid(
            "DATASET_FILES_CORRUPT",
            f"path: {self.count} {unit} cannot be used ({shown}{more}); mend, or leave out (--skip-bad)",
            field="path",
            metadata={"count": str(self.count), "files": ", ".join(what for what, _ in self.named[:20])},
        )


class Reader(Protocol):
    """Files of one form. Batches of the data set's own test split come last."""

    @property
    def found(self) -> Found:
        """What is known before samples are read."""
        ...

    @property
    def bad(self) -> BadFiles:
        """What could not be used; complete once all batches are read."""
        ...

    def batches(self) -> Iterator[Batch]:
        """Yield all samples; raises Invalid with the field `path` for what cannot be used."""
        ...


def check_are_classes(values: Sequence[Any], samples: int, where: str) -> None:
    """Raise Invalid (DATASET_TASK_AMBIGUOUS) where distinct labels may be amounts: many, and no numbering.

    Ages, prices and counts are whole numbers too; classes are numbered from 0 or 1 without gaps, with samples of each.
    """
    numbers = sorted(value for value in values if not isinstance(value, str))
    if len(numbers) <= _FEW_CLASSES:
        return
    counted = numbers[0] in (0, 1) and numbers[-1] - numbers[0] == len(numbers) - 1
    if counted and samples >= _SAMPLES_EACH * len(numbers):
        return
    raise Invalid(
        "DATASET_TASK_AMBIGUOUS",
        f"{where}: {len(numbers)} different numbers ({numbers[0]:g} to {numbers[-1]:g}) in {samples} samples may be"
        " classes or amounts; say which: --target NAME (or --task regression) to predict, --label NAME for classes",
        field="task",
    )


def number_labels(values: Sequence[Any], classes: int, where: str) -> tuple[list[str], dict[Any, int]]:
    """Return class names in the order of their labels, and the label of each value that occurs.

    Whole numbers keep their order, texts are sorted. With `classes`, numbers are labels as they are. Raises Invalid
    (DATASET_LABELS_INVALID).
    """
    distinct = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    numbers = [value for value in distinct if not isinstance(value, str)]
    if any(value < 0 or value != int(value) for value in numbers) or (numbers and len(numbers) != len(distinct)):
        shown = ", ".join(str(value) for value in distinct[:_SHOWN])
        raise Invalid(
            "DATASET_LABELS_INVALID",
            f"{where}: labels must be texts, or whole numbers from 0 ({shown}, …); for numbers to predict say"
            " --task regression",
            field="label",
        )
    if classes:
        wrong = [value for value in distinct if isinstance(value, str) or value >= classes]
        if wrong:
            raise Invalid(
                "DATASET_LABELS_INVALID",
                f"{where}: {len(wrong)} labels are outside 0 to {classes - 1}, the first is {wrong[0]}",
                field="classes",
            )
        return [str(label) for label in range(classes)], {value: int(value) for value in distinct}
    names = [value if isinstance(value, str) else str(int(value)) for value in distinct]
    return names, {value: label for label, value in enumerate(distinct)}
