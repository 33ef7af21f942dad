"""`admin explain`: the story of one task or one trial, event by event, as the journal has it."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from nasmesh import ids
from nasmesh.errors import NotFound
from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import measurement_pb2
from nasmesh.v1 import search_pb2 as pb
from scheduler.admin.display import progress
from scheduler.domain import State, Task
from scheduler.effects import Changed, Effect, Queued, Revoked
from scheduler.facts import AttemptLeased, AttemptLost, Booted, Change, CheckpointReported, NeedUnmet, OutcomeReported
from scheduler.journal import codec
from scheduler.journal.places import Place, reader_of
from scheduler.replaying import replay_event


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happened. `event` is its sequence number; `followed` is what it brought about."""

    event: int
    time_us: int
    uptime_s: float
    what: str
    details: dict[str, object] = field(default_factory=dict)
    followed: tuple[str, ...] = ()


@dataclass(slots=True)
class Story:
    """What happened to a task or trial, and how it stands. `compacted`: events up to there are not kept."""

    subject: str
    compacted: int = 0
    lines: list[Line] = field(default_factory=list)
    stands: list[str] = field(default_factory=list)


def explain(path: Place, subject: str) -> Story:
    """Return the story of a task id or a trial name.

    Raises NotFound (TASK_UNKNOWN, JOURNAL_MISSING), Invalid (NAME_INVALID, JOURNAL_CORRUPT).
    """
    teller = _Teller.of(subject)
    reader = reader_of(path)
    reader.open()
    try:
        at, rows = reader.origin()
        state = codec.decode_rows(rows)
        teller.story.compacted = at
        teller.before(state)
        with progress("events", reader.last()) as advance:
            for sequence, body in reader.events(at):
                event, effects = replay_event(state, sequence, body)
                teller.hear(sequence, (event.time_us, event.uptime_s), event.change, effects, state)
                if sequence % 500 == 0:
                    advance(sequence)
    finally:
        reader.close()
    if not teller.is_born:
        message = f"the journal knows no task or trial {subject}; give a task id, or searches/{{id}}/trials/{{n}}"
        raise NotFound("TASK_UNKNOWN", message, field="task")
    return teller.story


class _Teller:
    """Picks what concerns the subject out of the events."""

    def __init__(self, subject: str, search: str = "", trial: int = 0) -> None:
        self.story = Story(subject)
        self.is_born = False
        self._task = "" if trial else subject
        self._search, self._trial = search, trial
        self._tasks: dict[str, None] = {}

    @classmethod
    def of(cls, subject: str) -> "_Teller":
        if "/" in subject:
            return cls(subject, *ids.parse_trial(subject))
        return cls(ids.check_task_id(subject))

    def before(self, state: State) -> None:
        """Tell what is known from before the first event."""
        for task in state.tasks.values():
            self._meet(task)
        run = state.searches.get(self._search)
        self.is_born = self.is_born or (run is not None and self._trial <= len(run.trials))
        self._stand(state)

    def hear(
        self, sequence: int, times: tuple[int, float], change: Change, effects: list[Effect], state: State
    ) -> None:
        """Add a line where an event concerns the subject."""
        born = self.is_born
        for effect in effects:
            if isinstance(effect, Queued) and effect.task in state.tasks:
                self._meet(state.tasks[effect.task])
            elif isinstance(effect, Changed) and (effect.search, effect.trial) == (self._search, self._trial):
                self.is_born = True
        if not self.is_born:
            return
        followed = tuple(_followed(effects, state))
        if not born:
            what, details = "created", dict(_origin(change, state, self._trial_of(state)))
        elif self._concerns(change, effects):
            what, details = _told(change, state)
        else:
            return
        self.story.lines.append(Line(sequence, *times, what, details, followed))
        self._stand(state)

    def _meet(self, task: Task) -> None:
        """Note a task of the subject."""
        mine = task.id == self._task or (bool(self._trial) and (task.search, task.trial) == (self._search, self._trial))
        if mine:
            self._tasks[task.id] = None
            self.is_born = True

    def _trial_of(self, state: State) -> pb.Trial | None:
        task = state.tasks.get(self._task)
        search, number = (task.search, task.trial) if task is not None else (self._search, self._trial)
        run = state.searches.get(search)
        return run.trials[number - 1] if run is not None and number else None

    def _concerns(self, change: Change, effects: list[Effect]) -> bool:
        named = change.outcome.token.task if isinstance(change, OutcomeReported) else getattr(change, "task", "")
        if named in self._tasks:
            return True
        if any(getattr(effect, "task", None) in self._tasks for effect in effects):
            return True
        mine = self._search, self._trial
        return bool(self._trial) and any(isinstance(e, Changed) and (e.search, e.trial) == mine for e in effects)

    def _stand(self, state: State) -> None:
        known = [state.tasks[task] for task in self._tasks if task in state.tasks]
        trial = self._trial_of(state) if self.is_born else None
        self.story.stands = [task.story() for task in known]
        for rung in trial.rungs if trial is not None else ():
            self.story.stands.append(f"rung {rung.index}, {rung.step} updates: {_decided(rung)}")
        if trial is not None and trial.outcome:
            self.story.stands.append(f"trial {trial.number} is {_outcome(trial)}")


def _decided(rung: pb.Rung) -> str:
    """Return what became of a trial at a rung, and why."""
    words = {pb.RUNG_DECISION_PROMOTED: "went on", pb.RUNG_DECISION_STOPPED: "stopped"}
    return f"{words.get(rung.decision, 'held')}, {rung.reason}"


def _origin(change: Change, state: State, trial: pb.Trial | None) -> Iterator[tuple[str, object]]:
    """Yield by what a task or trial came to be."""
    if isinstance(change, OutcomeReported):
        source = state.tasks.get(change.outcome.token.task)
        yield "by", f"the outcome of {change.outcome.token.task}, attempt {change.outcome.token.attempt}"
        if source is not None and source.ask is not None and source.ask.call:
            yield "call", source.ask.call
    else:
        yield "by", _kind(change)
    if trial is not None:
        for name in ("proposal_id", "note"):
            if getattr(trial, name):
                yield name, getattr(trial, name)
        if trial.network.name:
            yield "network", trial.network.name
        if trial.parents:
            yield "parents", list(trial.parents)


def _told(change: Change, state: State) -> tuple[str, dict[str, object]]:
    if isinstance(change, AttemptLeased):
        attempt = state.tasks[change.task].current()
        more = {"members": list(attempt.members)} if attempt.members else {}
        return "leased", {"agent": attempt.agent, "attempt": attempt.number, "epoch": attempt.epoch, **more}
    if isinstance(change, AttemptLost):
        return "lost", {"attempt": change.attempt, **_failure(change.failure)}
    if isinstance(change, CheckpointReported):
        return "checkpoint stored", {"attempt": change.attempt, "checkpoint": change.checkpoint.key}
    if isinstance(change, OutcomeReported):
        return _outcome_told(change.outcome)
    if isinstance(change, NeedUnmet):
        return "given by no device what it needs", {"largest_bytes": change.largest_bytes}
    if isinstance(change, Booted):
        return "a scheduler took over", {"epoch": change.epoch}
    return _kind(change), {}


def _outcome_told(outcome: dispatch_pb.AttemptOutcome) -> tuple[str, dict[str, object]]:
    """Return what an outcome was; what is in the journal was recorded, repetitions and late ones leave no trace."""
    kind = outcome.WhichOneof("result") or "nothing"
    details: dict[str, object] = {"attempt": outcome.token.attempt, "disposition": "RECORDED"}
    if kind == "failure":
        details.update(_failure(outcome.failure))
        if outcome.failure.reason == "OUTCOME_INVALID":
            details["disposition"] = "INVALID"
        return "failed", details
    if kind == "released":
        return "given back", details | {"checkpoint": outcome.released.checkpoint.key}
    if kind == "infeasible":
        bound = outcome.infeasible.constraint
        more = {"metric": bound.metric, "value": outcome.infeasible.value}
        more.update({name: getattr(bound, name) for name in ("max", "min") if bound.HasField(name)})
        if outcome.infeasible.needed_memory_bytes:
            more["needed_memory_bytes"] = outcome.infeasible.needed_memory_bytes
        return "found infeasible", details | more
    if kind == "train":
        more = {"checkpoint": outcome.train.checkpoint.key, "device_time_s": outcome.train.device_time_s}
        return "trained", details | more
    if kind == "evaluate":
        whole = [m for m in outcome.evaluate.measurements if not m.element]
        twice = {m.metric for m in whole if any(m.metric == n.metric and m.split != n.split for n in whole)}
        found = {f"{m.metric} ({_split(m)})" if m.metric in twice else m.metric: m.value for m in whole}
        return "scored", details | {"measurements": found, "device_time_s": outcome.evaluate.device_time_s}
    return "answered", details | {"proposals": len(outcome.generate.trials), "done": outcome.generate.done}


def _split(found: measurement_pb2.Measurement) -> str:
    return measurement_pb2.Split.Name(found.split).removeprefix("SPLIT_").lower()


def _failure(failure: pb.Failure) -> dict[str, object]:
    return {"reason": failure.reason, "message": failure.message, "counted": failure.counted}


def _followed(effects: list[Effect], state: State) -> Iterator[str]:
    for effect in effects:
        if isinstance(effect, Queued):
            yield f"queued {effect.task}" + (f" after {effect.failures} failures" if effect.failures else "")
        elif isinstance(effect, Revoked):
            yield f"asked {effect.agent} to stop {effect.task}, attempt {effect.attempt}"
        elif isinstance(effect, Changed) and effect.search in state.searches:
            run = state.searches[effect.search]
            if effect.trial and run.trials[effect.trial - 1].outcome:
                yield f"trial {effect.trial} is {_outcome(run.trials[effect.trial - 1])}"
            elif not effect.trial and run.end_time_us:
                yield f"{run.name} is {run.state.name}: {run.reason}"


def _outcome(trial: pb.Trial) -> str:
    told = pb.TrialOutcome.Name(trial.outcome).removeprefix("TRIAL_OUTCOME_")
    return f"{told} ({trial.failure.reason}: {trial.failure.message})" if trial.HasField("failure") else told


def _kind(change: Change) -> str:
    """Return the name of a fact in words: "search cancelled"."""
    name = type(change).__name__
    return "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()
