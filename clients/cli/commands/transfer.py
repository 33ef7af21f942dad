"""`nasmesh search transfer`: take a found network over to other data, depth or width, as a search of its own."""

from pathlib import Path
from typing import Annotated

import typer

from clients.cli.options import (
    SCHEDULER,
    WATCH_PATIENCE_S,
    AsJson,
    Force,
    Insecure,
    Out,
    Overrides,
    Scheduler,
    connect,
)
from nasmesh.errors import Invalid

Subject = Annotated[
    str,
    typer.Argument(metavar="SEARCH[/TRIAL]", help='"ID/NUMBER" or "searches/ID/trials/NUMBER"; of a search its best.'),
]


def register(searches: typer.Typer) -> None:
    """Add the command to `nasmesh search`."""
    searches.command("transfer")(transfer)


def transfer(  # noqa: PLR0913 - the flags of a command
    subject: Subject,
    data: Annotated[str, typer.Option("--data", metavar="NAME", help="Data set to take it to [the same].")] = "",
    cells: Annotated[int, typer.Option(min=0, metavar="N", help="Cells of every stage (cell space).")] = 0,
    width_multiplier: Annotated[float, typer.Option(metavar="X", help="Factor of every width.")] = 1.0,
    weights: Annotated[bool, typer.Option("--weights", help="Start from the trained weights that fit.")] = False,
    repeats: Annotated[int, typer.Option(min=1, max=100, metavar="K", help="Seeds of the final training.")] = 1,
    identifier: Annotated[str, typer.Option("--id", metavar="ID", help="Id of the search; chosen when left out.")] = "",
    overrides: Overrides = None,
    save: Annotated[Path | None, typer.Option("--save", metavar="FILE", help="Write the specification here.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Check the specification only; create nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Watch until the search has ended.")] = False,
    out: Out = None,
    force: Force = False,
    as_json: AsJson = False,
    scheduler: Scheduler = SCHEDULER,
    insecure: Insecure = False,
) -> None:
    """Take a found network to other data, depth or width: a new search of this one network that says whose it is.

    It is trained as its search trained (--set changes that), then fully with every seed, and scored on the test split.
    """
    if not 0 < width_multiplier <= 64:
        raise Invalid("USAGE", f"--width-multiplier: {width_multiplier:g} is not above 0 and at most 64", field="width")
    from clients.cli.carrying import Wish, carried_over, find_trial
    from clients.cli.commands.search import finish, tell_created
    from nasmesh.client.written import dump_spec, override_spec

    wish = Wish(data, cells, width_multiplier, repeats, weights)
    with connect(scheduler, insecure=insecure) as client:
        trial = find_trial(client, subject)
        spec = override_spec(carried_over(client, trial, wish), overrides or ())
        if save is not None:
            _save(save, dump_spec(spec))
        found = client.create_search(spec, search_id=identifier, validate_only=check)
    if check or not (wait or out):
        tell_created(found, check=check, as_json=as_json)
        return
    with connect(scheduler, insecure=insecure, patience_s=WATCH_PATIENCE_S) as client:
        raise typer.Exit(finish(client, found.name, out=out, force=force, as_json=as_json))


def _save(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        message = f"--save: {path} cannot be written ({error.strerror}); name another file"
        raise Invalid("FILE_UNWRITABLE", message, field="save") from error
