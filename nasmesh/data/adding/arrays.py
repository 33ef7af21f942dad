"""Arrays of samples with arrays of labels or targets: .npz and .npy, IDX and CIFAR, once each is an ArrayStream."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasmesh.data.adding.options import Options
from nasmesh.data.adding.reader import BadFiles, Batch, Found, check_are_classes, number_labels
from nasmesh.data.adding.streams import ArrayStream
from nasmesh.data.info import IMAGE, SERIES, TABLE
from nasmesh.errors import Invalid

TAKES = frozenset({"kind", "task", "label", "target", "group", "samples", "layout", "classes"})
_LAYOUTS = {"nchw": (0, 1, 2, 3), "nhwc": (0, 3, 1, 2), "ncl": (0, 1, 2), "nlc": (0, 2, 1)}
_CHANNELS = frozenset({1, 3})
_KINDS = {"image": IMAGE, "series": SERIES, "table": TABLE}


@dataclass(frozen=True, slots=True)
class Part:
    """Samples with what is known of each; `answers` are labels or targets."""

    samples: ArrayStream
    answers: ArrayStream
    groups: ArrayStream | None = None
    is_test: bool = False


class Arrays:
    """Reads such parts, in pieces: samples are never all in memory."""

    def __init__(self, parts: list[Part], options: Options, source: str, class_names: tuple[str, ...] = ()) -> None:
        """Look at shapes and answers; raises Invalid (DATASET_…) naming what does not fit."""
        self.bad = BadFiles(options.skip_bad, unit="samples")
        self._parts = sorted(parts, key=lambda part: part.is_test)
        for part in self._parts:
            _check_lengths(part)
        first = self._parts[0].samples
        self._kind = _kind_of(first, options)
        self._order = _order_of(first, self._kind, options)
        self._flat = self._kind == SERIES and len(first.shape) == 2
        dims = _dims(first.shape, self._order)
        if any(_dims(part.samples.shape, self._order) != dims for part in self._parts):
            raise Invalid(
                "DATASET_SIZES_MIXED",
                f"path: {', '.join(str(part.samples.shape) for part in parts)} differ",
                field="path",
            )
        self._unit_scale = self._kind == IMAGE and first.dtype.kind == "f" and _largest(self._parts) <= 1
        self._regression = _is_regression(self._parts, options)
        grouped = self._parts[0].groups is not None
        if self._regression:
            width = 1 if len(self._parts[0].answers.shape) == 1 else self._parts[0].answers.shape[1]
            self._labels: dict[Any, int] = {}
            self.found = Found(source, self._kind, dims, targets=width, grouped=grouped)
        else:
            names, self._labels = self._number(options, class_names)
            self.found = Found(source, self._kind, dims, tuple(names), len(names), grouped=grouped)
        self._group_numbers = _number_groups(self._parts) if grouped else {}

    def batches(self) -> Iterator[Batch]:
        """Yield all samples; bad rows are noted."""
        for part in self._parts:
            answers = part.answers.whole()
            groups = part.groups.whole() if part.groups is not None else None
            first = 0
            for piece in part.samples.pieces():
                here = slice(first, first + len(piece))
                samples, fine = self._samples(piece)
                wanted, good = self._answers(answers[here])
                for index in np.flatnonzero(~(fine & good)).tolist():
                    self.bad.add(f"{part.samples.name}[{first + index}]", "has values or labels that cannot be used")
                keep = fine & good
                numbers = (
                    None if groups is None else np.asarray([self._group_numbers[g] for g in groups[here].tolist()])
                )
                yield Batch(
                    samples[keep],
                    wanted[keep],
                    None if numbers is None else numbers[keep].astype(np.int64),
                    part.is_test,
                )
                first += len(piece)

    def _number(self, options: Options, class_names: tuple[str, ...]) -> tuple[list[str], dict[Any, int]]:
        values: set[Any] = set()
        for part in self._parts:
            if part.answers.dtype.kind not in "iubUS":
                whole = part.answers.whole()
                if not np.isfinite(whole).all() and not options.skip_bad:
                    raise _nan(part.answers.name)
                values |= set(np.unique(whole[np.isfinite(whole)]).tolist())
            else:
                values |= set(_texts(np.unique(part.answers.whole())).tolist())
        known = options.classes or len(class_names)
        if options.skip_bad:
            most = known or float("inf")
            values = {value for value in values if isinstance(value, str) or 0 <= value < most}
        if not (options.task or options.label or known):
            check_are_classes(list(values), sum(len(part.samples) for part in self._parts), self._parts[0].answers.name)
        names, labels = number_labels(sorted(values, key=str), known, self._parts[0].answers.name)
        return list(class_names) or names, labels

    def _samples(self, piece: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return the piece in our order and type, and which rows are fine."""
        values = piece[:, None, :] if self._flat else piece
        if self._kind == IMAGE:
            if values.ndim == 3:
                values = values[:, None]
            values = values.transpose(self._order)
            return self._bytes(values)
        values = _single(values.transpose(self._order))
        return values, _finite_rows(values)

    def _bytes(self, values: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        if values.dtype == np.uint8:
            return values, np.ones(len(values), dtype=bool)
        # Pixels on the 0..1 scale that come from bytes are bytes again; others would lose something in silence.
        scaled = values.astype(np.float64) * (255 if self._unit_scale else 1)
        rounded = np.rint(scaled)
        usable = np.isfinite(scaled)
        fits = usable & (np.abs(rounded - scaled) < 1e-2) & (rounded >= 0) & (rounded <= 255)
        rows = _finite_rows(scaled)
        if not fits[rows].all():
            raise Invalid(
                "DATASET_PIXELS_NOT_BYTES",
                "path: pixels are neither whole numbers from 0 to 255 nor bytes divided by 255; convert them to uint8,"
                " or say --kind series or --kind table for other measurements",
                field="path",
            )
        return np.where(usable, rounded, 0).astype(np.uint8), rows

    def _answers(self, values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        if self._regression:
            targets = _single(values.reshape(len(values), -1))
            return targets, _finite_rows(targets)
        labels = np.asarray([self._labels.get(value, -1) for value in _texts(values).tolist()], dtype=np.int64)
        return labels, labels >= 0


def _single(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return values as they are stored; what is too large for that becomes infinite."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _finite_rows(values: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(values).reshape(len(values), -1).all(axis=1), dtype=bool)


def _texts(values: NDArray[Any]) -> NDArray[Any]:
    flat = values.reshape(-1)
    return np.char.decode(flat, "utf-8") if flat.dtype.kind == "S" else flat


def _check_lengths(part: Part) -> None:
    for other in (part.answers, part.groups):
        if other is not None and len(other) != len(part.samples):
            raise Invalid(
                "DATASET_LENGTHS_DIFFER",
                f"path: {part.samples.name} has {len(part.samples)} rows, {other.name} has {len(other)}",
                field="path",
            )
    shape = part.answers.shape
    if len(shape) > 2 or part.samples.dtype.kind not in "iuf":
        raise Invalid(
            "DATASET_LAYOUT_AMBIGUOUS",
            f"path: {part.samples.name} ({part.samples.dtype}) and {part.answers.name} {list(shape)} are not numbers"
            " with a label or some targets each",
            field="path",
        )


def _kind_of(samples: ArrayStream, options: Options) -> Any:
    if options.kind:
        return _KINDS[options.kind]
    rank = len(samples.shape)
    if rank == 4 or (rank == 3 and samples.dtype == np.uint8):
        return IMAGE
    if rank in (2, 3):
        return SERIES if rank == 3 else TABLE
    raise Invalid(
        "DATASET_LAYOUT_AMBIGUOUS",
        f"path: {samples.name} {list(samples.shape)} is neither images [n, h, w], [n, h, w, c], [n, c, h, w], series"
        " [n, c, length] nor a table [n, columns]",
        field="path",
    )


def _order_of(samples: ArrayStream, kind: Any, options: Options) -> tuple[int, ...]:
    """Return the order of axes that puts channels second; raises Invalid (DATASET_LAYOUT_AMBIGUOUS)."""
    shape = samples.shape
    rank = {IMAGE: 4, SERIES: 3, TABLE: 2}[kind]
    plain = {IMAGE: 3, SERIES: 2, TABLE: 2}[kind]
    if len(shape) not in (rank, plain):
        raise Invalid(
            "DATASET_LAYOUT_AMBIGUOUS",
            f"kind: {samples.name} has the shape {list(shape)}, not of that kind",
            field="kind",
        )
    allowed = [name for name, order in _LAYOUTS.items() if len(order) == rank]
    if options.layout:
        if options.layout not in allowed or len(shape) != rank:
            raise Invalid(
                "DATASET_OPTION_INVALID",
                f"layout: {options.layout[:20]!r} is no layout of {list(shape)}; known: {', '.join(allowed) or 'none'}",
                field="layout",
            )
        return _LAYOUTS[options.layout]
    if len(shape) != rank or kind != IMAGE:
        return tuple(range(rank))
    last, second = shape[3] in _CHANNELS, shape[1] in _CHANNELS
    if last == second:
        raise Invalid(
            "DATASET_LAYOUT_AMBIGUOUS",
            f"path: {samples.name} {list(shape)}: where are the channels? Say --layout nhwc or --layout nchw",
            field="layout",
        )
    return _LAYOUTS["nhwc" if last else "nchw"]


def _dims(shape: tuple[int, ...], order: tuple[int, ...]) -> tuple[int, ...]:
    full = (shape[0], 1, *shape[1:]) if len(shape) < len(order) else shape
    return tuple(full[axis] for axis in order[1:])


def _is_regression(parts: list[Part], options: Options) -> bool:
    if options.task:
        if options.task == "regression" and parts[0].answers.dtype.kind not in "iuf":
            raise Invalid(
                "DATASET_LABELS_INVALID", f"task: {parts[0].answers.name} holds no numbers to predict", field="task"
            )
        return options.task == "regression"
    if options.target or (len(parts[0].answers.shape) == 2 and parts[0].answers.shape[1] > 1):
        return True
    return any(part.answers.dtype.kind == "f" and _has_fractions(part.answers) for part in parts)


def _largest(parts: list[Part]) -> float:
    return max(float(np.nanmax(piece, initial=0)) for part in parts for piece in part.samples.pieces())


def _has_fractions(answers: ArrayStream) -> bool:
    values = answers.whole()
    finite = values[np.isfinite(values)]
    return bool((finite != np.rint(finite)).any())


def _number_groups(parts: list[Part]) -> dict[Any, int]:
    names: set[Any] = set()
    for part in parts:
        if part.groups is None:
            raise Invalid(
                "DATASET_LENGTHS_DIFFER", f"path: {part.samples.name} has no groups, others have", field="group"
            )
        names |= set(np.unique(part.groups.whole()).tolist())
    return {name: number for number, name in enumerate(sorted(names))}


def _nan(name: str) -> Invalid:
    return Invalid(
        "DATASET_LABELS_INVALID",
        f"path: {name} has labels that are no numbers; mend them, or leave them out",
        field="label",
    )
