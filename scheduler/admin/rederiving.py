"""`nasmesh replay`: derives every decision of a search again, from what its journal recorded, and compares.

The generator is asked again with exactly what it was asked; what it proposes is built, admitted and checked again; the
machine is told the completions in their recorded order. Whatever comes out must be what the journal says came out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from nasmesh import ids
from nasmesh.errors import Compacted, Invalid, NotFound, Unavailable
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import search_pb2 as pb_search
from scheduler import convert, outcomes
from scheduler.admin.differing import Difference, differences
from scheduler.admin.display import progress
from scheduler.domain import SearchRun, State, Task, TaskKind
from scheduler.facts import AttemptLeased, Booted, Event, OutcomeReported
from scheduler.journal import codec, ended
from scheduler.journal.places import Place, reader_of
from scheduler.piped import PipedGenerator
from scheduler.replaying import replay_event
from scheduler.wishes import SearchDeleted


@dataclass(slots=True)
class Replay:
    """What was derived again, and the first place where it is not what was recorded.

    `stored_trials` were also compared, with their tasks, with what was stored as they ended; the search as it stood at
    `stored_at` with the snapshot, if that is not 0.
    """

    search: str
    state: str = ""
    generator: str = ""
    calls: int = 0
    refusals: int = 0
    proposals: int = 0
    completions: int = 0
    lost_attempts: int = 0
    boots: int = 0
    trials: int = 0
    stored_at: int = 0
    stored_trials: int = 0
    event: int = 0
    differences: list[Difference] = field(default_factory=list)


def replay(path: Place, search: str, generator: PipedGenerator) -> Replay:
    """Replay a search; stops at the first event that comes out differently.

    Raises NotFound (SEARCH_UNKNOWN, JOURNAL_MISSING), Compacted (JOURNAL_COMPACTED), Invalid (NAME_INVALID,
    JOURNAL_CORRUPT), Unavailable (GENERATOR_ABSENT, or why the generator gives no answer).
    """
    identifier = ids.parse_name("searches", search if "/" in search else f"searches/{search}", field="search")
    reader = reader_of(path)
    reader.open()
    try:
        at, origin = reader.origin()
        state = codec.decode_rows(origin)
        if identifier in state.searches or identifier in state.deleted:
            raise Compacted(
                "JOURNAL_COMPACTED",
                f"searches/{identifier}: its first events were dropped by nasmesh admin compact; replay a backup from"
                " before",
                field="search",
            )
        stored_at, stored_rows = reader.snapshot()
        rows = dict(stored_rows)
        stored = codec.decode_rows(rows.items())
        derived = _Derivation(identifier, state, generator)
        with progress("events", reader.last()) as advance:
            for sequence, body in reader.events(at):
                derived.take(sequence, body)
                if sequence == stored_at and identifier in stored.searches:
                    derived.compare_stored(stored)
                if derived.found.differences:
                    break
                advance(sequence)
        derived.compare_ended(rows)
    finally:
        reader.close()
    if not derived.found.state:
        raise NotFound("SEARCH_UNKNOWN", f"the journal has no searches/{identifier}", field="search")
    return derived.found


class _Derivation:
    """Goes through the events with a state of its own."""

    def __init__(self, search: str, state: State, generator: PipedGenerator) -> None:
        self.found = Replay(f"searches/{search}")
        self._search = search
        self._state = state
        self._generator = generator
        self._leases: dict[str, pb.Lease] = {}

    def take(self, sequence: int, body: bytes) -> None:
        """Derive what an event records, compare, and apply it."""
        event = codec.decode_event(sequence, body)
        run = self._state.searches.get(self._search)
        task = self._task(event)
        if task is not None and run is not None and isinstance(event.change, OutcomeReported):
            self._compare(sequence, run, task, event.change.outcome)
        if self.found.differences:
            return
        replay_event(self._state, sequence, body)
        self._note(event)

    def _task(self, event: Event) -> Task | None:
        """Return the generate task of the search that an outcome ends."""
        if not isinstance(event.change, OutcomeReported):
            return None
        task = self._state.tasks.get(event.change.outcome.token.task)
        return task if task is not None and (task.search, task.kind) == (self._search, TaskKind.GENERATE) else None

    def _compare(self, sequence: int, run: SearchRun, task: Task, recorded: pb.AttemptOutcome) -> None:
        kind = recorded.WhichOneof("result")
        refused = kind == "failure" and not recorded.failure.retryable
        lease = self._leases.get(task.id)
        if lease is None or not (kind == "generate" or refused):
            return  # an attempt that was lost, given back or crashed decided nothing
        fresh = self._generator.ask(lease)
        if fresh.failure.retryable:  # no answer is no other answer
            raise Unavailable(fresh.failure.reason, f"{task.id} could not be asked again: {fresh.failure.message}")
        if fresh.failure.reason == "GENERATOR_UNKNOWN" != recorded.failure.reason:
            name = run.spec.generator.generator
            raise Unavailable(
                "GENERATOR_ABSENT", f"{fresh.failure.message}; name a server that has {name} with --target HOST:PORT"
            )
        try:
            fresh = outcomes.check(run, task, fresh)
        except Invalid as error:
            fresh = outcomes.invalid_outcome(fresh, error)
        where = f"{task.id}, attempt {recorded.token.attempt}"
        if refused:
            self.found.refusals += 1
            found = differences(recorded.failure.reason, fresh.failure.reason, f"{where}: failure.reason")
        else:
            self.found.calls += 1
            self.found.proposals += len(recorded.generate.trials)
            found = list(_outcome_differences(recorded, fresh, where))
        if found:
            self.found.event, self.found.differences = sequence, found

    def compare_ended(self, rows: Mapping[str, bytes]) -> None:
        """Compare with the rows that were stored as trials ended: their seeds, tasks, attempts, outcomes."""
        run = self._state.searches.get(self._search)
        for key, body in sorted(rows.items()):
            if run is None or self.found.differences or not key.startswith(f"ended/{self._search}/"):
                continue
            row = ended.decode(key.removeprefix("ended/"), body)
            mine = run.trials[row.number - 1] if row.number <= len(run.trials) else None
            found = differences(pb_search.Trial.FromString(row.trial), mine, run.trial_name(row.number))
            for task in ended.decode_tasks(row.tasks):
                found += differences(task, self._state.tasks.get(task.id), f"task {task.id}")
            self.found.stored_trials += 1
            if found:
                self.found.event, self.found.differences = row.sequence, found

    def compare_stored(self, stored: State) -> None:
        """Compare with the snapshot of then: the search, its open work, its results, leaders and end."""
        run, other = stored.searches[self._search], self._state.searches[self._search]
        found = differences(run, other, self.found.search)
        for task in stored.tasks.values():
            if task.search == self._search:
                found += differences(task, self._state.tasks.get(task.id), f"task {task.id}")
        self.found.stored_at = stored.sequence
        if found:
            self.found.event, self.found.differences = stored.sequence, found

    def _note(self, event: Event) -> None:
        change, run = event.change, self._state.searches.get(self._search)
        if isinstance(change, AttemptLeased):
            task = self._state.tasks[change.task]
            if (task.search, task.kind) == (self._search, TaskKind.GENERATE):
                self._leases[task.id] = convert.lease_message(self._state, task)
        if run is None:
            if isinstance(change, SearchDeleted) and change.search == self._search:
                self.found.state = f"{self.found.state}, deleted"
            return
        self.found.state = run.state.name
        self.found.trials = len(run.trials)
        self.found.generator = f"{run.spec.generator.generator} {run.generator_version}".strip()
        self.found.boots += isinstance(change, Booted)
        if isinstance(change, OutcomeReported):
            mine = change.outcome.token.task.startswith(f"{self._search}-t")
            self.found.completions += mine and change.outcome.WhichOneof("result") in ("train", "evaluate")
            self.found.lost_attempts += mine and change.outcome.WhichOneof("result") == "failure"
        elif getattr(change, "attempt", 0) and getattr(change, "failure", None) is not None:
            self.found.lost_attempts += getattr(change, "task", "").startswith(f"{self._search}-")


def _outcome_differences(recorded: pb.AttemptOutcome, fresh: pb.AttemptOutcome, where: str) -> Iterator[Difference]:
    if not fresh.HasField("generate"):
        said = f"{fresh.failure.reason}: {fresh.failure.message}" if fresh.HasField("failure") else "no proposals"
        yield Difference(where, f"{len(recorded.generate.trials)} proposals", said)
        return
    yield from differences(recorded.generate, fresh.generate, where)
