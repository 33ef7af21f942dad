"""A search as runs: what experiment trackers call an ended trial, with numbers by name and step."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from google.protobuf.json_format import MessageToDict

from clients.cli.display.view import outcome_word
from clients.cli.report.figures import SPLITS
from nasmesh.v1 import search_pb2

UNSPLIT = "network"
"""Stands where others have the split that a number was measured on."""
_VALUE_CHARS = 500  # what every version of MLflow takes


@dataclass(frozen=True, slots=True)
class Point:
    """One number; `step` counts optimiser updates."""

    name: str
    step: int
    value: float


@dataclass(frozen=True, slots=True)
class Run:
    """One ended trial. Times are in seconds since 1970."""

    trial: str
    number: int
    outcome: str
    begin_s: float
    end_s: float
    points: list[Point]
    parameters: dict[str, str]
    tags: dict[str, str]

    @property
    def folder(self) -> str:
        """Its name among a search's runs: they sort as they were recorded."""
        return f"trial-{self.number:06d}"


def runs_of(trials: list[search_pb2.Trial]) -> Iterator[Run]:
    """Yield the runs of the trials that have ended, in their order."""
    for trial in trials:
        if trial.outcome:
            yield _run(trial)


def _run(trial: search_pb2.Trial) -> Run:
    return Run(
        trial=trial.name,
        number=trial.number,
        outcome=outcome_word(trial),
        begin_s=trial.create_time.ToNanoseconds() / 1e9,
        end_s=trial.end_time.ToNanoseconds() / 1e9,
        points=list(_points(trial)),
        parameters=_parameters(trial),
        tags=_tags(trial),
    )


def _points(trial: search_pb2.Trial) -> Iterator[Point]:
    """Yield "{split}/{metric}", "{split}/{metric}/{element}"; what belongs to no split is under "network"."""
    for found in trial.measurements:
        parts = (SPLITS[found.split] or UNSPLIT, found.metric, found.element)
        yield Point("/".join(part for part in parts if part), found.step, found.value)
    measured = {found.metric for found in trial.measurements if not found.element}
    network = trial.network
    for name, value in (("parameters", network.parameters), ("macs", network.macs)):
        if trial.HasField("network") and name not in measured:
            yield Point(f"{UNSPLIT}/{name}", 0, float(value))
    yield Point("device_time_s", trial.steps, trial.device_time_s)


def _parameters(trial: search_pb2.Trial) -> dict[str, str]:
    """Return the choices, and the control parameters by dotted path."""
    found = {f"choices.{name}": value for name, value in sorted(trial.choices.values.items())}
    found |= dict(_flat("train", MessageToDict(trial.train, preserving_proto_field_name=True)))
    return {name: value[:_VALUE_CHARS] for name, value in found.items()}


def _flat(path: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(f"{path}.{name}", inner)
    else:
        yield path, value if isinstance(value, str) else json.dumps(value)


def _tags(trial: search_pb2.Trial) -> dict[str, str]:
    known = {
        "trial": trial.name,
        "outcome": outcome_word(trial),
        "phase": "final" if trial.final else "search",
        "network": trial.network.name,
        "parents": ", ".join(trial.parents),
        "note": trial.note,
        "data_digest": trial.data_digest,
        "failure": trial.failure.message,
        "reused_from": trial.reused_from,
    }
    return {f"nasmesh.{name}": value[:_VALUE_CHARS] for name, value in known.items() if value}
