"""Draws a SearchView with rich: header, stages, training at work, leaderboard, final phase, end."""

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from clients.cli.display.view import (
    SearchView,
    format_count,
    format_duration,
    format_metric,
    outcome_word,
    plural,
    score,
    short,
    stages,
    state_word,
)
from nasmesh.clock import Clock
from nasmesh.v1 import measurement_pb2, search_pb2
from nasmesh.v1.search_pb2 import Trial

LEADERS = 5
_STATE_STYLES = {
    search_pb2.SEARCH_STATE_RUNNING: "cyan",
    search_pb2.SEARCH_STATE_FINALIZING: "magenta",
    search_pb2.SEARCH_STATE_SUCCEEDED: "green",
    search_pb2.SEARCH_STATE_FAILED: "red",
    search_pb2.SEARCH_STATE_CANCELLED: "yellow",
    search_pb2.SEARCH_STATE_PAUSED: "yellow",
}


def render(view: SearchView, *, clock: Clock) -> RenderableType:
    """Return the whole display."""
    parts: list[RenderableType] = [Rule(style="dim"), header(view, clock=clock)]
    for part in (_stages(view), _training(view), _leaderboard(view)):
        if part is not None:
            parts += [Text(""), part]
    parts.append(Rule(style="dim"))
    return Group(*parts)


def header(view: SearchView, *, clock: Clock) -> Text:
    """Return the search, data and generator, state, iteration, elapsed and remaining time; why nothing happens."""
    search = view.search
    budget = search.spec.budget
    line = Text()
    line.append(search.name or "search", style="bold")
    line.append(f"  {short(search.spec.generator.generator)} on {short(search.spec.data.dataset)}", style="dim")
    line.append("  ")
    line.append(state_word(search), style=_STATE_STYLES.get(search.state, ""))
    bound = f" of {budget.max_iterations}" if budget.max_iterations else ""
    line.append(f"\niteration {search.iterations}{bound}   trials {search.trials.succeeded} scored")
    for count, word in (
        (search.trials.infeasible, "infeasible"),
        (search.trials.failed, "failed"),
        (search.trials.stopped, "stopped"),
        (search.trials.held, "held at rungs"),
        (search.trials.lost, "lost"),
    ):
        if count:
            line.append(f", {count} {word}", style="yellow")
    elapsed = view.elapsed_s(clock)
    line.append(f"   elapsed {format_duration(elapsed)}")
    remaining = None if view.ended else view.remaining_s(elapsed)
    if remaining is not None:
        phase = "the final network" if search.state == search_pb2.SEARCH_STATE_FINALIZING else "the search phase"
        line.append(f"   about {format_duration(remaining)} left of {phase}", style="dim")
    if view.waits:
        line.append(f"\n{view.waits}", style="yellow")
    return line


def _stages(view: SearchView) -> RenderableType | None:
    trial = view.newest()
    if trial is None:
        return None
    sizes = stages(trial.network)
    title = Text.assemble(
        (f"{'final network' if trial.final else 'network'} of trial {trial.number}  ", "bold"),
        f"{format_count(trial.network.parameters)} parameters, {format_count(trial.network.macs)} MACs",
    )
    if not sizes:
        return title
    table = Table.grid(padding=(0, 2))
    widest = max(size.branches for size in sizes)
    for size in sizes:
        table.add_row(
            Text(size.name, style="dim"),
            Text("▦" * min(size.cells, 20), style="blue"),
            plural(size.cells, "cell"),
            _bar(size.branches / max(1, widest), 20, "blue"),
            plural(size.branches, "branch", "branches"),
        )
    return Group(title, Padding(table, (0, 0, 0, 2)))


def _bar(share: float, width: int, style: str) -> Text:
    full = round(max(0.0, min(1.0, share)) * width)
    return Text.assemble(("━" * full, style), ("─" * (width - full), "bright_black"))


def _training(view: SearchView) -> RenderableType | None:
    rows = view.active[:4]
    if not rows:
        return None
    table = Table.grid(padding=(0, 2))
    for trial in rows:
        name = f"final trial {trial.number}" if trial.final else f"trial {trial.number}"
        mark = view.progress.get(trial.name)
        if mark is None or trial.phase != search_pb2.TRIAL_PHASE_TRAINING or mark.train.total_steps <= 0:
            table.add_row(Text(name, style="bold"), Text(outcome_word(trial), style="dim"))
            continue
        train = mark.train
        table.add_row(
            Text(name, style="bold"),
            _bar(train.step / train.total_steps, 24, "magenta" if trial.final else "cyan"),
            f"{train.step}/{train.total_steps}",
            f"{train.steps_per_s:.1f} step/s",
            f"loss {train.loss:.3f}",
            f"train acc {train.accuracy:.1%}",
        )
    rest = len(view.active) - len(rows)
    return Group(table, Text(f"and {rest} more", style="dim")) if rest else table


def _leaderboard(view: SearchView) -> RenderableType | None:
    leaders = view.leaderboard(LEADERS)
    if not leaders:
        return None
    metric = view.objective.metric
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("")
    for column in ("trial", "iteration", "parameters", "MACs", *_score_columns(metric)):
        table.add_column(column, justify="right")
    for rank, trial in enumerate(leaders, start=1):
        table.add_row(
            str(rank),
            str(trial.number),
            str(trial.iteration),
            format_count(trial.network.parameters),
            format_count(trial.network.macs),
            *_scores(trial, metric),
            style="bold green" if rank == 1 else "",
        )
    return table


def _score_columns(metric: str) -> tuple[str, ...]:
    return ("val accuracy",) if metric == "accuracy" else (metric, "val accuracy")


def _scores(trial: Trial, metric: str) -> tuple[str, ...]:
    accuracy = format_metric("accuracy", score(trial, "accuracy", measurement_pb2.SPLIT_VALIDATION))
    return (accuracy,) if metric == "accuracy" else (format_metric(metric, score(trial, metric)), accuracy)
