"""Puts the rows of a snapshot together into a state."""

from collections.abc import Callable

from nasmesh.v1 import journal_pb2 as pb
from nasmesh.v1 import search_pb2
from scheduler.cold import Trials
from scheduler.domain import OPEN_TASKS, RESULTS_CHUNK, SearchRun, State, Task, TaskState
from scheduler.journal import ended
from scheduler.journal.records import search_of, task_of
from scheduler.machine import reuse


class Rows:
    """What was read so far. `read` and `state` raise DecodeError, ValueError and LookupError for rows of no sense."""

    def __init__(self) -> None:
        """Hold nothing."""
        self._state = State()
        self._state.tasks.read_by(ended.decode_tasks)
        self._runs: dict[str, SearchRun] = {}
        self._trials: dict[str, dict[int, search_pb2.Trial]] = {}
        self._ended: list[ended.EndedTrial] = []
        self._tasks: list[tuple[int, Task | None, str, bytes]] = []
        self._results: dict[str, dict[int, pb.ResultsRecord]] = {}
        self._networks: list[tuple[int, str, bytes]] = []
        self._read: dict[str, Callable[[str, bytes], None]] = {
            "state": self._read_state,
            "search": self._read_search,
            "trial": self._read_trial,
            "ended": self._read_ended,
            "task": self._read_task,
            "measured": self._read_measured,
            "results": self._read_results,
            "network": self._read_network,
        }
        self._measured: list[tuple[str, int, bytes]] = []

    def read(self, kind: str, key: str, body: bytes) -> None:
        """Take a row in; `key` is what follows its kind."""
        self._read[kind](key, body)

    def state(self) -> State:
        """Return the state, once all rows are read."""
        state = self._state
        self._ended = [row for row in self._ended if row.sequence <= state.sequence]
        self._put_searches()
        self._put_trials()
        self._put_results()
        for search, chunk, digests in self._measured:
            state.searches[search].measured[chunk] = bytearray(digests)
        for run in state.searches.values():
            state.measured.update(reuse.index(run))
        for index, name, body in sorted(self._networks):
            state.network_names.extend([""] * (index - len(state.network_names)))
            state.network_names.append(name)
            state.networks.put(name, body)
        return state

    # --- reading -------------------------------------------------------------------------------------------------

    def _read_state(self, _key: str, body: bytes) -> None:
        record, state = pb.StateRecord.FromString(body), self._state
        state.epoch, state.sequence = record.epoch, record.sequence
        state.uptime_s, state.tasks_created = record.uptime_s, record.tasks_created
        state.drained = {agent: agent in record.releasing_agents for agent in record.drained_agents}
        state.deleted = dict.fromkeys(record.deleted_searches)

    def _read_search(self, key: str, body: bytes) -> None:
        self._runs[key] = search_of(pb.SearchRecord.FromString(body))

    def _read_trial(self, key: str, body: bytes) -> None:
        trial = search_pb2.Trial.FromString(body)
        self._trials.setdefault(key.rpartition("/")[0], {})[trial.number] = trial

    def _read_ended(self, key: str, body: bytes) -> None:
        self._ended.append(ended.decode(key, body))

    def _read_task(self, key: str, body: bytes) -> None:
        record = pb.TaskRecord.FromString(body)
        if record.trial or TaskState(record.state) in OPEN_TASKS:
            self._tasks.append((record.order, task_of(record), record.search_id, b""))
        else:  # an answered question of a generator: there may be as many as trials
            frozen = pb.TaskRecords(tasks=[record]).SerializeToString()
            self._tasks.append((record.order, None, record.search_id, frozen))
            self._state.tasks.freeze_alone(record.search_id, key, frozen)

    def _read_measured(self, key: str, body: bytes) -> None:
        search, _, chunk = key.rpartition("/")
        self._measured.append((search, int(chunk), pb.MeasuredRecord.FromString(body).digests))

    def _read_results(self, key: str, body: bytes) -> None:
        search, _, chunk = key.rpartition("/")
        self._results.setdefault(search, {})[int(chunk)] = pb.ResultsRecord.FromString(body)

    def _read_network(self, key: str, body: bytes) -> None:
        self._networks.append((int(key), search_pb2.Network.FromString(body).name, body))

    # --- putting together ----------------------------------------------------------------------------------------

    def _put_searches(self) -> None:
        """Put searches in the order of creation, which their first task tells; a generator's, which has its own row."""
        self._tasks.sort(key=lambda row: row[0])
        searches = self._state.searches
        for _, task, search, _ in self._tasks:
            if search not in searches:
                searches[search] = self._runs[search]
            if task is not None:
                self._state.tasks[task.id] = task
                if task.state in OPEN_TASKS:
                    searches[search].open_tasks[task.id] = None

    def _put_trials(self) -> None:
        numbered: dict[str, dict[int, search_pb2.Trial | bytes]] = {
            search: dict(trials) for search, trials in self._trials.items()
        }
        for row in self._ended:
            numbered.setdefault(row.search, {})[row.number] = row.trial
            outcomes = self._runs[row.search].outcomes
            outcomes[row.outcome] = outcomes.get(row.outcome, 0) + 1
            names = ended.task_ids(row.search, row.number)
            self._state.tasks.freeze(row.search, row.number, names, row.tasks)
        for search, items in numbered.items():
            run = self._runs[search]
            run.trials = Trials([items[number] for number in range(1, len(items) + 1)])
            for _, trial in run.trials.values_by_number():
                if trial.outcome:
                    run.outcomes[trial.outcome] = run.outcomes.get(trial.outcome, 0) + 1
                else:
                    run.active += 1

    def _put_results(self) -> None:
        """Put results together; those of a journal from before they had rows are written anew."""
        for search, run in self._runs.items():
            chunks = self._results.get(search, {})
            if not chunks and run.results:
                for chunk in range(-(-len(run.results) // RESULTS_CHUNK)):
                    self._state.dirty[f"results/{search}/{chunk}"] = None
                continue
            run.results = [number for chunk in range(len(chunks)) for number in chunks[chunk].trials]
