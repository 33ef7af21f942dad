"""`nasmesh admin`: what an operator does with a journal; becomes the scheduler's program for it."""

import typer

from clients.cli.commands.lifecycle import sweep
from clients.cli.commands.serve import become

PROGRAM = "scheduler.admin"
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

app = typer.Typer(no_args_is_help=True, help="Journals and objects: check, explain, back up, restore, compact, sweep.")


@app.command("check", context_settings=_PASS_ON)
def check(context: typer.Context) -> None:
    """Check a journal, live or copied: every invariant, replay against snapshot; with --store, every object."""
    become(PROGRAM, ["check", *context.args])


@app.command("explain", context_settings=_PASS_ON)
def explain(context: typer.Context) -> None:
    """Tell the story of a task id or a trial name: proposal, attempts, leases, checkpoints, failures, outcomes."""
    become(PROGRAM, ["explain", *context.args])


@app.command("compact", context_settings=_PASS_ON)
def compact(context: typer.Context) -> None:
    """With the scheduler stopped: bring the snapshot up to date and drop events that no open search needs."""
    become(PROGRAM, ["compact", *context.args])


@app.command("backup", context_settings=_PASS_ON)
def backup(context: typer.Context) -> None:
    """Copy a journal, live or not, to one verified file."""
    become(PROGRAM, ["backup", *context.args])


@app.command("restore", context_settings=_PASS_ON)
def restore(context: typer.Context) -> None:
    """With the scheduler stopped: put a backup in a journal's place; an old one is kept aside, with --force."""
    become(PROGRAM, ["restore", *context.args])


app.command("sweep")(sweep)
