"""`nasmesh trial`: look at one trial, and add a network to a running search."""

from pathlib import Path
from typing import Annotated

import typer

from clients.cli.options import SCHEDULER, AsJson, Insecure, Overrides, Scheduler, SearchName, connect
from clients.cli.output import message_dict, print_json, print_line
from nasmesh.errors import Invalid

app = typer.Typer(no_args_is_help=True, help="Trials: add a network to a search.")

File = Path | None


@app.command("add")
def add(  # noqa: PLR0913 - the flags of a command
    search: SearchName,
    onnx: Annotated[File, typer.Option("--onnx", metavar="FILE", help="ONNX file.")] = None,
    architecture: Annotated[
        File, typer.Option("--architecture", metavar="FILE", help="Architecture as YAML or JSON.")
    ] = None,
    choices: Annotated[
        File, typer.Option("--choices", metavar="FILE", help="YAML mapping of the space's choices to values.")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    scheduler: Scheduler = SCHEDULER,
    insecure: Insecure = False,
) -> None:
    """Add a network to a running search: it is admitted, trained and scored like any other."""
    forms = {"onnx": onnx, "architecture": architecture, "choices": choices}
    given = [(form, path) for form, path in forms.items() if path is not None]
    if len(given) != 1:
        raise Invalid("USAGE", "give one of --onnx, --architecture and --choices", field="onnx")
    from nasmesh.client.proposal import read_proposal

    (form, path) = given[0]
    with connect(scheduler, insecure=insecure) as client:
        trial = client.enqueue_trial(search, read_proposal(form, path, overrides or (), client))
    if as_json:
        print_json(message_dict(trial))
    else:
        print_line(f"{trial.name} is added; look at it with: nasmesh search show {trial.name.split('/')[1]}")
