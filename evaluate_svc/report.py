"""The evaluation's report: everything that was observed, as one JSON object for people and scripts."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evaluate_svc import intervals
from evaluate_svc.deviations import Deviations
from evaluate_svc.latency import WARM_UP_RUNS, Latency
from evaluate_svc.scores import ClassScore, Scores
from evaluate_svc.scoring import Scored
from evaluate_svc.speed import Speed
from nasmesh.data.load import Splits
from nasmesh.v1 import evaluation_pb2, measurement_pb2

FORMAT_VERSION = 1
_DENSE_CLASSES = 1000  # above, a matrix of numbers would be megabytes of zeros


@dataclass(frozen=True, slots=True)
class Findings:
    """All that an evaluation found; `quantized` describes the 8-bit copy where there is one."""

    scored: Scored
    speed: Speed
    peak_memory_bytes: int | None
    quantized: Mapping[str, Any] | None
    environment: Mapping[str, str]


def report(config: evaluation_pb2.EvaluateConfig, splits: Splits, found: Findings) -> bytes:
    """Return the report as JSON text."""
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "split": measurement_pb2.Split.Name(config.split).removeprefix("SPLIT_").lower(),
        "samples": found.scored.samples,
        "dataset": splits.info.name,
        "data_digest": splits.digest,
        "confidence": config.confidence,
        "environment": dict(found.environment),
    }
    if found.scored.scores is not None:
        content |= _classification(found.scored.scores, splits.info.class_names, config)
    if found.scored.deviations is not None:
        content |= _regression(found.scored.deviations, config)
    if found.scored.further:
        content["metrics"] = found.scored.further
    content |= _speed(found.speed, config)
    if found.peak_memory_bytes is not None:
        content["memory"] = {"batch_size": 1, "peak_bytes": found.peak_memory_bytes}
    if found.quantized is not None:
        content["int8"] = dict(found.quantized)
    return json.dumps(content, sort_keys=True, allow_nan=False).encode()


def _share(hits: int, samples: int, confidence: float) -> dict[str, float]:
    low, high = intervals.wilson(hits, samples, confidence)
    return {"value": hits / samples, "low": low, "high": high}


def _mean(mean: float, variance: float, samples: int, confidence: float) -> dict[str, float]:
    low, high = intervals.of_mean(mean, variance, samples, confidence)
    return {"value": mean, **({"low": low, "high": high} if math.isfinite(low) else {})}


def _classification(scores: Scores, names: tuple[str, ...], config: evaluation_pb2.EvaluateConfig) -> dict[str, Any]:
    classes = scores.by_class()
    return {
        "task": "classification",
        "accuracy": _share(scores.hits, scores.samples, config.confidence),
        "top5_accuracy": _share(scores.top5_hits, scores.samples, config.confidence),
        "loss": _mean(scores.loss, scores.loss_variance, scores.samples, config.confidence),
        "calibration": {"ece": scores.ece, "bins": [one._asdict() for one in scores.calibration()]},
        "confusion": _confusion(scores),
        "classes": [_class(one, names, config.confidence) for one in classes],
        "macro": {
            name: sum(getattr(one, name) for one in classes) / len(classes) for name in ("precision", "recall", "f1")
        },
    }


def _confusion(scores: Scores) -> dict[str, Any]:
    """Return counts by label and answer: rows of a matrix, or [label, answer, samples] where that would be mostly 0."""
    if scores.classes <= _DENSE_CLASSES:
        return {"rows": "labels", "columns": "answers", "matrix": scores.confusion.tolist()}
    labels, answers = scores.confusion.nonzero()
    counts = scores.confusion[labels, answers]
    return {"cells": [list(cell) for cell in zip(labels.tolist(), answers.tolist(), counts.tolist(), strict=True)]}


def _class(score: ClassScore, names: tuple[str, ...], confidence: float) -> dict[str, Any]:
    return {
        "label": score.label,
        **({"name": names[score.label]} if names else {}),
        "samples": score.samples,
        "recall": score.recall,
        "recall_interval": list(intervals.wilson(score.hits, score.samples, confidence)),
        "precision": score.precision,
        "f1": score.f1,
    }


def _regression(found: Deviations, config: evaluation_pb2.EvaluateConfig) -> dict[str, Any]:
    columns = zip(
        found.mse_by_target, found.mse_variance_by_target, found.mae_by_target, found.r2_by_target, strict=True
    )
    targets = [
        {
            "mse": _mean(float(mse), float(variance), found.samples, config.confidence),
            "rmse": math.sqrt(mse),
            # The variance of absolute errors is what their squares' mean has above their mean's square.
            "mae": _mean(float(mae), float(mse - mae**2), found.samples, config.confidence),
            "r2": float(r2),
        }
        for mse, variance, mae, r2 in columns
    ]
    whole = {"loss": found.loss, "mse": found.mse, "rmse": found.rmse, "mae": found.mae, "r2": found.r2}
    return {"task": "regression", **whole, "targets": targets}


def _speed(speed: Speed, config: evaluation_pb2.EvaluateConfig) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if speed.latency is not None:
        content["latency"] = {
            "unit": "ms",
            "batch_size": 1,
            "threads": config.threads,
            "pinned_processors": list(speed.processors),
            "warm_up_runs": WARM_UP_RUNS,
            **latency_entry(speed.latency),
            "repeats": [latency_entry(one) for one in speed.repeats],
        }
    if speed.throughput:
        content["throughput"] = [
            {"batch_size": size, "samples_per_s": rate, "runs": runs} for size, (rate, runs) in speed.throughput.items()
        ]
    return content


def latency_entry(found: Latency) -> dict[str, float]:
    """Return a latency as the report has it, in milliseconds."""
    return {"p50": found.p50_ms, "p99": found.p99_ms, "least": found.least_ms, "runs": found.runs}
