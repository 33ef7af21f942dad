"""Spans by OpenTelemetry: to a collector by OTLP over HTTP, or to a file with one JSON object a line.

The only module that imports opentelemetry, and imported only where NASMESH_TRACES is set.
"""

import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from nasmesh import __version__
from nasmesh.errors import Invalid
from nasmesh.telemetry.tracing import CURRENT, Attributes, Place, Span, Tracer

try:
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import (
        BatchSpanProcessor,
        SimpleSpanProcessor,
        SpanExporter,
        SpanExportResult,
    )
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
except ImportError as error:
    raise Invalid(
        "TRACES_UNAVAILABLE",
        f"NASMESH_TRACES: {error.name} is not installed; pip install 'nasmesh[telemetry]', or unset it",
        field="NASMESH_TRACES",
    ) from None

FLUSH_MS = 2000
"""How long a program waits for a collector when it ends."""
_KINDS = {"internal": trace.SpanKind.INTERNAL, "server": trace.SpanKind.SERVER, "client": trace.SpanKind.CLIENT}


def open_tracer(program: str, target: str, *, ratio: float = 1.0) -> Tracer:
    """Return a tracer to "otlp:http://HOST:PORT" or "file:PATH"; raises Invalid (TRACES_INVALID)."""
    resource = Resource.create({"service.name": f"nasmesh-{program}", "service.version": __version__})
    ids = _Ids()
    provider = TracerProvider(
        resource=resource, sampler=ParentBased(TraceIdRatioBased(ratio)), id_generator=ids, shutdown_on_exit=True
    )
    provider.add_span_processor(_processor(target))
    return _OtelTracer(provider, ids)


def _processor(target: str) -> SpanProcessor:
    kind, _, where = target.partition(":")
    if kind == "file" and where:
        return SimpleSpanProcessor(_FileExporter(Path(where).expanduser()))
    if kind == "otlp" and urlsplit(where).scheme in ("http", "https") and urlsplit(where).netloc:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        path = urlsplit(where).path.rstrip("/") or "/v1/traces"
        whole = urlsplit(where)._replace(path=path).geturl()
        return BatchSpanProcessor(OTLPSpanExporter(endpoint=whole, timeout=FLUSH_MS / 1000))
    raise Invalid(
        "TRACES_INVALID",
        f"NASMESH_TRACES: {target[:120]!r} is not otlp:http://HOST:PORT or file:PATH",
        field="NASMESH_TRACES",
    )


class _Ids(RandomIdGenerator):
    """Random ids, but for spans whose id was fixed before."""

    def __init__(self) -> None:
        self.next = threading.local()

    def generate_span_id(self) -> int:
        """Return the fixed id once, then random ones."""
        fixed: int | None = getattr(self.next, "span_id", None)
        self.next.span_id = None
        return super().generate_span_id() if fixed is None else fixed


class _FileExporter(SpanExporter):
    """Appends spans to a file; several processes may share it, since a line is one write."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Invalid(
                "TRACES_INVALID",
                f"NASMESH_TRACES: {path} cannot be written: {error.strerror}",
                field="NASMESH_TRACES",
            ) from None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write spans; a full disk costs spans, not work."""
        try:
            for span in spans:
                os.write(self._file, (json.dumps(_row(span), ensure_ascii=False) + "\n").encode())
        except OSError:
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Close the file."""
        os.close(self._file)


def _row(span: ReadableSpan) -> dict[str, object]:
    context = span.get_span_context()
    return {
        "name": span.name,
        "service": span.resource.attributes.get("service.name"),
        "trace": f"{context.trace_id:032x}" if context else "",
        "span": f"{context.span_id:016x}" if context else "",
        "parent": f"{span.parent.span_id:016x}" if span.parent else "",
        "kind": span.kind.name.lower(),
        "start_s": (span.start_time or 0) / 1e9,
        "end_s": (span.end_time or 0) / 1e9,
        "ok": span.status.is_ok,
        "attributes": dict(span.attributes or {}),
    }


class _Open:
    """A span in work."""

    def __init__(self, span: trace.Span) -> None:
        context = span.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
        self._span = span

    def set(self, **attributes: str | int | float | bool) -> None:
        """Add attributes."""
        self._span.set_attributes(attributes)


class _OtelTracer:
    def __init__(self, provider: TracerProvider, ids: _Ids) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("nasmesh", __version__)
        self._ids = ids

    def span(self, name: str, parent: str, kind: str, attributes: Attributes) -> AbstractContextManager[Span]:
        """Return a span for a block."""
        return self._span(name, parent, kind, attributes)

    @contextmanager
    def _span(self, name: str, parent: str, kind: str, attributes: Attributes) -> Iterator[Span]:
        span = self._tracer.start_span(
            name, context=_context(parent), kind=_KINDS[kind], attributes=attributes, record_exception=False
        )
        opened = _Open(span)
        try:
            with CURRENT.within(opened.traceparent):
                yield opened
        except BaseException as error:
            span.set_attribute("error.type", _kind(error))
            span.set_status(trace.StatusCode.ERROR)
            raise
        finally:
            span.end()

    def emit(self, name: str, place: Place, times_s: tuple[float, float], attributes: Attributes) -> None:
        """Tell of a span that is over."""
        began, ended = (round(seconds * 1e9) for seconds in times_s)
        self._ids.next.span_id = int(place.span_id, 16)
        span = self._tracer.start_span(name, context=_context(place.parent), attributes=attributes, start_time=began)
        self._ids.next.span_id = None
        span.end(max(began, ended))

    def flush(self) -> None:
        """Send what waits to be sent."""
        self._provider.force_flush(FLUSH_MS)


def _kind(error: BaseException) -> str:
    """Return what kind of error it is, alone: what it says may hold what must not leave the program.

    A call is aborted by an exception of gRPC's while ours is in hand, and a caller gets one with a status.
    """
    for known in (error, error.__context__):
        reason = getattr(known, "reason", "")
        if isinstance(reason, str) and reason:
            return reason
    code = getattr(error, "code", None)
    status = code() if callable(code) else None
    return str(getattr(status, "name", "")) or type(error).__name__


def _context(traceparent: str) -> Context:
    """Return the parent as OpenTelemetry wants it; an empty context where there is none."""
    if not traceparent:
        return Context()
    _, trace_id, span_id, flags = traceparent.split("-")
    parent = trace.SpanContext(int(trace_id, 16), int(span_id, 16), True, trace.TraceFlags(int(flags, 16)))
    return trace.set_span_in_context(trace.NonRecordingSpan(parent), Context())
