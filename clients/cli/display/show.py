"""What `nasmesh search show` prints."""

from collections.abc import Sequence

from clients.cli.display.render import header
from clients.cli.display.view import format_count, format_duration, format_metric, outcome_word, score, view_of
from clients.cli.output import print_line, print_table
from nasmesh.clock import SystemClock
from nasmesh.v1 import measurement_pb2
from nasmesh.v1.search_pb2 import Search, Trial


def print_search(search: Search, trials: Sequence[Trial]) -> None:
    """Print a search's header and a row for each of its trials."""
    view = view_of(search, trials)
    print_line(header(view, clock=SystemClock()).plain)
    if search.reason:
        print_line(search.reason)
    print_line("")
    headers = ("trial", "iteration", "outcome", ">parameters", ">MACs", ">validation", ">test", ">device time", "note")
    print_table(headers, [_row(trial) for trial in trials], empty="no trial has been recorded yet")


def _row(trial: Trial) -> tuple[str, ...]:
    return (
        str(trial.number),
        "final" if trial.final else str(trial.iteration),
        outcome_word(trial),
        format_count(trial.network.parameters),
        format_count(trial.network.macs),
        format_metric("accuracy", score(trial, "accuracy", measurement_pb2.SPLIT_VALIDATION)),
        format_metric("accuracy", score(trial, "accuracy", measurement_pb2.SPLIT_TEST)),
        format_duration(trial.device_time_s),
        trial.failure.message or trial.note,
    )
