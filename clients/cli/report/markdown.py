"""Writes report.md: the result, how to load it, every network, cost, lineage, settings."""

import json
from collections.abc import Iterable, Sequence

from clients.cli.display.view import (
    format_count,
    format_duration,
    format_metric,
    is_partly_trained,
    outcome_word,
    ranking_proxy,
    score,
    short,
    stages,
    state_word,
    told_note,
    told_partly_trained,
)
from clients.cli.output import message_dict
from clients.cli.report.card import snippet, units_of
from clients.cli.report.collect import Collected
from clients.cli.report.finals import chosen_by
from clients.cli.report.reached import reached
from clients.cli.report.verify import Verification
from nasmesh.v1 import measurement_pb2
from nasmesh.v1.search_pb2 import Trial


def report_md(collected: Collected, verification: Verification, *, plot: bool) -> str:
    """Return report.md; `plot` says whether growth.png is beside it."""
    parts = [
        _result(collected),
        ["![growth of the network](growth.png)"] if plot else [],
        _load(collected, verification),
        _networks(collected),
        _lineage(collected),
        _cost(collected),
        _reached(collected),
        ["## Checked", "", *(f"* {check}" for check in verification.checks)],
        _settings(collected),
    ]
    return "\n".join("\n".join(part) + "\n" for part in parts if part)


def _load(collected: Collected, verification: Verification) -> list[str]:
    text = snippet(verification.facts, pictures=collected.has_pictures, units=units_of(collected))
    return ["## Load it", "", "```python", text.rstrip(), "```"]


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(headers)} |", f"| {' | '.join('---' for _ in headers)} |"]
    return lines + [f"| {' | '.join(cell.replace('|', '/').replace(chr(10), ' ') for cell in row)} |" for row in rows]


def _result(collected: Collected) -> list[str]:
    search, best = collected.search, collected.best
    tested, metric = _tested(collected), collected.metric
    rows = [
        ("search", search.name),
        ("state", f"{state_word(search)}{': ' + search.reason if search.reason else ''}"),
        (
            "algorithm",
            f"{search.spec.generator.generator} {collected.versions.get(search.spec.generator.generator, '')}".strip(),
        ),
        ("data", f"{search.spec.data.dataset}, SHA-256 {best.data_digest or 'not recorded'}"),
        ("best network", f"{best.network.name} (trial {best.number})"),
        ("parameters", f"{best.network.parameters:,}"),
        ("multiply-accumulates", f"{best.network.macs:,}"),
        (f"validation {metric}", format_metric(metric, score(best, metric, measurement_pb2.SPLIT_VALIDATION))),
        ("latency at batch 1", format_metric("latency_p50", score(best, "latency_p50"))),
        ("seed", str(search.spec.seed)),
    ]
    return [f"# {short(search.name)}", "", tested, "", *_table(("", ""), rows)]


def _tested(collected: Collected) -> str:
    """Return what may be claimed of the test score."""
    test, metric = collected.test_score, collected.metric
    if test is None and is_partly_trained(collected.best):
        how = told_partly_trained(collected.best)
        return f"The best network was trained {how}, and no other to its end. The test split was not used."
    if test is None:
        return "The test split was not used; the final phase has not been run."
    claim = (
        f"**Test {metric} {format_metric(metric, test)}**, scored once by the final evaluation; the search saw train "
        "and validation only."
    )
    trainings = sum(len(final.trials) for final in collected.finals)
    if trainings < 2:
        return claim
    rows = [f"* {final.source}: {final}" for final in collected.finals]
    chosen = chosen_by(collected.search, collected.best)
    how = (
        "the one that scored best, which is partly luck: judge it, and the method, by the means."
        if chosen is None
        else f"the one chosen by {chosen}, whatever its test score."
    )
    return "\n".join([f"{claim} {trainings} final trainings were scored once each, and this is {how}", "", *rows])


def _networks(collected: Collected) -> list[str]:
    proxy = ranking_proxy(collected.search)
    headers = (
        "trial",
        "iteration",
        "outcome",
        "cells, branches by stage",
        "parameters",
        "MACs",
        *([proxy] if proxy else []),
        "validation",
        "test",
        "device",
    )
    rows = (_network_row(trial, collected.metric, proxy) for trial in collected.trials)
    return ["## Networks", "", *_table(headers, rows)]


def _network_row(trial: Trial, metric: str, proxy: str) -> tuple[str, ...]:
    sizes = " · ".join(f"{size.cells}, {size.branches}" for size in stages(trial.network))
    return (
        str(trial.number),
        "final" if trial.final else str(trial.iteration),
        outcome_word(trial) + (f": {trial.failure.message}" if trial.failure.message else ""),
        sizes,
        format_count(trial.network.parameters),
        format_count(trial.network.macs),
        *([format_metric(proxy, score(trial, proxy))] if proxy else []),
        format_metric(metric, score(trial, metric, measurement_pb2.SPLIT_VALIDATION)),
        format_metric(metric, score(trial, metric, measurement_pb2.SPLIT_TEST)),
        format_duration(trial.device_time_s),
    )


def _lineage(collected: Collected) -> list[str]:
    steps = [
        f"{index}. {_step(trial, collected)}{' (final)' if trial.final else f', iteration {trial.iteration}'}"
        f"{': ' + told_note(trial) if told_note(trial) else ''}"
        for index, trial in enumerate(collected.lineage, start=1)
    ]
    return ["## Lineage of the best network", "", *steps]


def _step(trial: Trial, collected: Collected) -> str:
    ours = trial.name.startswith(f"{collected.search.name}/")
    return f"trial {trial.number}" if ours else trial.name


def _cost(collected: Collected) -> list[str]:
    search = collected.search
    counts = search.trials
    rows = [
        ("wall time", format_duration(collected.wall_time_s)),
        ("device time", format_duration(search.device_time_s)),
        ("generator calls", str(search.iterations)),
        (
            "trials",
            f"{counts.succeeded} scored, {counts.infeasible} infeasible, {counts.failed} failed, {counts.lost} lost",
        ),
    ]
    return ["## Cost", "", *_table(("", ""), rows)]


def _reached(collected: Collected) -> list[str]:
    """Return what had been found after what time: one number for the end would hide how long it took."""
    steps = reached(collected.search, collected.trials)
    if not steps:
        return []
    metric = collected.search.spec.objectives[0].metric
    rows = (
        (
            format_metric(metric, step.value),
            short(step.trial),
            str(step.trials),
            format_duration(step.wall_time_s),
            format_duration(step.device_time_s),
        )
        for step in steps
    )
    headers = (metric, "trial", "trials until then", "wall time", "device time")
    return [f"## Time to {metric.replace('_', ' ')}", "", *_table(headers, rows)]


def _settings(collected: Collected) -> list[str]:
    environment = sorted({**collected.versions, **collected.best.environment}.items())
    text = json.dumps(message_dict(collected.search.spec), indent=2, ensure_ascii=False)
    return [
        "## Versions and environment",
        "",
        *_table(("", ""), environment),
        "",
        "## Specification, defaults filled in",
        "",
        "```json",
        text,
        "```",
    ]
