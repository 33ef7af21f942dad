"""Structured logs on stderr: JSON lines in a pipe, colours on a terminal; never secrets, payloads or object bytes.

An event is a snake_case name with fields. Search, task, attempt and epoch are bound once and appear on every line.
"""

import json
import logging
import os
import re
import sys
from collections.abc import MutableMapping
from contextvars import Token
from types import TracebackType
from typing import TextIO

import structlog
from google.protobuf.message import Message
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from nasmesh import limits
from nasmesh.settings import Settings, read_settings

_SECRET_FIELD = re.compile(r"token|secret|passw|authorization|credential|private|api_?key|cookie", re.IGNORECASE)
# Attempt tokens and page tokens are not secrets, but nobody needs them in a log either.
_SECRET_VALUE = re.compile(
    r"(?i:bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}|-----BEGIN [A-Z ]*PRIVATE KEY-----.*|://[^/\s:@]+:[^/\s@]+@", re.DOTALL
)
_HIDDEN = "[hidden]"
_VALUE_CHARS = 1024
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(program: str, *, settings: Settings | None = None, stream: TextIO | None = None) -> None:
    """Send this process's logs, Python's own included, to stderr in the form the settings ask for."""
    chosen = settings or read_settings()
    target = stream or sys.stderr
    level = _LEVELS[chosen.log_level]
    console = chosen.log_format == "console" or (chosen.log_format == "auto" and target.isatty())
    structlog.configure(
        processors=_processors(program, console=console, colors=target.isatty()),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(target),
        cache_logger_on_first_use=False,
    )
    # gRPC's core writes lines of its own form to stderr; what matters in them arrives as the status of a call.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    root = logging.getLogger()
    root.handlers = [_ToStructlog()]
    # Libraries talk too much below warning; what they say at debug is theirs to debug.
    root.setLevel(max(level, logging.WARNING))


def get_logger(name: str) -> FilteringBoundLogger:
    """Return a logger; `name` says which part of the program speaks."""
    if not structlog.is_configured():
        # A script that never calls configure must not find log lines in its standard output.
        structlog.configure(
            processors=_processors("python", console=False, colors=False),
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            logger_factory=lambda *_args: structlog.WriteLogger(sys.stderr),
            cache_logger_on_first_use=False,
        )
    logger: FilteringBoundLogger = structlog.get_logger(part=name)
    return logger


class bind:  # noqa: N801  (reads as the verb it is: bind(search=...), with bind(task=...):)
    """Put fields on every later line of this thread or task; as a context manager, only until the block's end."""

    def __init__(self, **fields: object) -> None:
        """Bind at once; fields that are None are left out."""
        given = {name: value for name, value in fields.items() if value is not None}
        self._tokens: dict[str, Token[object]] = dict(structlog.contextvars.bind_contextvars(**given))

    def __enter__(self) -> "bind":
        """Return itself; the fields are already bound."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Put back what was bound before."""
        structlog.contextvars.reset_contextvars(**self._tokens)


def _processors(program: str, *, console: bool, colors: bool) -> list[Processor]:
    """Return the steps a line goes through."""

    def name_program(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event.setdefault("program", program)
        return event

    steps: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        name_program,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _plain_values,
        _hide_secrets,
    ]
    if console:
        renderer = structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=0)

        def render(logger: WrappedLogger, method: str, event: EventDict) -> str:
            return _cut_line(renderer(logger, method, event))

        return [*steps, render]
    return [*steps, _render_json]


def _plain_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace payloads by their size and cut long texts, so that no line carries an object or a message."""
    for name, value in event.items():
        event[name] = _plain(value)
    return event


def _plain(value: object) -> object:
    """Return a value fit for a log line."""
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, Message):
        return f"<{value.DESCRIPTOR.name}, {value.ByteSize()} bytes>"
    if isinstance(value, bool | int | float) or value is None:
        return value
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= _VALUE_CHARS else f"{text[:_VALUE_CHARS]}… ({len(text)} characters)"


def _hide_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Hide values that are, by their name or shape, secrets."""
    for name, value in event.items():
        if name != "event" and _SECRET_FIELD.search(name):
            event[name] = _HIDDEN
        elif isinstance(value, str):
            event[name] = _SECRET_VALUE.sub(_HIDDEN, value)
    return event


def _render_json(_logger: WrappedLogger, _method: str, event: MutableMapping[str, object]) -> str:
    """Return one JSON line within the limit, still valid JSON: the longest fields go first."""
    line = _dump(event)
    while len(line.encode()) >= limits.LOG_LINE_BYTES:
        texts = [name for name, value in event.items() if isinstance(value, str) and len(value) > 64]
        longest = max(texts, key=lambda name: len(str(event[name])), default=None)
        if longest is None:
            return _dump({"event": str(event.get("event"))[:64], "level": event.get("level"), "truncated": True})
        text = str(event[longest])
        event[longest] = f"{text[: len(text) // 2]}…"
        event["truncated"] = True
        line = _dump(event)
    return line


def _dump(event: MutableMapping[str, object] | dict[str, object]) -> str:
    """Return JSON with the event's name first."""
    return json.dumps({"event": event.get("event"), **event}, ensure_ascii=False, default=str)


def _cut_line(line: str) -> str:
    """Cut a terminal's line to the limit."""
    encoded = line.encode(errors="replace")
    if len(encoded) < limits.LOG_LINE_BYTES:
        return line
    return encoded[: limits.LOG_LINE_BYTES - 16].decode(errors="ignore") + "…"


class _ToStructlog(logging.Handler):
    """Carries what libraries log by the standard module into the same stream and form."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        logger = get_logger(record.name)
        fields: dict[str, object] = {"text": record.getMessage()}
        if record.exc_info:
            fields["exc_info"] = record.exc_info
        logger.log(record.levelno, "library_log", **fields)
