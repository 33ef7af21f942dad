"""How a network is scored: defaults, overrides, checks. Protobuf only, so the scheduler uses it too."""

from nasmesh.errors import FieldViolation, Invalid
from nasmesh.v1 import evaluation_pb2 as pb
from nasmesh.v1 import measurement_pb2

_DEFAULTS: dict[str, int | bool] = {"batch_size": 256, "latency": True, "latency_runs": 50, "threads": 1}
_BOUNDS = {"batch_size": (1, 65_536), "latency_runs": (1, 100_000), "threads": (1, 1024)}
_SPLITS = (measurement_pb2.SPLIT_TRAIN, measurement_pb2.SPLIT_VALIDATION, measurement_pb2.SPLIT_TEST)


def merge(base: pb.EvaluateConfig, overrides: pb.EvaluateConfig) -> pb.EvaluateConfig:
    """Return `base` with every field that `overrides` sets put in its place."""
    result = pb.EvaluateConfig()
    result.CopyFrom(base)
    result.MergeFrom(overrides)
    return result


def complete(config: pb.EvaluateConfig) -> pb.EvaluateConfig:
    """Return a copy with every default filled in; an unset split means validation."""
    result = pb.EvaluateConfig()
    result.CopyFrom(config)
    for name, value in _DEFAULTS.items():
        if not result.HasField(name):  # type: ignore[arg-type]  # the names are those of the table above
            setattr(result, name, value)
    result.split = result.split or measurement_pb2.SPLIT_VALIDATION
    return result


def check(config: pb.EvaluateConfig, field_prefix: str = "config") -> None:
    """Raise Invalid (EVALUATE_CONFIG_INVALID) with every field that is wrong; unset fields stand for defaults."""
    filled = complete(config)
    found = [
        FieldViolation(f"{field_prefix}.{name}", f"{field_prefix}.{name} must be {low} to {high}, not {value}")
        for name, (low, high) in _BOUNDS.items()
        if not low <= (value := getattr(filled, name)) <= high
    ]
    if filled.split not in _SPLITS:
        found.append(
            FieldViolation(f"{field_prefix}.split", f"{field_prefix}.split: {filled.split} is no split; use VALIDATION")
        )
    if found:
        raise Invalid("EVALUATE_CONFIG_INVALID", found[0].description, violations=found)
