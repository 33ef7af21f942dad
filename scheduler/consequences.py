"""What the engine does with each effect of a fact, beside the state: queues, leases, news, rows for the journal."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from scheduler import convert, holds
from scheduler.domain import OPEN_SEARCHES, OPEN_TASKS
from scheduler.effects import Changed, Closed, Drained, Gone, Granted, Queued, Rearranged, Recalled, Revoked
from scheduler.watch import Change

if TYPE_CHECKING:
    from scheduler.engine import Engine


def _changed(engine: "Engine", effect: Changed, time_us: int) -> None:
    search = effect.search
    change = change_of(engine, effect, time_us)
    news = engine.step.news
    if search in news:
        news[search].append(change)
    else:
        news[search] = [change]
    if not change.trial and engine.state.searches[search].state not in OPEN_SEARCHES:
        engine.step.ended[search] = None


def change_of(engine: "Engine", effect: Changed, time_us: int) -> Change:
    """Return what watchers are told of a change, as things stand now; a trial that has ended gets its row."""
    search, number, sequence = effect
    run = engine.state.searches[search]
    if number:
        trial = run.trials[number - 1]
        body = trial.SerializeToString()
        if trial.outcome:
            if engine.traces is not None:
                engine.traces.trial_ended(run, trial, time_us)
            engine.snapshots.end_trial(engine.state, run, number, trial, body)
        return Change(sequence, time_us, number, body)
    return convert.search_change(run, sequence, time_us, engine.specs.of(run))


def _queued(engine: "Engine", effect: Queued, time_us: int) -> None:
    state = engine.state
    task = state.tasks[effect.task]
    engine.work.queued(state.searches[task.search], task, effect.failures, engine.now)
    engine.activity.queued(task.id, engine.now)
    if engine.traces is not None:
        engine.traces.queued(state.searches[task.search], task, time_us)


def _granted(engine: "Engine", effect: Granted, _time_us: int) -> None:
    state = engine.state
    task = state.tasks[effect.task]
    engine.activity.leased(task.id)
    engine.work.granted(task, engine.now)
    agents = task.current().agents
    leader = engine.agents.get(agents[0])
    for rank, name in enumerate(agents):
        entry = engine.agents.get(name)
        if entry is None:
            continue
        kind = task.kind
        engine.step.given.append((entry, kind, entry.given(kind)))
        if entry.session is not None:
            message = dispatch_pb.WorkResponse()
            convert.fill_lease(message.lease, state, task)
            if len(agents) > 1:
                gang = message.lease.train.gang
                gang.rank, gang.size = rank, len(agents)
                gang.rendezvous = leader.gang_address if leader is not None else ""
            engine.step.outbox.append((entry.session, message))


def _closed(engine: "Engine", effect: Closed, time_us: int) -> None:
    if engine.traces is not None:
        task = engine.state.tasks[effect.task]
        engine.traces.closed(engine.state.searches[task.search], task, time_us)
    engine.work.closed(effect.task, effect.agents)
    note_closed(engine, effect)


def note_closed(engine: "Engine", effect: Closed) -> None:
    """Have an ended task of no trial kept as bytes some day; those of trials follow their trial."""
    task = engine.state.tasks[effect.task]
    if not task.trial and task.state not in OPEN_TASKS:
        engine.snapshots.end_task(engine.state, task)


def _held(engine: "Engine", effect: Revoked | Recalled | Rearranged | Gone | Drained, _time_us: int) -> None:
    holds.follow(engine, effect)


# By type of effect: what follows from it, called with the engine, the effect and the fact's time.
FOLLOW: dict[type, Callable[["Engine", Any, int], None]] = {
    Changed: _changed,
    Queued: _queued,
    Granted: _granted,
    Closed: _closed,
    Revoked: _held,
    Recalled: _held,
    Rearranged: _held,
    Gone: _held,
    Drained: _held,
}
