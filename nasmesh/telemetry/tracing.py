"""Traces: spans over one piece of work as it goes through clients, scheduler, agents, servers and the store.

Programs call `span` and `current`; until `configure_tracing` has been told where spans go they do nothing and import
nothing. Between programs a trace travels as a W3C traceparent: in gRPC metadata, in leases, in the journal.
"""

import hashlib
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from nasmesh.scoped import Scoped
from nasmesh.settings import Settings

HEADER = "traceparent"
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

Attributes = Mapping[str, str | int | float | bool]


class Span(Protocol):
    """One span in work."""

    @property
    def traceparent(self) -> str:
        """What children name as their parent; empty where nothing is traced."""
        ...

    def set(self, **attributes: str | int | float | bool) -> None:
        """Add attributes."""
        ...


class _NoSpan:
    traceparent = ""

    def set(self, **attributes: str | int | float | bool) -> None:
        """Do nothing."""


NO_SPAN: AbstractContextManager[Span] = nullcontext(_NoSpan())


class Tracer(Protocol):
    """Where spans go."""

    def span(self, name: str, parent: str, kind: str, attributes: Attributes) -> AbstractContextManager[Span]:
        """Return a span that lasts for the block."""
        ...

    def emit(self, name: str, place: "Place", times_s: tuple[float, float], attributes: Attributes) -> None:
        """Tell of a span that is over."""
        ...

    def flush(self) -> None:
        """Send what waits to be sent."""
        ...


class Place:
    """Where a span is in its trace, known before the span is over: its id follows from a name."""

    __slots__ = ("parent", "span_id")

    def __init__(self, parent: str, *name: str) -> None:
        """Be below `parent`, a traceparent, with an id made of it and of what the span is of."""
        self.parent = parent
        self.span_id = hashlib.sha256("\0".join((parent[:52], *name)).encode()).hexdigest()[:16]

    @property
    def traceparent(self) -> str:
        """What children name as their parent."""
        return f"{self.parent[:36]}{self.span_id}{self.parent[52:]}"


_TRACER: Tracer | None = None
CURRENT: Scoped[str] = Scoped("nasmesh_traceparent", "")
"""The traceparent of the span in work, empty where there is none. Tracers set it."""


def enabled() -> bool:
    """Say whether spans go anywhere."""
    return _TRACER is not None


def configure_tracing(program: str, settings: Settings) -> None:
    """Send this process's spans where the settings say; raises Invalid (TRACES_INVALID, TRACES_UNAVAILABLE)."""
    global _TRACER
    if not settings.traces:
        _TRACER = None
        return
    # Imported here: it takes a tenth of a second, and few want it.
    from nasmesh.telemetry.otel import open_tracer

    _TRACER = open_tracer(program, settings.traces, ratio=settings.traces_ratio)


def stop_tracing() -> None:
    """Send what waits to be sent, and trace no more."""
    global _TRACER
    if _TRACER is not None:
        _TRACER.flush()
        _TRACER = None


def current() -> str:
    """Return the traceparent of the span in work in this thread or task; empty where there is none."""
    return CURRENT.get()


def checked(traceparent: str) -> str:
    """Return a traceparent from outside if it is one, else nothing."""
    return traceparent if _TRACEPARENT.fullmatch(traceparent) else ""


def metadata() -> tuple[tuple[str, str], ...] | None:
    """Return the gRPC metadata that carries the current trace; None where there is none."""
    traceparent = CURRENT.get()
    return ((HEADER, traceparent),) if traceparent else None


def span(
    name: str, attributes: Attributes | None = None, *, parent: str | None = None, kind: str = "internal"
) -> AbstractContextManager[Span]:
    """Return a span for a `with` block, below `parent` or else the current one; a new trace where there is neither."""
    if _TRACER is None:
        return NO_SPAN
    return _TRACER.span(name, CURRENT.get() if parent is None else checked(parent), kind, attributes or {})


def continued(traceparent: str, name: str, attributes: Attributes | None = None) -> AbstractContextManager[Span]:
    """Return a span of a trace that came from outside, or none where it is none: it never begins a trace."""
    return span(name, attributes, parent=traceparent) if _TRACER is not None and checked(traceparent) else NO_SPAN


def span_within(
    name: str, attributes: Attributes | None = None, *, kind: str = "internal"
) -> AbstractContextManager[Span]:
    """Return a span below the current one, or none where nothing is traced here: it never begins a trace."""
    return span(name, attributes, kind=kind) if _TRACER is not None and CURRENT.get() else NO_SPAN


def emit(name: str, place: Place, times_s: tuple[float, float], attributes: Attributes) -> None:
    """Tell of a span that is over; times are wall seconds."""
    if _TRACER is not None and checked(place.parent):
        _TRACER.emit(name, place, times_s, attributes)


def flush() -> None:
    """Send what waits to be sent; for processes that may be ended at any time."""
    if _TRACER is not None:
        _TRACER.flush()
