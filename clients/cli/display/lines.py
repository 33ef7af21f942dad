"""The plain form of the display: one line for each thing worth knowing, for pipes and log files."""

from clients.cli.display.view import (
    SearchView,
    format_count,
    format_duration,
    format_metric,
    outcome_word,
    ranking_proxy,
    score,
    short,
    stages,
    state_word,
)
from nasmesh.clock import Clock
from nasmesh.v1 import measurement_pb2, search_pb2
from nasmesh.v1 import scheduler_service_pb2 as pb
from nasmesh.v1.search_pb2 import Search, Trial

QUIET_S = 30.0


class PlainLines:
    """Turns a watch into lines; a training that says nothing else for a while says how far it is."""

    def __init__(self, clock: Clock) -> None:
        """Start with nothing said."""
        self._clock = clock
        self._said_s = clock.monotonic()

    def describe(self, before: SearchView, change: pb.WatchSearchResponse) -> list[str]:
        """Return the lines that a change deserves, given what was known before it."""
        now_s = self._clock.monotonic()
        lines = describe(before, change, self._clock)
        if not lines and change.HasField("progress") and now_s - self._said_s >= QUIET_S:
            lines = [f"{_stamp(before.search, change, self._clock)}  {_progress(before, change.progress)}"]
        if lines:
            self._said_s = now_s
        return lines

    def waiting(self, known: SearchView, why: str) -> list[str]:
        """Return the line that a cause deserves for which nothing happens; none where there is none any more."""
        return [f"{_stamp(known.search, pb.WatchSearchResponse(), self._clock)}  {why}"] if why else []


def _progress(before: SearchView, progress: pb.TrialProgress) -> str:
    number = int(progress.trial.rpartition("/")[2] or 0)
    trial, train = before.trials.get(number), progress.train
    title = f"final trial {number}" if trial is not None and trial.final else f"trial {number}"
    left = (train.total_steps - train.step) / train.steps_per_s if train.steps_per_s > 0 else 0.0
    return (
        f"{title}: step {train.step} of {train.total_steps}, {train.steps_per_s:.3g} step/s, loss {train.loss:.3f}, "
        f"training accuracy {format_metric('accuracy', train.accuracy)}, about {format_duration(left)} left"
    )


def describe(before: SearchView, change: pb.WatchSearchResponse, clock: Clock) -> list[str]:
    """Return the lines that a recorded change deserves, given what was known before it."""
    kind = change.WhichOneof("change")
    if kind == "search":
        stamp = _stamp(change.search, change, clock)
        return [f"{stamp}  {line}" for line in _search_lines(before.search, change.search)]
    if kind == "trial":
        stamp = _stamp(before.search, change, clock)
        known = before.trials.get(change.trial.number)
        return [f"{stamp}  {line}" for line in _trial_lines(known, change.trial, ranking_proxy(before.search))]
    return []


def _stamp(search: Search, change: pb.WatchSearchResponse, clock: Clock) -> str:
    """Return how long after its creation something happened to a search: when it did, not when we were told."""
    elapsed = 0.0
    if search.HasField("create_time"):
        when = change.time.ToNanoseconds() / 1e9 if change.HasField("time") else clock.wall()
        elapsed = max(0.0, when - search.create_time.ToNanoseconds() / 1e9)
    return f"{format_duration(elapsed):>7}"


def _search_lines(before: Search, now: Search) -> list[str]:
    lines = []
    if not before.name:
        lines.append(
            f"{now.name}: {short(now.spec.generator.generator)} on {short(now.spec.data.dataset)}, seed {now.spec.seed}"
        )
    if now.state != before.state and (before.name or now.state != search_pb2.SEARCH_STATE_RUNNING):
        lines.append(f"{now.name}: {state_word(now)}" + (f": {now.reason}" if now.reason else ""))
    return lines


def _trial_lines(before: Trial | None, now: Trial, proxy: str) -> list[str]:
    title = f"final trial {now.number}" if now.final else f"trial {now.number}"
    lines = []
    if before is None:
        sizes = "; ".join(f"{size.name}: {size}" for size in stages(now.network))
        origin = "" if now.final else f" (iteration {now.iteration})"
        lines.append(
            f"{title}{origin}: {format_count(now.network.parameters)} parameters, "
            f"{format_count(now.network.macs)} MACs{'; ' + sizes if sizes else ''}"
        )
    lines.extend(f"{title} {line}" for line in _rung_lines(before, now))
    if now.outcome == (before.outcome if before else search_pb2.TRIAL_OUTCOME_UNSPECIFIED):
        return lines
    split = measurement_pb2.SPLIT_TEST if now.final else measurement_pb2.SPLIT_VALIDATION
    word = "test" if now.final else "validation"
    accuracy = score(now, "accuracy", split)
    if accuracy is not None and now.outcome != search_pb2.TRIAL_OUTCOME_STOPPED:
        text = f"{title} {outcome_word(now)}: {word} accuracy {format_metric('accuracy', accuracy)}"
        if proxy and not now.final:
            text = f"{title} {outcome_word(now)}: {proxy} {format_metric(proxy, score(now, proxy))}"
        lines.append(f"{text}, {format_duration(now.device_time_s)} of device time")
    else:
        lines.append(f"{title} {outcome_word(now)}{_why(now)}")
    return lines


def _rung_lines(before: Trial | None, now: Trial) -> list[str]:
    """Return what became of a trial at its last rung, where that is news; its end is told by itself."""
    if not now.rungs or now.outcome == search_pb2.TRIAL_OUTCOME_STOPPED:
        return []
    rung = now.rungs[-1]
    if before is not None and len(before.rungs) == len(now.rungs) and before.rungs[-1].decision == rung.decision:
        return []
    if rung.decision == search_pb2.RUNG_DECISION_PROMOTED:
        return [f"goes on after {rung.step} updates: {rung.reason}"]
    return [f"is held after {rung.step} updates, {rung.values[0]:.6g}: {rung.reason}"]


def _why(trial: Trial) -> str:
    if trial.outcome == search_pb2.TRIAL_OUTCOME_INFEASIBLE:
        return f": {trial.violation.constraint.metric} is {trial.violation.value:g}"
    return f": {trial.failure.message}" if trial.failure.message else ""
