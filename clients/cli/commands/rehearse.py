"""`nasmesh rehearse`: how long a search would take; becomes the scheduler's program for it."""

import typer

from clients.cli.commands.serve import become

PROGRAM = "scheduler.rehearsal"
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("rehearse", context_settings=_PASS_ON)(rehearse)


def rehearse(context: typer.Context) -> None:
    """Say how long a search takes with N agents, in virtual time: the real scheduler, a real generator, a model."""
    become(PROGRAM, context.args)
