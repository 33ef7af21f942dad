"""`nasmesh admin`: what an operator does with a journal; becomes the scheduler's program for it."""

import typer

from clients.cli.commands import bucket
from clients.cli.commands.lifecycle import sweep
from clients.cli.commands.serve import PASS_ON, becoming

PROGRAM = "scheduler.admin"
_COMMANDS = {
    "check": "Check a journal, live or copied: every invariant, replay against snapshot; with --store, every object.",
    "explain": "Tell the story of a task id or trial name: proposal, leases, checkpoints, failures, outcomes.",
    "compact": "With the scheduler stopped: bring the snapshot up to date and drop events that no open search needs.",
    "backup": "Copy a journal, live or not, to one verified file.",
    "migrate": "With the scheduler stopped: copy a journal from SQLite to PostgreSQL, or back; verified by digest.",
    "restore": "With the scheduler stopped: put a backup in a journal's place; an old one is kept aside, with --force.",
}

app = typer.Typer(no_args_is_help=True, help="Journals and objects: check, explain, back up, restore, compact, sweep.")
for _name, _text in _COMMANDS.items():
    app.command(_name, help=_text, context_settings=PASS_ON)(becoming(PROGRAM, _name))
app.command("sweep")(sweep)
app.add_typer(bucket.app, name="bucket")
