"""Watches a search to its end: live on a terminal, plain lines in a pipe."""

import sys
import threading
from collections.abc import Iterable
from typing import TextIO

from rich.console import Console, RenderableType
from rich.live import Live

from clients.cli.display.lines import PlainLines
from clients.cli.display.render import render
from clients.cli.display.view import SearchView
from clients.cli.display.waiting import Waiting
from nasmesh.client import Client
from nasmesh.clock import Clock, SystemClock

_FRAMES_PER_S = 4


def follow_search(client: Client, name: str, *, stream: TextIO | None = None, clock: Clock | None = None) -> SearchView:
    """Show a search until it ends and return what was seen; `stream` is stdout unless given.

    Raises what Client.watch raises.
    """
    out = stream or sys.stdout
    time = clock or SystemClock()
    console = Console(file=out, highlight=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return _follow_live(client, name, console, time)
    return _follow_lines(client, name, out, time)


def _follow_lines(client: Client, name: str, out: TextIO, clock: Clock) -> SearchView:
    view, lines = SearchView(), PlainLines(clock)
    lock = threading.Lock()

    def write(said: Iterable[str]) -> None:
        for line in said:
            out.write(line + "\n")
            out.flush()

    def wait(why: str) -> None:
        with lock:
            write(lines.waiting(view, why))

    with Waiting(lambda: client.get_search(name), wait, clock) as waiting:
        for change in client.watch(name):
            waiting.changed(change.search if change.HasField("search") else None)
            with lock:
                write(lines.describe(view, change))
                view.apply(change)
    return view


def _follow_live(client: Client, name: str, console: Console, clock: Clock) -> SearchView:
    view = SearchView()
    lock = threading.Lock()  # rich draws from a thread of its own

    def draw() -> RenderableType:
        with lock:
            return render(view, clock=clock)

    def wait(why: str) -> None:
        with lock:
            view.waits = why

    with (
        Live(get_renderable=draw, console=console, refresh_per_second=_FRAMES_PER_S, transient=False) as live,
        Waiting(lambda: client.get_search(name), wait, clock) as waiting,
    ):
        for change in client.watch(name):
            waiting.changed(change.search if change.HasField("search") else None)
            with lock:
                view.apply(change)
        view.waits = ""
        live.refresh()
    return view
