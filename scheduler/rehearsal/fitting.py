"""The model's figures from what a search really took: least squares over the outcomes in a journal."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from nasmesh import ids
from nasmesh.errors import Invalid, NotFound
from nasmesh.v1 import search_pb2 as pb
from scheduler.domain import SearchRun, State
from scheduler.facts import OutcomeReported
from scheduler.journal import codec
from scheduler.journal.places import Place, reader_of
from scheduler.machine.reuse import measured
from scheduler.rehearsal.data import known
from scheduler.rehearsal.model import Model, share_of, train_samples
from scheduler.replaying import replay_event

_FEWEST = 3


@dataclass(slots=True)
class _Seen:
    """Multiply-accumulates and seconds of trainings and scorings, and accuracies beside the model's."""

    trained: list[tuple[float, float]] = field(default_factory=list)
    scored: list[tuple[float, float]] = field(default_factory=list)
    accuracies: list[tuple[float, float]] = field(default_factory=list)


def fitted(journal: Place, search: str, model: Model) -> Model:
    """Return the model with the durations, their noise and the level of accuracy of a search that was run.

    Raises NotFound (SEARCH_UNKNOWN, JOURNAL_MISSING), Invalid (MEASUREMENTS_FEW, JOURNAL_CORRUPT).
    """
    identifier = ids.parse_name("searches", search if "/" in search else f"searches/{search}", field="from")
    seen = _read(journal, identifier, model)
    if len(seen.trained) < _FEWEST:
        raise Invalid(
            "MEASUREMENTS_FEW",
            f"from: searches/{identifier} has {len(seen.trained)} trainings in the journal, {_FEWEST} are needed",
            field="from",
        )
    train_s, seconds_per_mac = line(seen.trained)
    evaluate_s, evaluate_seconds_per_mac = line(seen.scored)
    ratios = [math.log(y / max(train_s + seconds_per_mac * x, 1e-9)) for x, y in seen.trained if y > 0]
    mean = sum(ratios) / len(ratios)
    level = sum(y for _, y in seen.accuracies) / max(1e-9, sum(x for x, _ in seen.accuracies))
    return replace(
        model,
        train_s=train_s,
        seconds_per_mac=seconds_per_mac,
        evaluate_s=evaluate_s,
        evaluate_seconds_per_mac=evaluate_seconds_per_mac,
        noise=math.sqrt(sum((ratio - mean) ** 2 for ratio in ratios) / len(ratios)),
        top=min(1.0, model.top * level) if seen.accuracies else model.top,
    )


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return intercept and slope of the least squares line through points, neither of them negative."""
    if not points:
        return 0.0, 0.0
    count = len(points)
    mean_x, mean_y = (sum(point[i] for point in points) / count for i in (0, 1))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
    if slope <= 0:
        return mean_y, 0.0
    intercept = mean_y - slope * mean_x
    return (intercept, slope) if intercept >= 0 else (0.0, mean_y / mean_x)


def _read(journal: Place, search: str, model: Model) -> _Seen:
    seen = _Seen()
    reader = reader_of(journal)
    reader.open()
    try:
        at, rows = reader.origin()
        state = codec.decode_rows(rows)
        for sequence, body in reader.events(at):
            event, _ = replay_event(state, sequence, body)
            if isinstance(event.change, OutcomeReported) and search in state.searches:
                _note(seen, state, state.searches[search], event.change, model)
    finally:
        reader.close()
    if search not in state.searches:
        raise NotFound("SEARCH_UNKNOWN", f"from: the journal has no searches/{search}", field="from")
    return seen


def _note(seen: _Seen, state: State, run: SearchRun, change: OutcomeReported, model: Model) -> None:
    task = state.tasks.get(change.outcome.token.task)
    if task is None or task.search != run.id or not task.trial:
        return
    trial, data = run.trials[task.trial - 1], known(run.spec.data, state.datasets)
    if change.outcome.HasField("train"):
        # The trial is as it was after its training: the rungs that it had passed before are those that it has.
        before = share_of(run.spec, trial, trial.rungs[-1].step) if trial.rungs else 0.0
        part = share_of(run.spec, trial, trial.steps) - before
        work = trial.network.macs * train_samples(trial.train, data) * part
        seen.trained.append((work, change.outcome.train.device_time_s))
    elif change.outcome.HasField("evaluate"):
        samples = data.split_sizes[2 if trial.final else 1]
        seen.scored.append((trial.network.macs * samples, change.outcome.evaluate.device_time_s))
        accuracy = measured(trial, "accuracy")
        if accuracy is not None and trial.outcome == pb.TRIAL_OUTCOME_SUCCEEDED:
            seen.accuracies.append((replace(model, score_noise=0.0).score(trial, data, 0), accuracy))
