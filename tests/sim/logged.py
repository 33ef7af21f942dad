"""What programs under simulation log: nothing, for speed; or all of it, to look for what must not be in it (I14)."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from nasmesh.logs import configure
from nasmesh.settings import read_settings
from tests.builders.own_logs import logs_as_before


@contextmanager
def quiet() -> Iterator[None]:
    """Log nothing within the block."""
    with logs_as_before():
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        yield


@contextmanager
def kept() -> Iterator[io.StringIO]:
    """Keep every line, debug ones too, as the programs themselves would write them."""
    lines = io.StringIO()
    with logs_as_before():
        configure("simulation", settings=read_settings({"NASMESH_LOG_LEVEL": "debug"}), stream=lines)
        yield lines
