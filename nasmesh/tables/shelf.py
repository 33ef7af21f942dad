"""Where tables are: those that come with the program, and those that were imported below the home directory."""

import contextlib
import functools
from importlib import resources
from pathlib import Path

from nasmesh import ids
from nasmesh.errors import Invalid, NotFound
from nasmesh.settings import home
from nasmesh.tables.table import TABLE_BYTES, Outline, Table, from_bytes, outline, to_bytes

_SUFFIX = ".npz"


def directory() -> Path:
    """Return the folder of imported tables."""
    return home() / "tables"


def names() -> list[str]:
    """Return the ids of all tables that are there, in alphabetical order."""
    found = {path.stem for folder in _folders() if folder.is_dir() for path in folder.glob(f"*{_SUFFIX}")}
    return sorted(found)


def load(name: str) -> Table:
    """Return "tables/{id}"; raises Invalid (NAME_INVALID, TABLE_CORRUPT), NotFound (TABLE_UNKNOWN)."""
    path = path_of(name)
    stat = path.stat()
    if stat.st_size > TABLE_BYTES:
        raise Invalid(
            "TABLE_CORRUPT", f"{name}: {stat.st_size} bytes are no table; at most {TABLE_BYTES}", field="table"
        )
    return _read(path, stat.st_mtime_ns)


def outlines() -> dict[str, Outline]:
    """Return by id what the tables that are there hold, of each that can be read."""
    found = {}
    for name in names():
        with contextlib.suppress(Invalid):  # whoever asks it for a number is told
            found[name] = outline(path_of(f"tables/{name}"))
    return found


def path_of(name: str) -> Path:
    """Return the file of "tables/{id}"; raises Invalid (NAME_INVALID), NotFound (TABLE_UNKNOWN)."""
    identifier = ids.parse_name("tables", name, field="table")
    for folder in _folders():
        path = folder / f"{identifier}{_SUFFIX}"
        if path.is_file():
            return path
    known = ", ".join(names()) or "none"
    message = f"{name}: this machine has no such table (it has {known}); nasmesh table import gets one"
    raise NotFound("TABLE_UNKNOWN", message, field="table")


def put(table: Table) -> Path:
    """Write a table below the home directory, whole or not at all, and return its path."""
    ids.format_name("tables", table.about.table_id, field="table")
    folder = directory()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{table.about.table_id}{_SUFFIX}"
    draft = path.with_suffix(".part")
    draft.write_bytes(to_bytes(table))
    draft.replace(path)
    return path


def _folders() -> tuple[Path, Path]:
    return directory(), Path(str(resources.files("nasmesh.tables").joinpath("data")))


@functools.lru_cache(maxsize=8)
def _read(path: Path, _: int) -> Table:
    return from_bytes(path.read_bytes(), name=path.stem)
