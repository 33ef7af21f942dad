"""The `nasmesh` command: puts the commands together and turns errors into sentences and exit codes."""

import os
import sys
from typing import Any

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # before gRPC is imported: children are spawned, never forked
os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its warnings about lost connections are no concern of a person

from clients.cli.loading import quiet_interrupts

with quiet_interrupts():
    import typer

    from clients.cli import failures
    from clients.cli.access_options import with_access_options
    from clients.cli.commands import (
        access,
        admin,
        best,
        dataset,
        export_runs,
        health,
        hosts,
        lifecycle,
        mesh,
        network,
        pools,
        quick,
        rehearse,
        replay,
        search,
        serve,
        table,
        things,
        top,
        transfer,
        transform,
        trial,
    )
    from nasmesh import exits
    from nasmesh.errors import Invalid, NasmeshError
    from nasmesh.settings import read_settings
    from nasmesh.telemetry.tracing import configure_tracing

# Typer carries click within it from 0.2x on; this is ClickException, the root of its usage errors, either way.
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[2]
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
    settings = read_settings()
    configure_tracing("cli", settings)


mesh.register(app)
serve.register(app)
lifecycle.register(app)
best.register(search.app)
export_runs.register(search.app)
quick.register(search.app)
transfer.register(search.app)
top.register(app)
health.register(app)
app.add_typer(search.app, name="search")
app.add_typer(trial.app, name="trial")
transform.register(network.app)
app.add_typer(network.app, name="network")
app.add_typer(admin.app, name="admin")
app.add_typer(table.app, name="table")
app.add_typer(dataset.app, name="dataset")
things.register(app)
hosts.register(app)
access.register(app)
replay.register(app)
rehearse.register(app)
pools.register(app)


def _tell_usage(error: Exception, *, as_json: bool) -> int:
    """Print a usage error of the command line as one of ours, in the same form, and return its exit code."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "nasmesh"
    text = str(error.format_message() if hasattr(error, "format_message") else error).rstrip(".")
    if not text:  # a group without a command: its help was printed, which says it all
        return exits.USAGE
    text = text.replace(": Value error, ", ": ")
    wrong = Invalid("USAGE", f"{text[:1].lower()}{text[1:]}; see {command} --help")
    return exits.tell(wrong, as_json=as_json)


def command() -> Any:
    """Return the whole command, with the options that many commands share."""
    return with_access_options(typer.main.get_command(app))


def main() -> None:
    """Run the command line; the only way out is SystemExit."""
    as_json = "--json" in sys.argv
    try:
        sys.exit(command()(prog_name="nasmesh", standalone_mode=False) or exits.OK)
    except NasmeshError as error:
        sys.exit(exits.tell(error, as_json=as_json))
    except _USAGE_ERROR as error:
        sys.exit(_tell_usage(error, as_json=as_json))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(exits.INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - the last resort: a person never sees a stack trace
        sys.exit(exits.tell_unexpected(error, as_json=as_json))


if __name__ == "__main__":
    main()
