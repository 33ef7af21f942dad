"""A search as watched so far: a pure fold of WatchSearch messages, with what displays derive from it. Draws nothing."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from nasmesh.clock import Clock
from nasmesh.metrics import METRICS, is_proxy
from nasmesh.v1 import measurement_pb2, search_pb2
from nasmesh.v1 import scheduler_service_pb2 as pb
from nasmesh.v1.search_pb2 import Search, Trial

_STAGE = re.compile(r"(\d+) cells?, (\d+) branch(?:es)?")
ENDED_STATES = (
    search_pb2.SEARCH_STATE_SUCCEEDED,
    search_pb2.SEARCH_STATE_FAILED,
    search_pb2.SEARCH_STATE_CANCELLED,
)


@dataclass(frozen=True, slots=True)
class StageSize:
    """Cells and live branches of one stage of a network."""

    name: str
    cells: int
    branches: int

    def __str__(self) -> str:
        """Return the size as people read it."""
        return f"{plural(self.cells, 'cell')}, {plural(self.branches, 'branch', 'branches')}"


@dataclass(slots=True)
class SearchView:
    """The search, its trials by number and the progress of those at work; `waits`: why nothing of it happens."""

    search: Search = field(default_factory=Search)
    trials: dict[int, Trial] = field(default_factory=dict)
    progress: dict[str, pb.TrialProgress] = field(default_factory=dict)
    waits: str = ""

    def apply(self, change: pb.WatchSearchResponse) -> None:
        """Take in one message of the watch stream."""
        kind = change.WhichOneof("change")
        if kind == "search":
            self.search = change.search
        elif kind == "trial":
            self.trials[change.trial.number] = change.trial
            if change.trial.phase != search_pb2.TRIAL_PHASE_TRAINING:
                self.progress.pop(change.trial.name, None)
        elif kind == "progress":
            self.progress[change.progress.trial] = change.progress

    @property
    def ended(self) -> bool:
        """Whether the search has ended."""
        return self.search.state in ENDED_STATES

    @property
    def objective(self) -> search_pb2.Objective:
        """The objective that ranks: the first."""
        objectives = self.search.spec.objectives
        return objectives[0] if objectives else search_pb2.Objective(metric="accuracy", goal=search_pb2.GOAL_MAXIMIZE)

    @property
    def active(self) -> list[Trial]:
        """Trials without an outcome, those at work first."""
        waiting = (
            search_pb2.TRIAL_PHASE_TRAIN_QUEUED,
            search_pb2.TRIAL_PHASE_EVALUATE_QUEUED,
            search_pb2.TRIAL_PHASE_ADMIT_QUEUED,
            search_pb2.TRIAL_PHASE_AWAITS_EQUAL,
            search_pb2.TRIAL_PHASE_HELD,
        )
        return sorted(
            (trial for trial in self.trials.values() if trial.outcome == search_pb2.TRIAL_OUTCOME_UNSPECIFIED),
            key=lambda trial: (trial.phase == search_pb2.TRIAL_PHASE_HELD, trial.phase in waiting, trial.number),
        )

    def leaderboard(self, size: int) -> list[Trial]:
        """Return the best search-phase trials by the first objective, best first; none that is not trained whole."""
        scored = [
            trial
            for trial in self.trials.values()
            if not (trial.final or is_partly_trained(trial)) and score(trial, self.objective.metric) is not None
        ]
        sign = -1.0 if self.objective.goal == search_pb2.GOAL_MINIMIZE else 1.0
        return sorted(scored, key=lambda trial: -sign * (score(trial, self.objective.metric) or 0.0))[:size]

    def newest(self) -> Trial | None:
        """Return the trial recorded last, the one whose network the display describes."""
        return self.trials[max(self.trials)] if self.trials else None

    def elapsed_s(self, clock: Clock) -> float:
        """Return the seconds since the search was created, up to its end."""
        if not self.search.HasField("create_time"):
            return 0.0
        end = self.search.end_time.ToNanoseconds() / 1e9 if self.search.HasField("end_time") else clock.wall()
        return max(0.0, end - self.search.create_time.ToNanoseconds() / 1e9)

    def remaining_s(self, elapsed: float) -> float | None:
        """Estimate the seconds left in the phase under way; None while there is nothing to judge by."""
        if self.search.state == search_pb2.SEARCH_STATE_FINALIZING:
            return self._remaining_final_s()
        share = self._share_of_search()
        return elapsed * (1 - share) / share if share > 0.02 else None

    def _remaining_final_s(self) -> float | None:
        left = 0.0
        finals = [trial for trial in self.active if trial.final]
        for trial in finals:
            train = self.progress[trial.name].train if trial.name in self.progress else None
            if train is None or train.steps_per_s <= 0:
                return None
            left += (train.total_steps - train.step) / train.steps_per_s
        return left if finals else None

    def _share_of_search(self) -> float:
        """Return the part of the search phase that is done, by the tightest bound of the budget."""
        budget = self.search.spec.budget
        counts = self.search.trials
        done = counts.succeeded + counts.infeasible + counts.failed + counts.stopped
        work = sum(
            mark.train.step / mark.train.total_steps for mark in self.progress.values() if mark.train.total_steps > 0
        )
        shares = [0.0]
        if budget.max_trials:
            shares.append((done + work) / budget.max_trials)
        if budget.max_iterations:
            active = max(1, len(self.active))
            shares.append((max(0, self.search.iterations - 1) + min(1.0, work / active)) / budget.max_iterations)
        if budget.max_device_time_s:
            shares.append(self.search.device_time_s / budget.max_device_time_s)
        return min(1.0, max(shares))


def is_partly_trained(trial: Trial) -> bool:
    """Say whether what was measured of a trial is of a rung, and not of its whole training."""
    return bool(trial.rungs) and trial.outcome != search_pb2.TRIAL_OUTCOME_SUCCEEDED


def told_partly_trained(trial: Trial) -> str:
    """Return how far a trial that was scored at a rung was trained, as a clause."""
    updates = plural(trial.steps or trial.rungs[-1].step, "update")
    return f"not to its end: scored at rung {trial.rungs[-1].index}, after {updates}"


def told_note(trial: Trial) -> str:
    """Return what is noted of a trial, with how much of another network's weights it began from."""
    if not trial.HasField("inheritance"):
        return trial.note
    found = trial.inheritance
    own, share = found.taken + len(found.initialized), f"{found.taken_share:.2%}"
    began = f"began with {share} of its weights from another network, {found.taken} of {plural(own, 'parameter')}"
    return f"{trial.note}; {began}" if trial.note else began


def score(trial: Trial, metric: str, split: measurement_pb2.Split.ValueType | None = None) -> float | None:
    """Return a whole-network measurement of a trial, on one split where given; None where it was not measured.

    Without one, not what was measured on a further split, besides the one that the trial is scored on.
    """
    besides = trial.evaluate.further_split
    static = {"parameters": trial.network.parameters, "macs": trial.network.macs}
    found: float | None = None
    for item in trial.measurements:
        here = item.split == split if split is not None else not besides or item.split != besides
        if item.metric == metric and not item.element and here:
            found = item.value
    if found is None and metric in static and trial.outcome == search_pb2.TRIAL_OUTCOME_SUCCEEDED:
        return float(static[metric])
    return found


def ranking_proxy(search: Search) -> str:
    """Return the zero-cost proxy that ranks a search's trials; empty where a score does."""
    first = search.spec.objectives[0].metric if search.spec.objectives else ""
    return first if is_proxy(first, search.spec.evaluate) else ""


def stages(network: search_pb2.Network) -> Sequence[StageSize]:
    """Return the stages of a network whose summary counts cells and branches, in order; empty for other spaces."""
    found = []
    for name in sorted(network.summary):
        match = _STAGE.search(network.summary[name])
        if match:
            found.append(StageSize(name.replace("_", " "), int(match[1]), int(match[2])))
    return found


def format_metric(metric: str, value: float | None) -> str:
    """Return a measurement as people read it: ratios as percentages, counts with K, M, G."""
    if value is None:
        return "–"
    unit = METRICS[metric].unit if metric in METRICS else "ratio" if metric.endswith("_accuracy") else ""
    if unit == "ratio":
        return f"{value:.2%}"
    if unit in ("count", "bytes"):
        return format_count(value)
    return f"{value:.4g}{' ' + unit if unit else ''}"


def plural(count: int, one: str, many: str = "") -> str:
    """Return a count with its noun: 1 cell, 2 cells."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def format_count(value: float) -> str:
    """Return a count in three to four characters: 512, 26.5K, 1.21M."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if value >= limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.0f}"


def format_duration(seconds: float) -> str:
    """Return a duration as 42 s, 3:07 or 1:02:33."""
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def duration_in_words(seconds: float) -> str:
    """Return a duration as a sentence has it: 45 s, 4.5 min, 1 h 30 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 600:
        return f"{seconds / 60:.2g} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return " ".join([*([f"{hours} h"] if hours else []), *([f"{minutes} min"] if minutes or not hours else [])])


def short(name: str) -> str:
    """Return the last part of a resource name; of a digest the first 12 digits."""
    last = name.rsplit("/", 1)[-1]
    return last[:12] if len(last) == 64 else last


def enum_word(full: str, prefix: str) -> str:
    """Return an enum value's name as people read it: SEARCH_STATE_RUNNING becomes running."""
    return full.removeprefix(prefix).lower().replace("_", " ")


def state_word(search: Search) -> str:
    """Return a search's state as a word."""
    return enum_word(search_pb2.SearchState.Name(search.state), "SEARCH_STATE_")


def outcome_word(trial: Trial) -> str:
    """Return what became of a trial, or what is being done, as words."""
    if trial.outcome != search_pb2.TRIAL_OUTCOME_UNSPECIFIED:
        return enum_word(search_pb2.TrialOutcome.Name(trial.outcome), "TRIAL_OUTCOME_")
    if trial.phase != search_pb2.TRIAL_PHASE_UNSPECIFIED:
        return enum_word(search_pb2.TrialPhase.Name(trial.phase), "TRIAL_PHASE_")
    return "recorded"


def view_of(search: Search, trials: Iterable[Trial]) -> SearchView:
    """Return the view of a search that was listed, not watched."""
    return SearchView(search=search, trials={trial.number: trial for trial in trials})
