"""How the administrator's programs speak: one JSON object or lines on stdout, progress on stderr."""

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Advance(Protocol):
    """Moves a progress bar."""

    def __call__(self, done: int, total: int = 0) -> None:
        """Say how much is done, in all; `total` where it has changed."""
        ...


@contextmanager
def progress(what: str, total: int) -> Iterator[Advance]:
    """Show a bar on a terminal, nothing elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=total)

        def advance(done: int, total: int = 0) -> None:
            bar.update(task, completed=done, total=total or None)

        yield advance


def say(line: str) -> None:
    """Print a line for people."""
    sys.stdout.write(line + "\n")


def say_json(value: object) -> None:
    """Print one JSON value for scripts; names of fields as in protobuf's JSON, which all other commands print."""
    told = json.dumps(_json_value(value), ensure_ascii=False, indent=2 if sys.stdout.isatty() else None)
    sys.stdout.write(told + "\n")


def json_object(value: "DataclassInstance") -> dict[str, object]:
    """Return a dataclass as an object with lowerCamelCase names, and those within it; keys of mappings are data."""
    return {camel(known.name): _json_value(getattr(value, known.name)) for known in dataclasses.fields(value)}


def _json_value(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return json_object(value)
    if isinstance(value, Mapping):
        return {key: _json_value(found) for key, found in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(found) for found in value]
    return value


def camel(name: str) -> str:
    """Return a name in lowerCamelCase."""
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def wall(time_us: int) -> str:
    """Return a wall time for people, UTC."""
    return datetime.fromtimestamp(time_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")


def size(count: int) -> str:
    """Return bytes for people."""
    return f"{count / 1024**2:.1f} MiB" if count >= 1024**2 else f"{count / 1024:.1f} KiB"
