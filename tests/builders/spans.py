"""Traces of a test, kept in a file."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nasmesh.settings import read_settings
from nasmesh.telemetry import tracing

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
"""A traceparent from outside."""


@contextmanager
def traced_to(path: Path) -> Iterator[Path]:
    """Have this process trace to a file within the block."""
    tracing.configure_tracing("test", read_settings({"NASMESH_TRACES": f"file:{path}"}))
    try:
        yield path
    finally:
        tracing.stop_tracing()


def rows(path: Path) -> list[dict[str, str]]:
    """Return the spans that were told, in order."""
    return [json.loads(line) for line in path.read_text().splitlines()]
