"""Why nothing of a watched search happens: asked for now and then while no change comes, told when it is another."""

import threading
from collections.abc import Callable

from clients.cli.display.view import ENDED_STATES
from nasmesh.clock import Clock
from nasmesh.errors import NasmeshError
from nasmesh.v1.search_pb2 import Search

LOOK_S = 2.0
"""So long nothing has changed before somebody asks."""
_LONGEST_S = 30.0


class Waiting:
    """Asks on a thread of its own within a `with` block; `tell` hears a cause, and "" once there is none any more."""

    def __init__(self, ask: Callable[[], Search], tell: Callable[[str], None], clock: Clock) -> None:
        """Ask by `ask`, which returns the search as it is now or raises what a client raises."""
        self._ask = ask
        self._tell = tell
        self._clock = clock
        self._over = threading.Event()
        self._changed_s = clock.monotonic()
        self._pause_s = LOOK_S
        self._known = ""
        self._told = ""
        self._thread = threading.Thread(target=self._run, name="waiting", daemon=True)

    def __enter__(self) -> "Waiting":
        """Begin to ask."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ask no more; a question that is on its way is not waited for."""
        self._over.set()

    def changed(self, search: Search | None = None) -> None:
        """Note that something has happened; `search` as it was recorded then: its reason is not what it waits for."""
        self._changed_s = self._clock.monotonic()
        self._pause_s = LOOK_S
        if search is not None:
            self._known = search.reason
        self._say("")

    def look(self) -> None:
        """Ask, unless something has happened a moment ago."""
        before_s = self._changed_s
        if self._clock.monotonic() - before_s < LOOK_S:
            return
        try:
            found = self._ask()
        except NasmeshError:  # whoever watches hears of it
            return
        if self._over.is_set() or self._changed_s != before_s:
            return
        why = "" if found.state in ENDED_STATES else found.reason.removeprefix(self._known).removeprefix("; ")
        self._pause_s = LOOK_S if why != self._told else min(2 * self._pause_s, _LONGEST_S)
        self._say(why)

    def _say(self, why: str) -> None:
        if why != self._told:
            self._told = why
            self._tell(why)

    def _run(self) -> None:
        while not self._over.wait(self._pause_s):
            self.look()
