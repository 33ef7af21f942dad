"""Draws growth.png: cells and live branches per stage, validation accuracy and parameters, by iteration."""

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING

from clients.cli.display.view import score, short, stages
from clients.cli.report.collect import Collected
from nasmesh.v1 import measurement_pb2
from nasmesh.v1.search_pb2 import Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette: tells stages apart for colour-blind readers and in print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")


def growth_png(collected: Collected) -> bytes | None:
    """Return the plot as PNG bytes; None where matplotlib is not installed."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib.figure import Figure
    except ImportError:
        return None
    trials = [trial for trial in collected.trials if not trial.final]
    staged = any(stages(trial.network) for trial in trials)
    figure = Figure(figsize=(10, 7.2 if staged else 4.2), layout="constrained")
    axes = figure.subplots(2 if staged else 1, 2, squeeze=False)
    by_call = staged and len({trial.iteration for trial in trials}) == len(trials)
    places = [trial.iteration if by_call else trial.number for trial in trials]
    if staged:
        _draw_stages(axes[0][0], trials, places, "branches")
        _draw_stages(axes[0][1], trials, places, "cells")
    _draw_accuracy(axes[-1][0], trials, places)
    _draw_parameters(axes[-1][1], trials, places)
    for row in axes:
        for axis in row:
            _dress(axis, "iteration" if by_call else "trial", places)
    figure.suptitle(_title(collected), fontsize=12)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _title(collected: Collected) -> str:
    search = collected.search
    text = f"{short(search.name)}: {short(search.spec.generator.generator)} on {short(search.spec.data.dataset)}"
    test = collected.test_accuracy
    if test is None:
        return text
    return f"{text}\nfinal network: {collected.best.network.parameters:,} parameters, test accuracy {test:.2%}"


def _draw_stages(axis: "Axes", trials: Sequence[Trial], places: Sequence[int], what: str) -> None:
    from matplotlib.ticker import MaxNLocator

    names = sorted({size.name for trial in trials for size in stages(trial.network)})
    for index, name in enumerate(names):
        weight = len(names) - index  # stages of equal size lie on each other: the lower ones must show below the upper
        points = [
            (place, size.branches if what == "branches" else size.cells)
            for trial, place in zip(trials, places, strict=True)
            for size in stages(trial.network)
            if size.name == name
        ]
        axis.plot(
            *zip(*points, strict=True),
            color=_COLOURS[index % len(_COLOURS)],
            marker=_MARKERS[index % len(_MARKERS)],
            label=name,
            linewidth=0.7 + 0.9 * weight,
            markersize=3.5 + 1.6 * weight,
        )
    axis.set_title("live branches" if what == "branches" else "cells", loc="left", fontsize=10)
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(frameon=False, fontsize=9)


def _draw_accuracy(axis: "Axes", trials: Sequence[Trial], places: Sequence[int]) -> None:
    points = [
        (place, 100 * value)
        for trial, place in zip(trials, places, strict=True)
        if (value := score(trial, "accuracy", measurement_pb2.SPLIT_VALIDATION)) is not None
    ]
    axis.set_title("validation accuracy, %", loc="left", fontsize=10)
    if not points:
        return
    xs, ys = zip(*points, strict=True)
    best = [max(ys[: index + 1]) for index in range(len(ys))]
    axis.step(xs, best, where="post", color="#999999", label="best so far", zorder=1)
    axis.plot(xs, ys, color=_COLOURS[0], marker="o", linestyle="-" if len(xs) <= 12 else "", label="network")
    axis.legend(frameon=False, fontsize=9, loc="lower right")


def _draw_parameters(axis: "Axes", trials: Sequence[Trial], places: Sequence[int]) -> None:
    counts = [trial.network.parameters for trial in trials]
    axis.set_title("parameters, thousands", loc="left", fontsize=10)
    axis.plot(
        places,
        [count / 1e3 for count in counts],
        color=_COLOURS[1],
        marker="s",
        linestyle="-" if len(counts) <= 12 else "",
    )
    axis.set_ylim(bottom=0)


def _dress(axis: "Axes", label: str, places: Sequence[int]) -> None:
    axis.set_xlabel(label)
    axis.grid(axis="y", color="#dddddd", linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    if places and len(set(places)) <= 16:
        axis.set_xticks(sorted(set(places)))
