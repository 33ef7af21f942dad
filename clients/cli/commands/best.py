"""`nasmesh search best`: the best network so far in every form, with its card and its report."""

from typing import Annotated

import typer

from clients.cli.options import SCHEDULER, AsJson, Force, Insecure, Out, Scheduler, SearchName, connect
from clients.cli.output import print_json, print_line
from nasmesh.errors import Invalid


def register(searches: typer.Typer) -> None:
    """Add the command to `nasmesh search`."""
    searches.command("best")(best)


def best(  # noqa: PLR0913 - the flags of a command
    search: SearchName,
    out: Out = None,
    opset: Annotated[
        int, typer.Option(metavar="N", help="Version of ONNX's operator set of best.onnx, 16 to 23; 0: as trained.")
    ] = 0,
    int8: Annotated[
        bool, typer.Option("--int8", help="Make and score an 8-bit copy where the search made none; needs its data.")
    ] = False,
    force: Force = False,
    as_json: AsJson = False,
    scheduler: Scheduler = SCHEDULER,
    insecure: Insecure = False,
) -> None:
    """Say which network is the best so far, also while the search runs, and with --out write all of it.

    That is ONNX, PyTorch, checkpoint, model card and report.
    """
    if out is None and (opset or int8 or force):
        raise Invalid("OUT_MISSING", "--out: say which folder gets best.onnx and the report", field="out")
    from clients.cli.display.summary import summary_json, summary_lines
    from clients.cli.display.view import view_of

    with connect(scheduler, insecure=insecure) as client:
        written = None
        if out is None:
            client.best(search)  # refused as with --out where there is none yet
        else:
            from clients.cli.report.artefacts import Wanted
            from clients.cli.report.folder import write_report

            written = write_report(client, search, out, force=force, wanted=Wanted(opset=opset, int8=int8))
        found = client.get_search(search)
        view = view_of(found, client.list_trials(search))
    if as_json:
        print_json(summary_json(found, view, written))
        return
    for line in summary_lines(found, view, written):
        print_line(line)
