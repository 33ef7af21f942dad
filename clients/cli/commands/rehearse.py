"""`nasmesh rehearse`: how long a search would take; becomes the scheduler's program for it."""

import typer

from clients.cli.commands.serve import PASS_ON, becoming

PROGRAM = "scheduler.rehearsal"
_HELP = "Say how long a search takes with N agents, in virtual time: the real scheduler, a real generator, a model."


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("rehearse", help=_HELP, context_settings=PASS_ON)(becoming(PROGRAM))
