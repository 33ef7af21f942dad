"""How a program lets itself be observed: the flag for metrics, the rule where they may be served, the interceptors."""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from nasmesh.logs import get_logger
from nasmesh.rpc.observed import aio_observe, observe
from nasmesh.rpc.options import plaintext_address
from nasmesh.settings import Settings
from nasmesh.telemetry import tracing
from nasmesh.telemetry.calls import Calls
from nasmesh.telemetry.exposition import Source, serve_metrics

_log = get_logger("metrics")
_OPEN = "open:"
"""Before an address: to other machines too."""


def add_metrics_flag(parser: argparse.ArgumentParser, settings: Settings) -> None:
    """Add --metrics."""
    parser.add_argument(
        "--metrics",
        default=settings.metrics,
        metavar="[open:]HOST:PORT",
        help="serve metrics for Prometheus at http://HOST:PORT/metrics; open: to other machines too, without TLS "
        "[NASMESH_METRICS or none]",
    )


def metrics_address(address: str, *, insecure: bool) -> str:
    """Return where metrics are served, empty for nowhere; raises Invalid (ADDRESS_INVALID, METRICS_PLAINTEXT).

    They tell names and rates and have no TLS: beyond this machine only where `insecure` says so, or the address itself
    by "open:", which lets nothing else be in plain text.
    """
    if not address:
        return ""
    bare = address.removeprefix(_OPEN)
    opened = insecure or bare != address
    return plaintext_address(bare, insecure=opened, reason="METRICS_PLAINTEXT", field="metrics")


def observers(calls: Calls, metrics: str, *, aio: bool = False) -> Sequence[Any]:
    """Return the interceptors of a server: none where neither metrics nor traces are on."""
    if not metrics and not tracing.enabled():
        return ()
    return (aio_observe(calls),) if aio else (observe(calls),)


@contextmanager
def metrics_served(address: str, sources: Iterable[Source]) -> Iterator[None]:
    """Serve metrics within the block, where an address is given; raises what serve_metrics raises."""
    if not address:
        yield
        return
    served = serve_metrics(address, sources)
    _log.info("serving_metrics", address=served.address)
    try:
        yield
    finally:
        served.close()
