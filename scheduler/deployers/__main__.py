"""`python -m scheduler.deployers`: flags, environment, exit codes."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # before gRPC is imported: servers are spawned, never forked

from nasmesh.agent.lifetime import Lifetime
from nasmesh.exits import guarded
from nasmesh.flags import FlagParser
from nasmesh.logs import configure
from nasmesh.rpc.access import add_client_flags, add_server_flags, client_access, server_access
from nasmesh.rpc.observing import add_metrics_flag, metrics_address
from nasmesh.settings import Settings, parse_address, parse_addresses, read_settings
from nasmesh.telemetry.tracing import configure_tracing, stop_tracing
from nasmesh.unpickling import forbid_unpickling
from scheduler.deployers.program import LISTEN, Options, run


def parse_flags(argv: Sequence[str] | None, settings: Settings) -> Options:
    """Return the options of a command line; raises Invalid (USAGE and others)."""
    parser = FlagParser("nasmesh serve deployer", description="Starts and stops servers as there is work for them.")
    parser.add_argument("-f", "--file", type=Path, required=True, metavar="FILE", help="the pools, YAML")
    parser.add_argument(
        "--scheduler", default=settings.scheduler, metavar="HOST:PORT", help="keep servers for it [%(default)s]"
    )
    parser.add_argument("--listen", default=LISTEN, metavar="HOST:PORT", help="tell of the pools here [%(default)s]")
    parser.add_argument("--port-file", type=Path, metavar="PATH", help="write the address here once serving")
    parser.add_argument("--insecure", action="store_true", help="serve and dial beyond this machine without TLS")
    add_metrics_flag(parser, settings)
    add_server_flags(parser, settings)
    add_client_flags(parser, settings)
    flags = parser.parse_args(argv)
    parse_addresses(flags.scheduler, field="scheduler")
    parse_address(flags.listen, field="listen")
    return Options(
        config=flags.file,
        scheduler=flags.scheduler,
        home=settings.home / "deployer",
        listen=flags.listen,
        port_file=flags.port_file,
        insecure=flags.insecure,
        access=server_access(flags),
        own_access=client_access(flags),
        metrics=metrics_address(flags.metrics, insecure=flags.insecure),
        store="" if settings.store == f"dir:{settings.home / 'objects'}" else settings.store,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run until stopped; returns 0, 2 wrong flags or file, 3 port or home in use, 130 Ctrl-C."""

    def serve() -> int:
        forbid_unpickling()
        settings = read_settings()
        options = parse_flags(argv, settings)
        configure("deployer", settings=settings)
        configure_tracing("deployer", settings)
        try:
            return run(options, Lifetime())
        finally:
            stop_tracing()

    return guarded(serve)


if __name__ == "__main__":
    sys.exit(main())
