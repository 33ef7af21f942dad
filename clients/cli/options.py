"""Options that several commands share, and the client they open."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clients.cli.access_options import client_access
from nasmesh.settings import DEFAULT_SCHEDULER

if TYPE_CHECKING:
    from nasmesh.client import Client

Scheduler = Annotated[
    str,
    typer.Option(
        "--scheduler",
        envvar="NASMESH_SCHEDULER",
        metavar="HOST:PORT",
        help="Address of the scheduler; more with commas.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object or array, for scripts.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Allow plain text to a host other than this one.")]
SearchName = Annotated[str, typer.Argument(metavar="SEARCH", help='Id of the search, or "searches/{id}".')]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Folder for best.onnx, report.md and growth.png; {search} is replaced."),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files in DIR that are not from an earlier report.")]
Overwrite = Annotated[bool, typer.Option("--force", help="Overwrite FILE.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Override one field, for example train.epochs=2. Repeatable."),
]

SCHEDULER = DEFAULT_SCHEDULER
# A person at a terminal should hear of a scheduler that is not there before they wonder.
PATIENCE_S = 2.0
# A watched search outlives a scheduler that is restarted.
WATCH_PATIENCE_S = 60.0


def connect(scheduler: str, *, insecure: bool, patience_s: float = PATIENCE_S) -> "Client":
    """Open a client; gRPC is imported only now, so that --help stays quick."""
    from nasmesh.client import Client

    return Client(scheduler, insecure=insecure, access=client_access(), patience_s=patience_s)
