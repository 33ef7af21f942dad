"""Gathers what a report says from the scheduler, and puts it into JSON. Judges nothing, draws nothing."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

import nasmesh
from clients.cli.display.view import outcome_word, score, stages, state_word
from clients.cli.output import message_dict
from nasmesh.client import Client
from nasmesh.errors import NasmeshError
from nasmesh.v1 import dataset_pb2, measurement_pb2, search_pb2
from nasmesh.v1.search_pb2 import Search, Trial

FORMAT = "nasmesh.report/1"
_SPLITS = {
    measurement_pb2.SPLIT_UNSPECIFIED: "",
    measurement_pb2.SPLIT_TRAIN: "train",
    measurement_pb2.SPLIT_VALIDATION: "validation",
    measurement_pb2.SPLIT_TEST: "test",
}


@dataclass(frozen=True, slots=True)
class Collected:
    """A search with its trials, its best trial, and who worked on it."""

    search: Search
    trials: Sequence[Trial]
    best: Trial
    dataset: dataset_pb2.Dataset | None
    versions: Mapping[str, str]

    @property
    def wall_time_s(self) -> float:
        """Seconds from creation to end; 0 while it runs."""
        if not self.search.HasField("end_time"):
            return 0.0
        return (self.search.end_time.ToNanoseconds() - self.search.create_time.ToNanoseconds()) / 1e9

    @property
    def test_accuracy(self) -> float | None:
        """The one score on the test split; None before the final evaluation."""
        return score(self.best, "accuracy", measurement_pb2.SPLIT_TEST)

    @property
    def lineage(self) -> list[Trial]:
        """The trials that the best descends from by first parents, oldest first, itself last."""
        by_name = {trial.name: trial for trial in self.trials}
        chain: list[Trial] = []
        here: Trial | None = self.best
        while here is not None and here not in chain:
            chain.append(here)
            here = by_name.get(here.parents[0]) if here.parents else None
        return chain[::-1]


def collect(client: Client, name: str) -> Collected:
    """Fetch everything that a report needs; raises NotFound (SEARCH_UNKNOWN) and Stale (NOT_TRAINED)."""
    search = client.get_search(name)
    best = client.best(name)
    trials = list(client.list_trials(name))
    info = client.server_info()
    versions = {"nasmesh": nasmesh.__version__, "scheduler": info.version, "python": platform.python_version()}
    for generator in client.generators():
        if generator.name == search.spec.generator.generator:
            versions[generator.name] = generator.version
    return Collected(search, trials, best, _dataset(client, search), versions)


def _dataset(client: Client, search: Search) -> dataset_pb2.Dataset | None:
    try:
        return client.get_dataset(search.spec.data.dataset)
    except NasmeshError:  # its servers may have left since; the report says less, and is right
        return None


def report_json(collected: Collected, *, verification: Sequence[str], files: Sequence[str]) -> dict[str, object]:
    """Return report.json's content; keys are lowerCamelCase like protobuf's own JSON."""
    search, best = collected.search, collected.best
    return {
        "format": FORMAT,
        "search": search.name,
        "state": state_word(search),
        "reason": search.reason,
        "created": _time(search, "create_time"),
        "ended": _time(search, "end_time"),
        "seed": search.spec.seed,
        "versions": dict(collected.versions),
        "data": {
            "dataset": search.spec.data.dataset,
            "digest": best.data_digest,
            "splitSeed": search.spec.data.split_seed,
            "splits": _splits(collected.dataset),
        },
        "best": {
            "trial": best.name,
            "network": best.network.name,
            "object": message_dict(best.model),
            "parameters": best.network.parameters,
            "macs": best.network.macs,
            "measurements": measurements(best),
        },
        "test": {"accuracy": collected.test_accuracy, "scored": sum(1 for t in collected.trials if _is_tested(t))},
        "lineage": [trial.name for trial in collected.lineage],
        "networks": [network_json(trial) for trial in collected.trials],
        "cost": {
            "wallTimeS": round(collected.wall_time_s, 3),
            "deviceTimeS": round(search.device_time_s, 3),
            "iterations": search.iterations,
            "trials": message_dict(search.trials),
        },
        "environment": dict(sorted(best.environment.items())),
        "verification": list(verification),
        "files": list(files),
        "spec": message_dict(search.spec),
    }


def network_json(trial: Trial) -> dict[str, object]:
    """Return one network's row: what it is, what it scored, what it cost, where it comes from."""
    return {
        "trial": trial.name,
        "number": trial.number,
        "iteration": trial.iteration,
        "final": trial.final,
        "outcome": outcome_word(trial),
        "failure": message_dict(trial.failure) if trial.HasField("failure") else None,
        "network": trial.network.name,
        "parents": list(trial.parents),
        "note": trial.note,
        "parameters": trial.network.parameters,
        "macs": trial.network.macs,
        "stages": [
            {"name": stage.name, "cells": stage.cells, "branches": stage.branches} for stage in stages(trial.network)
        ],
        "validationAccuracy": score(trial, "accuracy", measurement_pb2.SPLIT_VALIDATION),
        "testAccuracy": score(trial, "accuracy", measurement_pb2.SPLIT_TEST),
        "deviceTimeS": round(trial.device_time_s, 3),
        "seed": trial.train.seed,
        "dataDigest": trial.data_digest,
    }


def measurements(trial: Trial) -> list[dict[str, object]]:
    """Return a trial's whole-network measurements; those of single elements stay with the scheduler."""
    return [
        {"metric": item.metric, "split": _SPLITS[item.split], "value": item.value, "unit": item.unit}
        for item in trial.measurements
        if not item.element
    ]


def _is_tested(trial: Trial) -> bool:
    return score(trial, "accuracy", measurement_pb2.SPLIT_TEST) is not None


def _splits(dataset: dataset_pb2.Dataset | None) -> dict[str, int]:
    return {_SPLITS[part.split]: part.samples for part in dataset.splits} if dataset else {}


def _time(search: search_pb2.Search, field: str) -> str:
    stamp: Timestamp = search.create_time if field == "create_time" else search.end_time
    return stamp.ToJsonString() if search.HasField("create_time") and stamp.ByteSize() else ""
