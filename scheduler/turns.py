"""In which order commands that wait are run: fair by work, so that who says little does not wait for who says much.

Self-clocked fair queueing (Golestani, "A self-clocked fair queueing scheme for broadband applications", INFOCOM 1994,
section III): a command is tagged with the work that its line will have had by its end, counted from what is served when
it comes; the lowest tag goes first. No line waits for ever, and each line's commands keep their order.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import TypeAlias

Command: TypeAlias = Callable[[], object]
Done: TypeAlias = Callable[[object], None]


class Line:
    """Commands of one sender, which run in their order."""

    __slots__ = ("__weakref__", "tag")

    def __init__(self) -> None:
        """Begin with nothing said."""
        self.tag = 0


class Turns:
    """Commands that wait for a step."""

    def __init__(self) -> None:
        """Hold none."""
        self._waiting: list[tuple[int, int, Command, Done, int, Line | None]] = []
        self._number = 0
        self._served = 0

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def add(self, command: Command, done: Done, work: int, line: Line | None) -> None:
        """Queue a command worth `work` commands of the usual size; without a line, it waits behind nobody's others."""
        tag = self._served + work
        if line is not None:
            tag = line.tag = max(self._served, line.tag) + work
        self._number += 1  # equal tags go in the order of coming
        # The line is kept as long as anything in it waits: whoever holds it weakly finds it until then.
        heappush(self._waiting, (tag, self._number, command, done, work, line))

    def take(self, most: int) -> tuple[list[tuple[Command, Done]], int]:
        """Return the next commands, until they are worth `most` or none is left, and what they are worth."""
        taken: list[tuple[Command, Done]] = []
        worth = 0
        while self._waiting and worth < most:
            tag, _, command, done, work, _ = heappop(self._waiting)
            self._served = max(self._served, tag)
            taken.append((command, done))
            worth += work
        return taken, worth

    def give_up(self) -> list[Done]:
        """Forget all that wait and return whom to tell, in the order of coming."""
        left = sorted(self._waiting, key=lambda entry: entry[1])
        self._waiting.clear()
        return [done for _, _, _, done, _, _ in left]
