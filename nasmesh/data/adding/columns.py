"""CSV and Parquet files, read by column and in bounded pieces."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv, parquet

from nasmesh.errors import Invalid

TEXT_SUFFIXES = {".csv": ",", ".tsv": "\t"}
SUFFIXES = frozenset({*TEXT_SUFFIXES, ".parquet", ".pq"})
_BLOCK_BYTES = 4 << 20
_ROWS = 65536
_HEADING_BYTES = 1 << 20
_NULLS = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"]


class Piece(NamedTuple):
    """Rows of a file: `first` is the number of the first one, `columns` are by name."""

    file: int
    first: int
    columns: dict[str, Any]
    rows: int


class Columns:
    """Tables of the same columns, one after the other."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Look at names and types; raises Invalid (DATASET_FILES_CORRUPT, DATASET_COLUMN_UNKNOWN)."""
        self.paths = list(paths)
        self._types: dict[str, Any] = {}
        for path in self.paths:
            schema = _schema(path)
            names = list(schema.names)
            if len(set(names)) != len(names):
                raise Invalid("DATASET_COLUMN_UNKNOWN", f"path: {path.name} names a column twice", field="path")
            if not self._types:
                self._types = {name: schema.field(name).type for name in names}
            elif set(names) != set(self._types):
                odd = sorted(set(names) ^ set(self._types))
                raise Invalid(
                    "DATASET_COLUMN_UNKNOWN",
                    f"path: {path.name} and {self.paths[0].name} differ in columns: {', '.join(odd[:5])}",
                    field="path",
                )

    @property
    def names(self) -> list[str]:
        """Columns in the order of the first file."""
        return list(self._types)

    def is_number(self, name: str) -> bool:
        """Say whether a column holds numbers (or truth values), as far as its beginning tells."""
        kind = self._types[name]
        return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)) or bool(
            pa.types.is_decimal(kind) or pa.types.is_null(kind)
        )

    def text_called(self, usual: Sequence[str], taken: Collection[str]) -> str:
        """Return the first column of texts with one of these names that is not taken; nothing where there is none."""
        for name in self._types:
            if name.lower() in usual and name not in taken and not self.is_number(name):
                return name
        return ""

    def pieces(self, texts: Sequence[str], numbers: Sequence[str]) -> Iterator[Piece]:
        """Yield these columns, texts as lists of str or None, numbers as float64 with NaN for nothing.

        Raises Invalid (DATASET_FILES_CORRUPT) naming the file.
        """
        for index, path in enumerate(self.paths):
            first = 0
            try:
                for batch in _batches(path, texts, {name: self._types[name] for name in numbers}):
                    columns: dict[str, Any] = {name: _texts(batch.column(name)) for name in texts}
                    columns |= {name: _numbers(batch.column(name)) for name in numbers}
                    yield Piece(index, first, columns, batch.num_rows)
                    first += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                raise corrupt(path, error) from error


class Numbering:
    """Looks for columns that only number the rows, from 0 or 1: all they can teach is the order of the rows."""

    def __init__(self, names: Sequence[str]) -> None:
        """Begin before the first row of features of these names."""
        self._names = names
        # By where numbers begin, and whether they go on from one file to the next.
        self._fits = np.ones((2, 2, len(names)), dtype=bool)

    def goes_on(self, values: NDArray[Any], row: int, row_in_file: int) -> bool:
        """Look at rows [n, columns] that begin at these numbers, and say whether a column may still be such."""
        for place in np.flatnonzero(self._fits.any(axis=(0, 1))).tolist():
            for base in (0, 1):
                for how, first in enumerate((row, row_in_file)):
                    numbers = np.arange(first + base, first + base + len(values))
                    self._fits[base, how, place] &= bool((values[:, place] == numbers).all())
        return bool(self._fits.any())

    def refuse(self) -> None:
        """Raise Invalid (DATASET_COLUMN_NUMBERS_ROWS) where there is such a column, once all rows were looked at."""
        found = [self._names[place] for place in np.flatnonzero(self._fits.any(axis=(0, 1))).tolist()]
        if found:
            raise Invalid(
                "DATASET_COLUMN_NUMBERS_ROWS",
                f"path: column {found[0]} only numbers the rows, and would tell a row's class where files are sorted;"
                f" leave it out: --drop {found[0]}",
                field="drop",
            )


def find_tables(path: Path) -> list[Path]:
    """Return the tables at a path: itself, or those in a folder, sorted; nothing where there are none."""
    if path.is_file():
        return [path] if path.suffix.lower() in SUFFIXES else []
    return sorted(entry for entry in path.iterdir() if entry.is_file() and entry.suffix.lower() in SUFFIXES)


def corrupt(path: Path, error: BaseException) -> Invalid:
    """Return the error for a table that cannot be read."""
    return Invalid(
        "DATASET_FILES_CORRUPT",
        f"path: {path.name} cannot be read ({str(error).splitlines()[0][:160]}); mend it",
        field="path",
        metadata={"count": "1", "files": path.name},
    )


def _schema(path: Path) -> Any:
    try:
        if path.suffix.lower() in TEXT_SUFFIXES:
            with csv.open_csv(path, **_csv_options(path, {})) as reader:
                return reader.schema
        return parquet.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise corrupt(path, error) from error


def _delimiter(path: Path) -> str:
    """Return what is between the columns: where a heading has semicolons and no comma, as spreadsheets write, those."""
    usual = TEXT_SUFFIXES[path.suffix.lower()]
    with path.open("rb") as file:
        heading = file.readline(_HEADING_BYTES)
    return ";" if usual.encode() not in heading and b";" in heading else usual


def _csv_options(path: Path, types: dict[str, Any]) -> dict[str, Any]:
    return {
        "read_options": csv.ReadOptions(block_size=_BLOCK_BYTES),
        "parse_options": csv.ParseOptions(delimiter=_delimiter(path)),
        # The types of what is read are ours: the reader guesses them from the beginning of a file only.
        "convert_options": csv.ConvertOptions(
            column_types=types,
            include_columns=list(types) or None,
            null_values=_NULLS,
            strings_can_be_null=True,
        ),
    }


def _batches(path: Path, texts: Sequence[str], numbers: Mapping[str, Any]) -> Iterator[Any]:
    if path.suffix.lower() in TEXT_SUFFIXES:
        types = {name: pa.string() for name in texts}
        types |= {name: kind if pa.types.is_boolean(kind) else pa.float64() for name, kind in numbers.items()}
        with csv.open_csv(path, **_csv_options(path, types)) as reader:
            yield from reader
        return
    with parquet.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=_ROWS, columns=[*texts, *numbers])


def _texts(column: Any) -> list[str | None]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return list(column.cast(pa.string()).to_pylist())


def _numbers(column: Any) -> NDArray[np.float64]:
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return np.asarray(values, dtype=np.float64)


def number_or_text(value: str | None) -> float | str | None:
    """Return what a cell says."""
    try:
        return None if value is None else float(value)
    except ValueError:
        return value


def numbered(values: Sequence[Any]) -> NDArray[np.int64]:
    """Return numbers for group names, in their sorted order; a missing name is a group of its own."""
    names = {value: number for number, value in enumerate(sorted({str(value) for value in values}))}
    return np.asarray([names[str(value)] for value in values], dtype=np.int64)
