"""What the journal holds besides events, so that a start need not replay them all: written in small pieces.

A trial that ends is written with its tasks in the transaction of the event that ended it, once. What is open is written
as it stood some thousand events before: a start then replays at least so many, and watchers find the changes of those
as they were before the restart. It is taken and written several times in as many events, so that no step takes long.
"""

from collections import deque
from typing import NamedTuple

from nasmesh.v1 import search_pb2
from scheduler.domain import OPEN_TASKS, SearchRun, State, Task
from scheduler.journal import codec, ended
from scheduler.journal.base import Journal

# So often the state is taken within the events that a start replays at least.
PARTS = 4
# A scheduler that is restarted again and again before a snapshot's time comes writes one after so many times as much.
LATE = 4
# Trials that ended last and are kept as values: their results go to the generator and their tasks are asked for again.
RECENT = 256


class _Ended(NamedTuple):
    """Something that ended a while ago, and the bytes that it is kept as from now on."""

    search: str
    trial: int
    tasks: tuple[str, ...]
    trial_body: bytes
    tasks_body: bytes


class Snapshots:
    """The rows of one state that wait to be written, and the values that wait to become bytes."""

    def __init__(self) -> None:
        """Hold nothing; use load, once."""
        self._at = 0
        self._taken_at = 0
        self._taken: deque[tuple[int, dict[str, bytes]]] = deque()
        self._fresh: dict[str, bytes] = {}
        self._gone: dict[str, None] = {}
        self._stored: set[str] = set()
        self._written: set[str] = set()
        self._recent: deque[_Ended] = deque()

    def load(self, journal: Journal) -> tuple[int, State]:
        """Return the sequence number and the state that a journal's snapshot stands at; `loaded` follows the replay.

        Raises Invalid (JOURNAL_CORRUPT), Unavailable (JOURNAL_IO).
        """
        self._at, rows = journal.snapshot()
        self._taken_at = self._at
        found = codec.read_rows(rows)
        self._written, self._stored, state = found.later, found.alone, found.state
        if state.sequence != self._at:
            raise codec.unreadable(f"the snapshot, which says {state.sequence} and {self._at},")
        for run in state.searches.values():
            for number, trial in run.trials.values_by_number():
                if trial.outcome:  # from when each row was for itself: it becomes what it would be today
                    self.end_trial(state, run, number, trial, trial.SerializeToString())
        for key in [key for key in self._stored if not _is_open(state, key)]:
            self._stored.remove(key)
            self._gone[key] = None
        return self._at, state

    def loaded(self) -> None:
        """Note that the events after the snapshot are replayed: what ends from now on is in no row yet."""
        self._written.clear()

    # --- as events come ------------------------------------------------------------------------------------------

    def end_trial(self, state: State, run: SearchRun, number: int, trial: search_pb2.Trial, body: bytes) -> None:
        """Take note of a trial that has ended: a row for the journal now, bytes for the memory later."""
        names_of = ended.task_ids(run.id, number, len(trial.rungs))
        tasks = [state.tasks[name] for name in names_of if state.tasks.holds(name)]
        tasks_body = ended.encode_tasks(tasks)
        key = ended.row_key(run.id, number)
        if key not in self._written:
            self._fresh[key] = ended.encode(state.sequence, trial.outcome, body, tasks_body)
        names = tuple([task.id for task in tasks])
        for key in (f"trial/{run.id}/{number}", *["task/" + name for name in names]):
            state.dirty.pop(key, None)
            if key in self._stored:
                self._stored.remove(key)
                self._gone[key] = None
        self._keep(state, _Ended(run.id, number, names, body, tasks_body))

    def end_task(self, state: State, task: Task) -> None:
        """Take note of a task of no trial that has ended."""
        self._keep(state, _Ended(task.search, 0, (task.id,), b"", b""))

    def _keep(self, state: State, what: _Ended) -> None:
        self._recent.append(what)
        if len(self._recent) > RECENT:
            _freeze(state, self._recent.popleft())

    # --- writing -------------------------------------------------------------------------------------------------

    def rows(self, state: State, every: int) -> tuple[dict[str, bytes], int]:
        """Return the rows that the next transaction writes, and where the snapshot stands with them (0: where it did).

        `every`: events before the newest at which the snapshot stands at least.
        """
        rows, self._fresh = self._fresh, {}
        if state.sequence - self._taken_at >= max(1, every // PARTS):
            self._taken.append((state.sequence, self._take(state)))
            self._taken_at = state.sequence
        if not self._taken:
            return rows, 0
        at = self._taken[0][0]
        if state.sequence - at < every and state.sequence - self._at < LATE * every:
            return rows, 0
        _, taken = self._taken.popleft()
        self._at = at
        return {**taken, **rows}, at

    def _take(self, state: State) -> dict[str, bytes]:
        rows = dict.fromkeys(self._gone, b"")
        self._gone.clear()
        for key in state.dirty:
            body = codec.encode_row(state, key)
            rows[key] = body
            if key.startswith(("trial/", "task/")):
                if body:
                    self._stored.add(key)
                else:
                    self._stored.discard(key)
            if not body and key.startswith("trial/"):
                search, _, number = key.removeprefix("trial/").partition("/")
                rows[ended.row_key(search, int(number))] = b""
        state.dirty.clear()
        rows["state"] = codec.encode_row(state, "state")
        return rows


def _is_open(state: State, key: str) -> bool:
    kind, _, rest = key.partition("/")
    if kind == "task":
        return state.tasks.holds(rest)
    search, _, number = rest.rpartition("/")
    return not state.searches[search].trials.is_frozen(int(number))


def _freeze(state: State, what: _Ended) -> None:
    run = state.searches.get(what.search)
    if run is None:  # deleted
        return
    if what.trial:
        run.trials.freeze(what.trial, what.trial_body)
        state.tasks.freeze(what.search, what.trial, what.tasks, what.tasks_body)
        return
    for name in what.tasks:
        if state.tasks.holds(name) and state.tasks[name].state not in OPEN_TASKS:
            state.tasks.freeze_alone(what.search, name, ended.encode_tasks([state.tasks[name]]))
