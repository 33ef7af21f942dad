"""One table: the networks of a space, by the values of its choices, with what each training of them measured.

Stored as an .npz archive of plain arrays; nothing of it is ever unpickled.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import json_format
from numpy.typing import NDArray

from nasmesh import spaces
from nasmesh.errors import Invalid, Rejected
from nasmesh.v1 import measurement_pb2, space_pb2

FORMAT_VERSION = 1
TABLE_BYTES = 256 << 20
_NONE = 255  # the code of a choice that is not active
_SPLITS = {
    "none": measurement_pb2.SPLIT_UNSPECIFIED,
    "train": measurement_pb2.SPLIT_TRAIN,
    "validation": measurement_pb2.SPLIT_VALIDATION,
    "test": measurement_pb2.SPLIT_TEST,
}
_UNREADABLE = (KeyError, TypeError, ValueError, OSError, EOFError, zipfile.BadZipFile, json_format.ParseError)
_SPLIT_NAMES = {split: name for name, split in _SPLITS.items()}

Figure = tuple[str, int]
"""(metric name, Split): what a column of figures holds."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class About:
    """What a table is, for people and for the check that a search asks it about what it holds."""

    table_id: str
    description: str
    dataset: str
    sample_dims: tuple[int, ...]
    classes: int
    source: str
    licence: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """N networks, each trained up to S times.

    `codes` [N, choices]: the index of each choice's value in its domain, 255 where the choice is not active.
    `costs_s` [N, S]: seconds of each training; NaN where a network was trained fewer times. `figures`: for each metric
    and split, values [N, S]. `parameters`, `macs` [N]: what the networks count. `digest`: SHA-256 of the file.
    """

    about: About
    space: space_pb2.Space
    codes: NDArray[np.uint8]
    costs_s: Floats
    parameters: NDArray[np.int64]
    macs: NDArray[np.int64]
    figures: Mapping[Figure, Floats]
    digest: str = ""
    _rows: dict[bytes, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check that the arrays fit each other; raises Invalid (TABLE_CORRUPT)."""
        networks, trainings = self.costs_s.shape
        fits = self.codes.shape == (networks, len(self.choices())) and all(
            values.shape == (networks, trainings) for values in self.figures.values()
        )
        if not fits or self.parameters.shape != (networks,) or self.macs.shape != (networks,):
            raise _corrupt(self.about.table_id, "its arrays do not fit each other")
        object.__setattr__(self, "_rows", {row.tobytes(): index for index, row in enumerate(self.codes)})
        if len(self._rows) != networks:
            raise _corrupt(self.about.table_id, "it has a network twice")

    def choices(self) -> list[space_pb2.Choice]:
        """Return the space's choices in order."""
        return spaces.choices(self.space, input_dims=self.about.sample_dims, classes=self.about.classes)

    def row_of(self, values: space_pb2.ChoiceValues) -> int:
        """Return the row of a network by the values of its choices; raises Rejected (NETWORK_NOT_IN_TABLE)."""
        try:
            key = encode(self.choices(), values)
        except (KeyError, ValueError) as error:
            raise self._lacks(f"{str(error)[:200]}; search in the table's own space") from error
        row = self._rows.get(key)
        if row is None:
            raise self._lacks("no network of these choices was trained for it")
        return row

    def values_of(self, row: int) -> space_pb2.ChoiceValues:
        """Return the choice values of a row."""
        found = zip(self.choices(), self.codes[row], strict=True)
        return space_pb2.ChoiceValues(
            values={choice.name: _domain(choice)[code] for choice, code in found if code != _NONE}
        )

    def value(self, figure: Figure, row: int, training: int) -> float | None:
        """Return one number, or the mean over a network's trainings for -1; None where the table has none."""
        values = self.figures.get(figure)
        return None if values is None else self._pick(values, row, training)

    def cost_s(self, row: int, training: int) -> float:
        """Return the seconds that a training took, or their mean for -1; raises Rejected (TABLE_SEED_ABSENT)."""
        found = self._pick(self.costs_s, row, training)
        if found is None:
            trainings = int((~np.isnan(self.costs_s[row])).sum())
            message = (
                f"tables/{self.about.table_id}: this network was trained {trainings} times; there is no {training}"
            )
            raise Rejected("TABLE_SEED_ABSENT", f"{message}, use -1 for the mean", field="config.table_seed")
        return found

    def best(self, figure: Figure, *, maximize: bool) -> int:
        """Return the row with the best mean of a figure over its trainings: the known optimum."""
        means = np.nanmean(self.figures[figure], axis=1)
        return int(np.nanargmax(means) if maximize else np.nanargmin(means))

    def splits(self) -> set[int]:
        """Return the splits that figures were measured on."""
        return {split for _, split in self.figures if split}

    def _pick(self, values: Floats, row: int, training: int) -> float | None:
        if training >= values.shape[1]:
            return None
        if training >= 0:
            number = float(values[row, training])
        else:
            known = values[row][~np.isnan(values[row])]
            number = float(known.mean()) if len(known) else np.nan
        return None if np.isnan(number) else number

    def _lacks(self, why: str) -> Rejected:
        return Rejected("NETWORK_NOT_IN_TABLE", f"tables/{self.about.table_id}: {why}", field="choices")


def encode(choices: list[space_pb2.Choice], values: space_pb2.ChoiceValues) -> bytes:
    """Return a table's key for choice values; raises KeyError or ValueError for values of another space."""
    unknown = set(values.values) - {choice.name for choice in choices}
    if unknown:
        raise KeyError(f"the table's space has no choice {min(unknown)}")
    codes = bytearray()
    for choice in choices:
        value = values.values.get(choice.name)
        if value is None:
            codes.append(_NONE)
            continue
        domain = _domain(choice)
        if value not in domain:
            raise ValueError(f"{choice.name} is {value[:40]!r}, which the table's space does not have")
        codes.append(domain.index(value))
    return bytes(codes)


def _domain(choice: space_pb2.Choice) -> list[str]:
    kind = choice.WhichOneof("domain")
    if kind == "integer":
        return [str(value) for value in range(choice.integer.min, choice.integer.max + 1)]
    if kind == "categorical" and len(choice.categorical.values) < _NONE:
        return list(choice.categorical.values)
    raise ValueError(f"choice {choice.name} has no list of values, so no table can have it")


def to_bytes(table: Table) -> bytes:
    """Return the table as an .npz archive."""
    about = {
        **asdict(table.about),
        "format_version": FORMAT_VERSION,
        "space": json_format.MessageToDict(table.space),
    }
    arrays: dict[str, NDArray[Any]] = {
        "about": np.frombuffer(json.dumps(about, sort_keys=True).encode(), dtype=np.uint8),
        "codes": table.codes,
        "costs_s": table.costs_s,
        "parameters": table.parameters,
        "macs": table.macs,
    }
    for (metric, split), values in table.figures.items():
        arrays[f"figure.{_SPLIT_NAMES[measurement_pb2.Split.ValueType(split)]}.{metric}"] = values
    written = io.BytesIO()
    np.savez_compressed(written, **arrays)  # type: ignore[arg-type]  # its stub takes the arrays for a flag
    return written.getvalue()


@dataclass(frozen=True, slots=True)
class Outline:
    """What a table holds, without its numbers: `trainings` is the most that any network has."""

    about: About
    space: space_pb2.Space
    trainings: int
    figures: tuple[Figure, ...]


def outline(file: Path) -> Outline:
    """Return the outline of a table's file; raises Invalid (TABLE_CORRUPT) naming it."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            about, space = _about(archive["about"])
            _, trainings = archive["costs_s"].shape
            return Outline(about, space, int(trainings), tuple(sorted(_figures(archive.files))))
    except _UNREADABLE as error:
        raise _corrupt(file.stem, str(error)[:200]) from error


def from_bytes(content: bytes, *, name: str) -> Table:
    """Return the table in an .npz archive; raises Invalid (TABLE_CORRUPT) naming it."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        about, space = _about(arrays["about"])
        return Table(
            about=about,
            space=space,
            codes=arrays["codes"].astype(np.uint8),
            costs_s=arrays["costs_s"].astype(np.float64),
            parameters=arrays["parameters"].astype(np.int64),
            macs=arrays["macs"].astype(np.int64),
            figures={figure: arrays[key].astype(np.float64) for figure, key in _figures(arrays).items()},
            digest=hashlib.sha256(content).hexdigest(),
        )
    except _UNREADABLE as error:
        raise _corrupt(name, str(error)[:200]) from error


def _about(stored: NDArray[Any]) -> tuple[About, space_pb2.Space]:
    about = json.loads(stored.tobytes())
    if about.pop("format_version") != FORMAT_VERSION:
        raise ValueError(f"it is of another version; this program reads version {FORMAT_VERSION}")
    space = json_format.ParseDict(about.pop("space"), space_pb2.Space())
    if set(about) != {one.name for one in fields(About)}:
        raise ValueError(f"its description has {sorted(about)}")
    return About(**{**about, "sample_dims": tuple(about["sample_dims"])}), space


def _figures(keys: Iterable[str]) -> dict[Figure, str]:
    """Return the figures among an archive's keys, with the key of each."""
    found = ((key, *key.split(".")[1:]) for key in keys if key.startswith("figure."))
    return {(metric, _SPLITS[split]): key for key, split, metric in found}


def _corrupt(name: str, why: str) -> Invalid:
    return Invalid("TABLE_CORRUPT", f"tables/{name}: cannot be read: {why}; make or import it again", field="table")
