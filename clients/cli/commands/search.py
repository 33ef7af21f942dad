"""`nasmesh search`: create, list, show, watch, cancel."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    SearchName,
    connect,
)
from clients.cli.output import message_dict, print_json, print_line, print_messages, print_table
from nasmesh import exits

if TYPE_CHECKING:
    from nasmesh.client import Client
    from nasmesh.v1 import search_pb2

app = typer.Typer(help="Searches: create, look at, watch, cancel, get the best network.")


@app.command("create")
def create(  # noqa: PLR0913 - the flags of a command
    file: Annotated[Path, typer.Option("--file", "-f", metavar="SPEC", help="YAML specification, as in examples/.")],
    identifier: Annotated[str, typer.Option("--id", metavar="ID", help="Id of the search; chosen when left out.")] = "",
    overrides: Overrides = None,
    check: Annotated[bool, typer.Option("--check", help="Check the specification only; create nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Watch until the search has ended.")] = False,
    out: Out = None,
    force: Force = False,
    as_json: AsJson = False,
    scheduler: Scheduler = SCHEDULER,
    insecure: Insecure = False,
) -> None:
    """Create a search from a YAML file and start it; --out waits for the end and writes the report."""
    from nasmesh.client import read_spec

    spec = read_spec(file, overrides or ())
    wait = wait or out is not None
    if out is not None:
        from clients.cli.report.folder import check_folder

        check_folder(out, force=force)  # now, not after an hour of searching
    patience = WATCH_PATIENCE_S if wait and not check else None
    with connect(scheduler, insecure=insecure) as client:
        found = client.create_search(spec, search_id=identifier, validate_only=check)
    if check or not wait:
        tell_created(found, check=check, as_json=as_json)
        return
    with connect(scheduler, insecure=insecure, patience_s=patience or WATCH_PATIENCE_S) as client:
        if not as_json:
            print_line(f"{found.name} is created; Ctrl-C leaves it running")
        raise typer.Exit(finish(client, found.name, out=out, force=force, as_json=as_json))


def tell_created(found: "search_pb2.Search", *, check: bool, as_json: bool) -> None:
    """Print what became of a specification: created, or checked only."""
    if as_json:
        print_json(message_dict(found))
    elif check:
        print_line("the specification is right; nothing was created")
    else:
        print_line(f"{found.name} is created; watch it with: nasmesh search watch {found.name.partition('/')[2]}")


def finish(client: "Client", name: str, *, out: Path | None, force: bool, as_json: bool) -> int:
    """Watch a search to its end, write its report where asked, print the summary and return the exit code."""
    from clients.cli.display.follow import follow_search
    from clients.cli.display.summary import summary_json, summary_lines
    from clients.cli.report.folder import write_report
    from nasmesh.v1 import search_pb2

    view = follow_search(client, name, stream=sys.stderr if as_json else None)
    ended = client.get_search(name)
    written = None
    if out is not None and ended.state == search_pb2.SEARCH_STATE_SUCCEEDED:
        written = write_report(client, name, out, force=force)
    if as_json:
        print_json(summary_json(ended, view, written))
    else:
        for line in summary_lines(ended, view, written):
            print_line(line)
    return exits.OK if ended.state == search_pb2.SEARCH_STATE_SUCCEEDED else exits.FAILED


@app.command("list")
def list_searches(
    filter: Annotated[str, typer.Option(help='For example "state=RUNNING" or "label.team=a".')] = "",
    as_json: AsJson = False,
    scheduler: Scheduler = SCHEDULER,
    insecure: Insecure = False,
) -> None:
    """List searches, newest first."""
    from clients.cli.display.view import short, state_word

    with connect(scheduler, insecure=insecure) as client:
        found = list(client.list_searches(filter=filter))
    if as_json:
        print_messages(found)
        return
    rows = [
        (
            short(item.name),
            state_word(item),
            short(item.spec.generator.generator),
            short(item.spec.data.dataset),
            str(item.iterations),
            str(item.trials.succeeded),
            item.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M"),
        )
        for item in found
    ]
    headers = ("search", "state", "generator", "data", ">iterations", ">scored", "created (UTC)")
    print_table(headers, rows, empty="there is no search yet; create one with: nasmesh search create -f SPEC")


@app.command("show")
def show(
    search: SearchName, as_json: AsJson = False, scheduler: Scheduler = SCHEDULER, insecure: Insecure = False
) -> None:
    """Show a search and its trials."""
    with connect(scheduler, insecure=insecure) as client:
        found = client.get_search(search)
        trials = list(client.list_trials(search))
    if as_json:
        print_json(message_dict(found) | {"trialList": [message_dict(trial) for trial in trials]})
        return
    from clients.cli.display.show import print_search

    print_search(found, trials)


@app.command("watch")
def watch(
    search: SearchName,
    after: Annotated[int, typer.Option(min=0, help="Only changes after this sequence number (with --json).")] = 0,
    as_json: AsJson = False,
    scheduler: Scheduler = SCHEDULER,
    insecure: Insecure = False,
) -> None:
    """Watch a search until it ends; --json prints one JSON object a line for every change."""
    with connect(scheduler, insecure=insecure, patience_s=WATCH_PATIENCE_S) as client:
        if not as_json:
            raise typer.Exit(finish(client, search, out=None, force=False, as_json=False))
        import json

        for change in client.watch(search, after):
            print_line(json.dumps(message_dict(change), ensure_ascii=False))


@app.command("cancel")
def cancel(
    search: SearchName, as_json: AsJson = False, scheduler: Scheduler = SCHEDULER, insecure: Insecure = False
) -> None:
    """Cancel a search; what has been measured stays."""
    from clients.cli.display.view import state_word

    with connect(scheduler, insecure=insecure) as client:
        found = client.cancel_search(search)
    if as_json:
        print_json(message_dict(found))
    else:
        print_line(f"{found.name} is {state_word(found)}; {found.trials.succeeded} trials were scored")
