"""`python -m scheduler`: flags, environment, exit codes."""

from scheduler import compiled

if __name__ == "__main__":
    compiled.use()  # before anything that is compiled is imported

import sys
from collections.abc import Sequence
from pathlib import Path

from nasmesh.exits import FAILED, OK, guarded
from nasmesh.flags import FlagParser
from nasmesh.logs import configure, get_logger
from nasmesh.rpc.access import add_server_flags, server_access
from nasmesh.rpc.observing import add_metrics_flag, metrics_address
from nasmesh.rpc.open_files import raise_open_files
from nasmesh.settings import DEFAULT_SCHEDULER, Settings, read_settings
from nasmesh.telemetry.tracing import configure_tracing, stop_tracing
from nasmesh.unpickling import forbid_unpickling
from scheduler import event_loop
from scheduler.allowances import add_allowance_flags, quotas_of, rates_of
from scheduler.program import Options, run


def parse_flags(argv: Sequence[str] | None, settings: Settings) -> Options:
    """Return the options of a command line; raises Invalid (USAGE and others)."""
    parser = FlagParser("nasmesh serve scheduler", description="Coordinates searches; agents and clients dial in.")
    parser.add_argument("--listen", default=DEFAULT_SCHEDULER, metavar="HOST:PORT", help="where [%(default)s]")
    parser.add_argument("--port-file", type=Path, metavar="PATH", help="write the address here once serving")
    parser.add_argument(
        "--journal",
        default=settings.journal,
        metavar="URL",
        help="sqlite:PATH, a path, postgresql://… or memory: [%(default)s]",
    )
    parser.add_argument("--standby", action="store_true", help="while another scheduler has the journal, wait for it")
    parser.add_argument("--store", default=settings.store, metavar="URL", help="object store [%(default)s]")
    parser.add_argument("--insecure", action="store_true", help="serve other machines without TLS or identities")
    add_metrics_flag(parser, settings)
    add_server_flags(parser, settings)
    add_allowance_flags(parser, settings)
    flags = parser.parse_args(argv)
    return Options(
        listen=flags.listen,
        journal=flags.journal,
        store=flags.store,
        port_file=flags.port_file,
        insecure=flags.insecure,
        failpoint=settings.failpoint,
        access=server_access(flags),
        metrics=metrics_address(flags.metrics, insecure=flags.insecure),
        standby=flags.standby,
        quotas=quotas_of(flags),
        rates=rates_of(flags),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run until stopped; returns 0, 1 unexpected, 2 wrong flag or journal, 3 port or journal in use."""

    def serve() -> int:
        settings = read_settings()
        options = parse_flags(argv, settings)
        configure("scheduler", settings=settings)
        configure_tracing("scheduler", settings)
        raise_open_files()
        event_loop.run(run(options))
        return OK

    forbid_unpickling()
    try:
        return guarded(serve)
    except Exception as error:  # noqa: BLE001  (the edge: the log has the trace; nothing acknowledged is lost)
        get_logger("scheduler").error("stopped_by_fault", error=f"{type(error).__name__}: {error}", exc_info=True)
        return FAILED
    finally:
        stop_tracing()


if __name__ == "__main__":
    sys.exit(main())
