"""The process's logging, put back after something has configured it: programs do, for themselves."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import structlog


@contextmanager
def logs_as_before() -> Iterator[None]:
    """Leave logging as it was found, unconfigured too: structlog's own defaults print to standard output."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    known, logs = structlog.is_configured(), structlog.get_config()
    try:
        yield
    finally:
        root.handlers, root.level = handlers, level
        if known:
            structlog.configure(**logs)
        else:
            structlog.reset_defaults()
