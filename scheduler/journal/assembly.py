"""Puts the rows of a snapshot together into a state."""

from collections.abc import Callable

from nasmesh.v1 import dataset_pb2, search_pb2
from nasmesh.v1 import journal_pb2 as pb
from scheduler.cold import Trials
from scheduler.domain import OPEN_TASKS, RESULTS_CHUNK, SearchRun, SearchState, State, Task, TaskState
from scheduler.journal import ended
from scheduler.journal.records import search_of, task_of
from scheduler.ladder import ladder_of
from scheduler.machine import reuse


class Rows:
    """Rows as they come, then the `state` that they describe.

    `read` takes in a row: by its kind, with the rest of its key and its body. `later` are keys of trials that ended
    after the snapshot; `alone` those of the rows of one trial or one task of a trial. What is called here raises
    DecodeError, ValueError and LookupError for rows of no sense.
    """

    def __init__(self) -> None:
        """Hold nothing."""
        self.state = State()
        self.state.tasks.read_by(ended.decode_tasks)
        self.later: set[str] = set()
        self.alone: set[str] = set()
        self._runs: dict[str, SearchRun] = {}
        self._trials: dict[str, dict[int, search_pb2.Trial]] = {}
        self._ended: list[tuple[str, pb.EndedRecord]] = []
        self._tasks: list[tuple[int, Task | None, str, bytes]] = []
        self._results: dict[str, dict[int, pb.ResultsRecord]] = {}
        self._networks: list[tuple[int, str, bytes]] = []
        self.read: dict[str, Callable[[str, bytes], None]] = {
            "state": self._read_state,
            "search": self._read_search,
            "trial": self._read_trial,
            "ended": self._read_ended,
            "task": self._read_task,
            "measured": self._read_measured,
            "results": self._read_results,
            "network": self._read_network,
            "dataset": self._read_dataset,
        }
        self._measured: list[tuple[str, int, pb.MeasuredRecord]] = []

    def assemble(self) -> None:
        """Make the state, once all rows are read."""
        state = self.state
        self._put_searches()
        self._put_trials()
        self._put_results()
        for search, chunk, record in self._measured:
            run = state.searches[search]
            if record.digests:
                run.measured[chunk] = bytearray(record.digests)
            if record.repeats:
                run.repeats[chunk] = bytearray(record.repeats)
        for run in state.searches.values():
            reuse.restore(state, run)
            if run.state is SearchState.RUNNING:
                run.ladder = ladder_of(run.spec, run.trials)
        for index, name, body in sorted(self._networks):
            state.network_names.extend([""] * (index - len(state.network_names)))
            state.network_names.append(name)
            state.networks.put(name, body)

    # --- reading -------------------------------------------------------------------------------------------------

    def _read_state(self, _key: str, body: bytes) -> None:
        record, state = pb.StateRecord.FromString(body), self.state
        state.epoch, state.sequence = record.epoch, record.sequence
        state.uptime_s, state.tasks_created = record.uptime_s, record.tasks_created
        state.drained = {agent: agent in record.releasing_agents for agent in record.drained_agents}
        state.deleted = dict.fromkeys(record.deleted_searches)
        state.rules = record.rules

    def _read_search(self, key: str, body: bytes) -> None:
        self._runs[key] = search_of(pb.SearchRecord.FromString(body))

    def _read_trial(self, key: str, body: bytes) -> None:
        self.alone.add("trial/" + key)
        trial = search_pb2.Trial.FromString(body)
        self._trials.setdefault(key.rpartition("/")[0], {})[trial.number] = trial

    def _read_ended(self, key: str, body: bytes) -> None:
        self._ended.append((key, pb.EndedRecord.FromString(body)))

    def _read_task(self, key: str, body: bytes) -> None:
        record = pb.TaskRecord.FromString(body)
        if record.trial or TaskState(record.state) in OPEN_TASKS:
            self.alone.add("task/" + key)
            self._tasks.append((record.order, task_of(record), record.search_id, b""))
        else:  # an answered question of a generator: there may be as many as trials
            frozen = pb.TaskRecords(tasks=[record]).SerializeToString()
            self._tasks.append((record.order, None, record.search_id, frozen))
            self.state.tasks.freeze_alone(record.search_id, key, frozen)

    def _read_measured(self, key: str, body: bytes) -> None:
        search, _, chunk = key.rpartition("/")
        self._measured.append((search, int(chunk), pb.MeasuredRecord.FromString(body)))

    def _read_results(self, key: str, body: bytes) -> None:
        search, _, chunk = key.rpartition("/")
        self._results.setdefault(search, {})[int(chunk)] = pb.ResultsRecord.FromString(body)

    def _read_network(self, key: str, body: bytes) -> None:
        self._networks.append((int(key), _name_of(body), body))

    def _read_dataset(self, _key: str, body: bytes) -> None:
        dataset = dataset_pb2.Dataset.FromString(body)
        self.state.datasets[dataset.name] = dataset

    # --- putting together ----------------------------------------------------------------------------------------

    def _put_searches(self) -> None:
        """Put searches in the order of creation, which their first task tells; a generator's, which has its own row."""
        self._tasks.sort(key=lambda row: row[0])
        searches = self.state.searches
        for _, task, search, _ in self._tasks:
            if search not in searches:
                searches[search] = self._runs[search]
            if task is not None:
                self.state.tasks[task.id] = task
                if task.state in OPEN_TASKS:
                    searches[search].open_tasks[task.id] = None

    def _put_trials(self) -> None:
        numbered: dict[str, dict[int, search_pb2.Trial | bytes]] = {
            search: dict(trials) for search, trials in self._trials.items()
        }
        tasks: dict[str, dict[int, bytes]] = {}
        last = self.state.sequence
        for key, record in self._ended:
            if record.sequence > last:
                self.later.add("ended/" + key)
                continue
            search, _, digits = key.rpartition("/")
            if search not in tasks:
                tasks[search] = {}
                numbered.setdefault(search, {})
            number, outcome = int(digits), record.outcome
            numbered[search][number] = record.trial
            tasks[search][number] = record.tasks
            outcomes = self._runs[search].outcomes
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
        self._ended.clear()
        self.state.tasks.restore(tasks)
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
                    self.state.dirty[f"results/{search}/{chunk}"] = None
                continue
            run.results = [number for chunk in range(len(chunks)) for number in chunks[chunk].trials]


def _name_of(network: bytes) -> str:
    """Return the name of a network from its bytes, of which it is the first field, shorter than 128."""
    if network[:1] == b"\x0a" and network[1] < 128:
        return network[2 : 2 + network[1]].decode()
    return search_pb2.Network.FromString(network).name
