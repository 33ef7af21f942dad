"""Serves metrics over HTTP for Prometheus to scrape. The library for it is imported here, when it is asked for."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from nasmesh import __version__
from nasmesh.errors import Invalid, Unavailable
from nasmesh.settings import format_address, parse_address
from nasmesh.telemetry.catalog import METRICS, Kind
from nasmesh.telemetry.samples import Distribution, Reading

if TYPE_CHECKING:
    from prometheus_client.core import Metric

Source = Callable[[], Iterable[Reading]]


class MetricsServer:
    """Metrics that are served. `address` is where."""

    def __init__(self, http: Any, thread: Any, address: str) -> None:
        """Hold a started one; use serve_metrics."""
        self.address = address
        self._http = http
        self._thread = thread

    def close(self) -> None:
        """Stop serving."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def serve_metrics(address: str, sources: Iterable[Source]) -> MetricsServer:
    """Serve at http://HOST:PORT/metrics (port 0: any) from a thread of its own; sources are asked at every scrape.

    Whether the address may be served without TLS is for the caller to check. Raises Unavailable (PORT_IN_USE), Invalid
    (METRICS_INVALID).
    """
    from prometheus_client import CollectorRegistry, Info, PlatformCollector, ProcessCollector, start_http_server

    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    Info("nasmesh_build", "Version of nasmesh.", registry=registry).info({"version": __version__})
    registry.register(_Collector(list(sources)))
    host, port = parse_address(address, field="metrics")
    try:
        http, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise _refused(host, port, error) from None
    return MetricsServer(http, thread, format_address(host, http.server_port))


def _refused(host: str, port: int, error: OSError) -> Invalid | Unavailable:
    where = format_address(host, port)
    if error.errno is not None and error.strerror == "Address already in use":
        message = f"metrics: port {port} on {host} is in use by another program; choose another, port 0 takes any"
        return Unavailable("PORT_IN_USE", message, field="metrics", metadata={"port": str(port)})
    return Invalid("METRICS_INVALID", f"metrics: cannot serve on {where}: {error.strerror or error}", field="metrics")


class _Collector:
    """Turns readings into what the library writes."""

    def __init__(self, sources: list[Source]) -> None:
        self._sources = sources

    def describe(self) -> "Iterable[Metric]":
        """Return nothing: the registry need not ask for values to learn the names."""
        return []

    def collect(self) -> "Iterator[Metric]":
        """Yield the families; called at each scrape."""
        families: dict[str, Any] = {}
        for source in self._sources:
            for reading in source():
                family = families.get(reading.metric)
                if family is None:
                    family = families[reading.metric] = _family(reading.metric)
                if isinstance(reading, Distribution):
                    family.add_metric(reading.labels, buckets=_cumulated(reading), sum_value=reading.total)
                else:
                    family.add_metric(reading.labels, reading.value)
        yield from families.values()


def _family(name: str) -> Any:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    metric = METRICS[name]
    makers: dict[Kind, Any] = {
        Kind.COUNTER: CounterMetricFamily,
        Kind.GAUGE: GaugeMetricFamily,
        Kind.HISTOGRAM: HistogramMetricFamily,
    }
    return makers[metric.kind](name, metric.help, labels=metric.labels)


def _cumulated(reading: Distribution) -> list[tuple[str, float]]:
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip((*(f"{bound:g}" for bound in reading.bounds), "+Inf"), reading.counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets
