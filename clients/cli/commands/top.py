"""`nasmesh top`: what the mesh is doing, live: queue, searches, agents, rates."""

import json
import shutil
import sys
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from clients.cli.options import SCHEDULER, AsJson, Insecure, Scheduler, connect
from clients.cli.output import message_dict
from nasmesh.clock import Clock, SystemClock
from nasmesh.errors import Unavailable

if TYPE_CHECKING:
    from clients.cli.display.moment import Moment, Rates
    from nasmesh.client import Client

# Where nobody sees the width of the other end.
_PIPE_COLUMNS = 120
# Between two looks nobody waits for a scheduler that is away: the display says so instead.
_PATIENCE_S = 0.5


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("top")(top)


def top(
    scheduler: Scheduler = SCHEDULER,
    once: Annotated[bool, typer.Option("--once", help="Print one moment and end.")] = False,
    every: Annotated[float, typer.Option("--every", min=0.2, max=3600.0, metavar="S", help="Look so often.")] = 2.0,
    as_json: AsJson = False,
    insecure: Insecure = False,
) -> None:
    """Show what the mesh is doing: tasks by kind, agents, searches, rates. Ctrl-C ends it.

    With --json one object a look, on a line of its own; in a pipe, plain text a look.
    """
    from clients.cli.display.moment import look

    clock = SystemClock()
    if once:
        with connect(scheduler, insecure=insecure) as client:
            _print(look(client, clock), None, scheduler, as_json=as_json)
        return
    with connect(scheduler, insecure=insecure, patience_s=_PATIENCE_S) as client:
        if as_json or not sys.stdout.isatty():
            _print_each(client, clock, scheduler, every, as_json=as_json)
        else:
            _live(client, clock, scheduler, every)


def _print_each(client: "Client", clock: Clock, address: str, every_s: float, *, as_json: bool) -> None:
    """Print a moment now and then; a scheduler that is away is a line on standard error."""
    from clients.cli.display.moment import look, rates

    before: Moment | None = None
    while True:
        try:
            now = look(client, clock)
        except Unavailable as error:
            sys.stderr.write(f"{error.message}\n")
        else:
            _print(now, rates(before, now), address, as_json=as_json)
            before = now
        _pause(every_s)


def _live(client: "Client", clock: Clock, address: str, every_s: float) -> None:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

    from clients.cli.display.moment import look, rates
    from clients.cli.display.top import render

    console = Console(highlight=False)
    before: Moment | None = None
    speed: Rates | None = None
    shown: RenderableType = Text(f"asking {address} …")
    with Live(shown, console=console, auto_refresh=False, screen=True) as live:
        while True:
            try:
                now = look(client, clock)
            except Unavailable as error:
                shown = Text(error.message, style="red")
                if before is not None:
                    away_s = clock.monotonic() - before.at_s
                    shown = render(before, None, address=address, rows=console.height, away_s=away_s)
            else:
                speed = rates(before, now) or speed
                shown = render(now, speed, address=address, rows=console.height)
                before = now
            live.update(shown, refresh=True)
            _pause(every_s)


def _print(moment: "Moment", speed: "Rates | None", address: str, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(_as_dict(moment, speed, address), ensure_ascii=False) + "\n")
    else:
        from rich.console import Console

        from clients.cli.display.top import render

        on_terminal = sys.stdout.isatty()
        console = Console(width=shutil.get_terminal_size().columns if on_terminal else _PIPE_COLUMNS, highlight=False)
        if on_terminal:
            console.print(render(moment, speed, address=address))
        else:
            with console.capture() as printed:
                console.print(render(moment, speed, address=address))
            sys.stdout.writelines(f"{line.rstrip()}\n" for line in printed.get().splitlines())
    sys.stdout.flush()


def _as_dict(moment: "Moment", speed: "Rates | None", address: str) -> dict[str, object]:
    per_second = None
    if speed is not None:
        per_second = {"tasks": speed.tasks, "events": speed.events, "commits": speed.commits}
    return {
        "address": address,
        "time": moment.wall_s,
        "scheduler": message_dict(moment.info),
        "perSecond": per_second,
        "searches": [message_dict(search) for search in moment.searches],
        "agents": [message_dict(agent) for agent in moment.agents],
    }


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)
