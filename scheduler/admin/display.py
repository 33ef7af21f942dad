"""How the administrator's programs speak: one JSON object or lines on stdout, progress on stderr."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


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
    """Print one JSON value for scripts."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None) + "\n")


def wall(time_us: int) -> str:
    """Return a wall time for people, UTC."""
    return datetime.fromtimestamp(time_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")


def size(count: int) -> str:
    """Return bytes for people."""
    return f"{count / 1024**2:.1f} MiB" if count >= 1024**2 else f"{count / 1024:.1f} KiB"
