"""`nasmesh search export`: a search for TensorBoard and MLflow."""

from pathlib import Path
from typing import Annotated

import typer

from clients.cli.options import SCHEDULER, AsJson, Insecure, Scheduler, SearchName, connect
from clients.cli.output import print_json, print_line
from nasmesh.errors import Invalid


def register(app: typer.Typer) -> None:
    """Add the command to the group of searches."""
    app.command("export")(export_search)


def export_search(
    name: SearchName,
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write TensorBoard event files into DIR/{search}.")
    ] = None,
    mlflow: Annotated[
        str | None, typer.Option(metavar="URI", help="Log to this MLflow tracking server, database URI or folder.")
    ] = None,
    scheduler: Scheduler = SCHEDULER,
    as_json: AsJson = False,
    insecure: Insecure = False,
) -> None:
    """Export the trials that have ended as runs; at any time, and again: only what is new is added."""
    if tensorboard is None and not mlflow:
        raise Invalid("USAGE", "name --tensorboard DIR, --mlflow URI, or both; see nasmesh search export --help")
    from clients.cli.export.runs import runs_of

    with connect(scheduler, insecure=insecure) as client:
        search = client.get_search(name)
        runs = list(runs_of(list(client.list_trials(search.name))))
    told: dict[str, object] = {"search": search.name, "ended": len(runs)}
    if tensorboard is not None:
        from clients.cli.export.tensorboard import write_events

        folder = tensorboard / search.name.rpartition("/")[2]
        written = write_events(runs, folder, search.spec.objectives[0].metric)
        told["tensorboard"] = {"folder": str(folder), "written": written}
    if mlflow:
        from clients.cli.export.mlflow import log_runs

        uri = mlflow if ":" in mlflow else Path(mlflow).absolute().as_uri()
        logged = log_runs(runs, uri, search.name)
        told["mlflow"] = {"uri": uri, "experiment": search.name, "logged": logged}
    if as_json:
        print_json(told)
        return
    if tensorboard is not None:
        print_line(f"{folder}: {written} of {len(runs)} ended trials are new")
    if mlflow:
        print_line(f"{uri}, experiment {search.name}: {logged} of {len(runs)} ended trials are new")
        if uri.startswith("file:"):  # MLflow opens folders only for those who ask
            print_line(f"see them with: MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {uri}")
