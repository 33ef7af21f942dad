"""`nasmesh replay`: derives every decision of a search again; becomes the scheduler's program for it."""

import typer

from clients.cli.commands.admin import PROGRAM
from clients.cli.commands.serve import PASS_ON, becoming

_HELP = "Derive every decision of a finished search again from its journal, and print the first difference."


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("replay", help=_HELP, context_settings=PASS_ON)(becoming(PROGRAM, "replay"))
