"""The `nasmesh` command: puts the commands together and turns errors into sentences and exit codes."""

import os
import sys

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # before gRPC is imported: children are spawned, never forked
os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its warnings about lost connections are no concern of a person

import typer

from clients.cli import failures
from clients.cli.commands import mesh, network, search, serve, things
from nasmesh.errors import NasmeshError
from nasmesh.settings import read_settings

_EPILOG = "Exit codes: " + " · ".join(f"{code} {meaning}" for code, meaning in failures.EXIT_CODES.items()) + "."

app = typer.Typer(
    name="nasmesh",
    help="Neural architecture search as a mesh of services.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def check_environment() -> None:
    """Neural architecture search as a mesh of services."""
    read_settings()


mesh.register(app)
serve.register(app)
app.add_typer(search.app, name="search")
app.add_typer(network.app, name="network")
things.register(app)


def main() -> None:
    """Run the command line; the only way out is SystemExit."""
    as_json = "--json" in sys.argv
    try:
        app(prog_name="nasmesh")
    except NasmeshError as error:
        sys.exit(failures.tell(error, as_json=as_json))
    except KeyboardInterrupt:
        sys.exit(failures.INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - the last resort: a person never sees a stack trace
        sys.exit(failures.tell_unexpected(error))


if __name__ == "__main__":
    main()
