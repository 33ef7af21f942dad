"""Puts what was gathered into report.json: keys are lowerCamelCase like protobuf's own JSON."""

from collections.abc import Iterable, Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from clients.cli.display.view import is_partly_trained, outcome_word, score, stages, state_word
from clients.cli.output import message_dict
from clients.cli.report.collect import Collected
from clients.cli.report.finals import final_json
from clients.cli.report.reached import reached, step_json
from nasmesh.v1 import measurement_pb2, search_pb2
from nasmesh.v1.search_pb2 import Trial

FORMAT = "nasmesh.report/1"
SPLITS = {
    measurement_pb2.SPLIT_UNSPECIFIED: "",
    measurement_pb2.SPLIT_TRAIN: "train",
    measurement_pb2.SPLIT_VALIDATION: "validation",
    measurement_pb2.SPLIT_TEST: "test",
}


def report_json(
    collected: Collected,
    *,
    verification: Sequence[str],
    files: Sequence[str],
    copied: Iterable[measurement_pb2.Measurement] = (),
) -> dict[str, object]:
    """Return report.json's content; keys are lowerCamelCase like protobuf's own JSON.

    `copied` was measured of an 8-bit copy that the search did not make.
    """
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
        "data": _data_json(collected),
        "best": _best_json(best, copied),
        "test": {
            "accuracy": collected.test_accuracy,
            "metric": collected.metric,
            "value": collected.test_score,
            "scored": sum(len(final.trials) for final in collected.finals),
        },
        "finals": [final_json(final) for final in collected.finals],
        "constraints": constraints_json(collected),
        "transfer": message_dict(search.spec.transfer) if search.spec.HasField("transfer") else None,
        "lineage": [trial.name for trial in collected.lineage],
        "networks": [network_json(trial) for trial in collected.trials],
        "cost": {
            "wallTimeS": round(collected.wall_time_s, 3),
            "deviceTimeS": round(search.device_time_s, 3),
            "iterations": search.iterations,
            "trials": message_dict(search.trials),
        },
        "reached": [step_json(step) for step in reached(search, collected.trials)],
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


def measurements(trial: Trial, further: Iterable[measurement_pb2.Measurement] = ()) -> list[dict[str, object]]:
    """Return a trial's whole-network measurements, and further ones; single elements' stay with the scheduler."""
    return [
        {"metric": item.metric, "split": SPLITS[item.split], "value": item.value, "unit": item.unit}
        for item in (*trial.measurements, *further)
        if not item.element
    ]


def constraints_json(collected: Collected) -> list[dict[str, object]]:
    """Return each constraint with the value that the best network has."""
    found: list[dict[str, object]] = []
    for item in collected.search.spec.constraints:
        bounds = {name: getattr(item, name) for name in ("min", "max") if item.HasField(name)}
        found.append({"metric": item.metric, **bounds, "value": score(collected.best, item.metric)})
    return found


def _data_json(collected: Collected) -> dict[str, object]:
    data = collected.search.spec.data
    return {
        "dataset": data.dataset,
        "digest": collected.best.data_digest,
        "splitSeed": data.split_seed,
        "samples": sample_counts(collected.best),
        "validationFraction": data.validation_fraction,
        "testFraction": data.test_fraction if data.HasField("test_fraction") else None,
        "classNames": collected.class_names,
    }


def _best_json(best: Trial, copied: Iterable[measurement_pb2.Measurement]) -> dict[str, object]:
    return {
        "trial": best.name,
        "network": best.network.name,
        "object": message_dict(best.model),
        "parameters": best.network.parameters,
        "macs": best.network.macs,
        "measurements": measurements(best, copied),
        "seed": best.train.seed,
        "train": message_dict(best.train),
        "steps": best.steps,
        "partlyTrained": is_partly_trained(best),
        "checkpoint": message_dict(best.checkpoint),
        "deviceTimeS": round(best.device_time_s, 3),
    }


def sample_counts(best: Trial) -> dict[str, int]:
    """Return on how many samples a network was trained and scored ("tested"), as its servers counted them."""
    scored = {measurement_pb2.SPLIT_VALIDATION: "validated", measurement_pb2.SPLIT_TEST: "tested"}
    given = (("trained", "train.samples"), (scored.get(best.evaluate.split, "scored"), "evaluate.samples"))
    counts = ((name, best.environment.get(key, "")) for name, key in given)
    return {name: int(count) for name, count in counts if count.isdecimal()}


def _time(search: search_pb2.Search, field: str) -> str:
    stamp: Timestamp = search.create_time if field == "create_time" else search.end_time
    return stamp.ToJsonString() if search.HasField("create_time") and stamp.ByteSize() else ""
