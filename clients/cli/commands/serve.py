"""`nasmesh serve`: become the program named, with its own flags. No program is imported here."""

import os
import sys
from collections.abc import Callable

import typer

from nasmesh.errors import Invalid

PROGRAMS = {
    "scheduler": "scheduler",
    "generate": "generate_svc",
    "train": "train_svc",
    "evaluate": "evaluate_svc",
    "deployer": "scheduler.deployers",
}
AGENT = "nasmesh.agent"
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""Settings of a command that leaves all of its flags, --help too, to the program that it becomes."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve", context_settings=PASS_ON)(serve)


def serve(context: typer.Context) -> None:
    """Run one program of the mesh: scheduler, generate, train, evaluate or deployer.

    All other arguments go to the program; `nasmesh serve train --help` lists them.
    """
    kind, arguments = (context.args[0], context.args[1:]) if context.args else ("", [])
    if kind in ("", "-h", "--help"):
        typer.echo(context.get_help())
        raise typer.Exit(0 if kind else 2)
    if kind not in PROGRAMS:
        raise Invalid("PROGRAM_UNKNOWN", f"serve: {kind!r} is none of {', '.join(PROGRAMS)}", field="serve")
    become(PROGRAMS[kind], arguments)


def becoming(module: str, *first: str) -> Callable[[typer.Context], None]:
    """Return a command, to be registered with PASS_ON, that becomes a program; `first` come before its flags."""

    def command(context: typer.Context) -> None:
        become(module, [*first, *context.args])

    return command


def become(module: str, arguments: list[str]) -> None:
    """Replace this process by `python -m module`, so that signals and exit codes are the program's own."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])
