"""`nasmesh replay`: derives every decision of a search again; becomes the scheduler's program for it."""

import typer

from clients.cli.commands.admin import PROGRAM
from clients.cli.commands.serve import become

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("replay", context_settings=_PASS_ON)(replay)


def replay(context: typer.Context) -> None:
    """Derive every decision of a finished search again from its journal, and print the first difference."""
    become(PROGRAM, ["replay", *context.args])
