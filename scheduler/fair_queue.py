"""Queued tasks of one kind that need the same, in the order of fairness. Pure bookkeeping in memory.

The highest priority first; among equals the search with the fewest running tasks of the kind, so that searches share
the agents whatever the lengths of their queues; then the one that was served longest ago, so that they share a single
slot as well; then the one whose first task is oldest. Within a search: first in, first out. Adding, taking and moving a
search cost no more than a heap's.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

# A search's place in line: priority turned round, tasks of the kind that run, its latest turn, order of its first task,
# its id.
Place = tuple[int, int, int, int, str]

# Places that were left are dropped when they come up; beyond this many for each search the line is made anew.
_STALE = 4


@dataclass(slots=True)
class _Waiting:
    """The tasks of one search that wait: (order, id), oldest first."""

    priority: int
    rows: list[tuple[int, str]] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)


class FairQueue:
    """Tasks by search. `running` tells how many tasks of the kind a search has at work, `served` its latest turn."""

    def __init__(self, running: Callable[[str], int], served: Callable[[str], int]) -> None:
        """Hold nothing."""
        self._running = running
        self._served = served
        self._searches: dict[str, _Waiting] = {}
        self._line: list[Place] = []
        self._moved: set[str] = set()

    def add(self, search: str, priority: int, order: int, task: str) -> None:
        """Queue a task; one that waits already is left as it is."""
        waiting = self._searches.get(search)
        if waiting is None:
            waiting = self._searches[search] = _Waiting(priority)
        if task in waiting.ids:
            return
        waiting.priority = priority
        waiting.ids.add(task)
        heapq.heappush(waiting.rows, (order, task))
        if waiting.rows[0][1] == task:
            self.move(search)

    def move(self, search: str, priority: int | None = None) -> None:
        """Put a search where it belongs, after its running tasks or its priority changed."""
        waiting = self._searches.get(search)
        if waiting is None:
            return
        if priority is not None:
            waiting.priority = priority
        self._moved.add(search)

    def forget(self, search: str) -> None:
        """Drop all tasks of a search."""
        self._searches.pop(search, None)

    def first(self, is_queued: Callable[[str], bool]) -> Place | None:
        """Return the place of the search that comes first, or nothing where no task waits.

        Tasks that are not queued any more are dropped on the way.
        """
        if self._moved:
            self._settle()
        while self._line:
            place = self._line[0]
            waiting = self._searches.get(place[4])
            if waiting is None:
                heapq.heappop(self._line)
            elif not is_queued(waiting.rows[0][1]):
                self._drop(place[4], waiting)
                self._settle()
            elif place != self._place(place[4], waiting):
                heapq.heappop(self._line)
            else:
                return place
        return None

    def head(self, search: str) -> str:
        """Return the first task of a search that may wait; "" where none does."""
        waiting = self._searches.get(search)
        return waiting.rows[0][1] if waiting is not None else ""

    def take(self, search: str) -> str:
        """Remove and return the first task of a search that waits."""
        return self._drop(search, self._searches[search])

    def __bool__(self) -> bool:
        """Say whether anything may wait."""
        return bool(self._searches)

    def _settle(self) -> None:
        """Put the searches in line that were moved since somebody looked: often, in between."""
        for search in self._moved:
            waiting = self._searches.get(search)
            if waiting is not None:
                heapq.heappush(self._line, self._place(search, waiting))
        self._moved.clear()
        if len(self._line) > _STALE * (len(self._searches) + 16):
            self._line = [self._place(name, other) for name, other in self._searches.items()]
            heapq.heapify(self._line)

    def _place(self, search: str, waiting: _Waiting) -> Place:
        return (-waiting.priority, self._running(search), self._served(search), waiting.rows[0][0], search)

    def _drop(self, search: str, waiting: _Waiting) -> str:
        _, task = heapq.heappop(waiting.rows)
        waiting.ids.discard(task)
        if waiting.rows:
            self.move(search)
        else:
            del self._searches[search]
        return task
