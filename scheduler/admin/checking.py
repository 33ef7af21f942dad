"""`admin check`: reads a whole journal, live or copied, and says everything that does not hold."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from nasmesh.errors import Invalid, NotFound
from nasmesh.store.base import ObjectStore
from nasmesh.v1 import object_pb2
from nasmesh.v1 import search_pb2 as pb
from scheduler import invariants
from scheduler.admin.differing import differences
from scheduler.admin.display import progress
from scheduler.compiled import is_built
from scheduler.datasets import shards_of
from scheduler.domain import OPEN_TASKS, State
from scheduler.journal import codec
from scheduler.journal.base import Reader
from scheduler.journal.places import Place, reader_of
from scheduler.references import refs_of
from scheduler.replaying import replay_event


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that does not hold. `invariant` is its number, "FILE" for damage; `what` tells it with the story."""

    invariant: str
    what: str


@dataclass(slots=True)
class Report:
    """What was read and what was found."""

    journal: str
    size_bytes: int
    schema: int = 0
    epoch: int = 0
    first_event: int = 0
    last_event: int = 0
    snapshot_at: int = 0
    origin: int = 0
    searches: dict[str, int] = field(default_factory=dict)
    trials: dict[str, int] = field(default_factory=dict)
    tasks: dict[str, int] = field(default_factory=dict)
    objects: int = 0
    objects_bytes: int = 0
    compiled: bool = False
    """Whether a scheduler that is started from these sources runs its compiled form."""
    violations: list[Violation] = field(default_factory=list)

    def add(self, invariant: str, what: str) -> None:
        """Note a violation."""
        self.violations.append(Violation(invariant, what))


def check(path: Place, store: ObjectStore | None = None) -> Report:
    """Return what a journal holds and what is wrong with it; with a store, every object is read and verified.

    Raises NotFound (JOURNAL_MISSING), Invalid (JOURNAL_TOO_NEW, JOURNAL_CORRUPT: not even its tables can be read),
    Unavailable (JOURNAL_IO, STORE_DOWN).
    """
    reader = reader_of(path)
    report = Report(str(path), 0, compiled=is_built())
    report.epoch = reader.open()
    try:
        report.schema, report.size_bytes = reader.schema, reader.size_bytes()
        for found in reader.damage():
            report.add("FILE", found)
        report.first_event, report.last_event = reader.oldest(), reader.last()
        state = _check_states(reader, report)
        reader.check_still()
        if reader.lacks_log():
            report.add(
                "FILE",
                f"incomplete: a scheduler had it open, and {path}-wal with the last events is not there; copy both, or"
                " better with nasmesh admin backup",
            )
    except Invalid as error:
        report.add("FILE", error.message)
        return report
    finally:
        reader.close()
    for fault in invariants.faults(state):
        number, colon, _ = fault.partition(":")
        report.add(number if colon and number[:1] == "I" else "LINKS", fault)
    if state.epoch > report.epoch:
        report.add("I5", f"I5: the journal is at epoch {report.epoch}, its last boot was {state.epoch}")
    _count(report, state)
    if store is not None:
        _check_objects(report, state, store)
    return report


def replayed(reader: Reader, at: int, rows: Iterable[tuple[str, bytes]], what: str) -> State:
    """Return the state that rows and all events after them give; raises Invalid (JOURNAL_CORRUPT)."""
    state = codec.decode_rows(rows)
    if state.sequence != at:
        raise codec.unreadable(f"the snapshot, which says {state.sequence} and {at},")
    with progress(what, reader.last()) as advance:
        for sequence, body in reader.events(at):
            replay_event(state, sequence, body)
            if sequence % 500 == 0:
                advance(sequence)
    return state


def _check_states(reader: Reader, report: Report) -> State:
    """Return the state as a scheduler would read it, compared with what all events give (I11)."""
    report.snapshot_at, rows = reader.snapshot()
    stored = replayed(reader, report.snapshot_at, rows, "from the snapshot")
    report.origin, origin = reader.origin()
    if report.origin < report.snapshot_at:
        whole = replayed(reader, report.origin, origin, "from the beginning")
        for found in differences(stored, whole, "state"):
            report.add("I11", f"I11: snapshot and replay from event {report.origin} differ: {found}")
    return stored


def _count(report: Report, state: State) -> None:
    for run in state.searches.values():
        name = run.state.name
        report.searches[name] = report.searches.get(name, 0) + 1
        for trial in run.trials:
            outcome = pb.TrialOutcome.Name(trial.outcome).removeprefix("TRIAL_OUTCOME_")
            outcome = "ACTIVE" if outcome == "UNSPECIFIED" else outcome
            report.trials[outcome] = report.trials.get(outcome, 0) + 1
    for task in state.tasks.values():
        report.tasks[task.state.name] = report.tasks.get(task.state.name, 0) + 1


def _check_objects(report: Report, state: State, store: ObjectStore) -> None:
    """Read every object that the state names (I9)."""
    named = {ref.key: (ref, owner) for ref, owner in references(state)}
    with progress("objects", len(named)) as advance:
        for ref, owner in named.values():
            _check_object(report, store, ref, owner)
            advance(report.objects)
        data = {ref.key: ref for ref, _ in named.values() if ref.key.startswith("datasets/")}
        for key in sorted(shards_of(store, list(data.values()), tolerant=True), key=lambda shard: shard.key):
            _check_object(report, store, key, "a data set")
            advance(report.objects)


def _check_object(report: Report, store: ObjectStore, ref: object_pb2.ObjectRef, owner: str) -> None:
    try:
        report.objects_bytes += len(store.get(ref))
    except (NotFound, Invalid) as error:
        report.add("I9", f"I9: {owner} names an object that is not there or not whole: {error.message}")
    report.objects += 1


def references(state: State) -> Iterator[tuple[object_pb2.ObjectRef, str]]:
    """Yield every object that the state needs, with who names it."""
    for run in state.searches.values():
        yield from ((ref, run.name) for ref in refs_of(run.spec))
        for trial in run.trials:
            yield from ((ref, trial.name) for ref in refs_of(trial))
    for dataset in state.datasets.values():
        yield dataset.manifest, dataset.name
    for task in state.tasks.values():
        if task.checkpoint is not None and task.state in OPEN_TASKS:
            yield task.checkpoint, task.story()
    for network in state.networks.values():
        yield network.object, network.name
