"""What `nasmesh search show` prints."""

from collections.abc import Sequence

from clients.cli.display.render import header
from clients.cli.display.view import (
    format_count,
    format_duration,
    format_metric,
    is_partly_trained,
    outcome_word,
    plural,
    ranking_proxy,
    score,
    told_note,
    told_partly_trained,
    view_of,
)
from clients.cli.output import print_line, print_table
from clients.cli.report.finals import finals, headline
from nasmesh.client.best import best_trial
from nasmesh.clock import SystemClock
from nasmesh.v1 import measurement_pb2, search_pb2
from nasmesh.v1.search_pb2 import Search, Trial


def print_search(search: Search, trials: Sequence[Trial]) -> None:
    """Print a search's header and a row for each of its trials."""
    view = view_of(search, trials)
    print_line(header(view, clock=SystemClock()).plain)
    if search.reason:
        print_line(search.reason)
    best = None if view.ended else best_trial(search, trials)
    if best is not None:
        value = format_metric(view.objective.metric, score(best, view.objective.metric))
        how = f"; trained {told_partly_trained(best)}" if is_partly_trained(best) else ""
        print_line(f"best so far: trial {best.number}, {view.objective.metric} {value}{how}")
    if search.device_time_saved_s:
        reused = sum(bool(trial.reused_from) for trial in trials)
        saved = format_duration(search.device_time_saved_s)
        print_line(f"{saved} of device time saved: {plural(reused, 'trial')} measured before, and not trained again")
    print_line("")
    metric = headline(search)
    headers: tuple[str, ...] = (
        "trial",
        "iteration",
        "outcome",
        ">parameters",
        ">MACs",
        ">validation",
        ">test",
        ">device time",
        "note",
    )
    rows = [_row(trial, metric) for trial in trials]
    if ranked := ranking_proxy(search):
        headers = (*headers[:5], f">{ranked}", *headers[5:])
        rows = [
            (*row[:5], format_metric(ranked, score(trial, ranked)), *row[5:])
            for row, trial in zip(rows, trials, strict=True)
        ]
    if search.spec.HasField("early_stopping"):
        compared = search.spec.objectives[0].metric
        headers = (*headers[:-1], "rungs", headers[-1])
        rows = [(*row[:-1], _rungs(trial, compared), row[-1]) for row, trial in zip(rows, trials, strict=True)]
    print_table(headers, rows, empty="no trial has been recorded yet")
    if found := finals(trials, metric):
        print_line("")
        for final in found:
            print_line(f"final networks of trial {final.source.rpartition('/')[2]}: test {metric} {final}")


def _row(trial: Trial, metric: str) -> tuple[str, ...]:
    return (
        str(trial.number),
        "final" if trial.final else "added" if trial.enqueued else str(trial.iteration),
        outcome_word(trial),
        format_count(trial.network.parameters),
        format_count(trial.network.macs),
        format_metric(metric, score(trial, metric, measurement_pb2.SPLIT_VALIDATION)),
        format_metric(metric, score(trial, metric, measurement_pb2.SPLIT_TEST)),
        format_duration(trial.device_time_s),
        trial.failure.message or _violated(trial) or _reused(trial) or _at_rung(trial) or told_note(trial),
    )


def _violated(trial: Trial) -> str:
    if not trial.HasField("violation"):
        return ""
    bound = trial.violation.constraint
    limits = [f"at least {bound.min:g}"] if bound.HasField("min") else []
    limits += [f"at most {bound.max:g}"] if bound.HasField("max") else []
    return f"{bound.metric} is {trial.violation.value:g}, allowed {' and '.join(limits)}"


def _at_rung(trial: Trial) -> str:
    """Return what a trial that has not ended waits for at a rung, or from which it went on."""
    if trial.outcome or not trial.rungs:
        return ""
    rung = trial.rungs[-1]
    word = "held" if trial.phase == search_pb2.TRIAL_PHASE_HELD else "went on"
    return f"{word} at rung {rung.index}, after {rung.step} updates: {rung.reason}"


def _rungs(trial: Trial, metric: str) -> str:
    """Return the updates at which a trial was compared, with its value of the first objective there."""
    return ", ".join(f"{rung.step}: {format_metric(metric, rung.values[0])}" for rung in trial.rungs)


def _reused(trial: Trial) -> str:
    if trial.phase == search_pb2.TRIAL_PHASE_AWAITS_EQUAL:
        return "an equal trial is being measured"
    return f"as measured in {trial.reused_from}" if trial.reused_from else ""
