"""How a network is scored: defaults, overrides, checks. Protobuf only, so the scheduler uses it too."""

import re
from collections.abc import Iterable, Iterator

from nasmesh import ids, metrics
from nasmesh.errors import FieldViolation, Invalid, NasmeshError
from nasmesh.v1 import evaluation_pb2 as pb
from nasmesh.v1 import measurement_pb2

_DEFAULTS: dict[str, int | bool | float] = {
    "batch_size": 256,
    "latency": True,
    "latency_runs": 50,
    "threads": 1,
    "memory": False,
    "calibration_bins": 15,
    "confidence": 0.95,
}
_BOUNDS = {
    "batch_size": (1, 65_536),
    "latency_runs": (1, 100_000),
    "threads": (1, 1024),
    "calibration_bins": (1, 10_000),
}
_SPLITS = (measurement_pb2.SPLIT_TRAIN, measurement_pb2.SPLIT_VALIDATION, measurement_pb2.SPLIT_TEST)
_MOST_BATCH_SIZES = 16
_MOST_METRICS = 64
_METRIC = re.compile(r"[a-z][a-z0-9_]{0,63}")
TABLE_MEAN = -1
"""The table_seed that asks for the mean of a table's repeated trainings."""

_BESIDE = {
    "latency": pb.EvaluateConfig(latency=False),
    "throughput_batch_sizes": pb.EvaluateConfig(),
    "memory": pb.EvaluateConfig(memory=False),
    "quantization": pb.EvaluateConfig(quantization=pb.QUANTIZATION_NONE),
}
"""What takes time of its own, by field, with what turns it off."""

Fault = tuple[str, str]


def merge(base: pb.EvaluateConfig, overrides: pb.EvaluateConfig) -> pb.EvaluateConfig:
    """Return `base` with every field that `overrides` sets put in its place; lists are replaced whole."""
    result = pb.EvaluateConfig()
    result.CopyFrom(base)
    for descriptor, _ in overrides.ListFields():
        if descriptor.is_repeated:
            result.ClearField(descriptor.name)  # type: ignore[arg-type]  # the message's own name
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
    result.engine = result.engine or pb.EVALUATE_ENGINE_ONNXRUNTIME
    result.quantization = result.quantization or pb.QUANTIZATION_NONE
    if result.table and not result.HasField("table_seed"):
        result.table_seed = 0
    return result


def only_for(config: pb.EvaluateConfig, wanted: Iterable[str]) -> pb.EvaluateConfig:
    """Return a complete configuration without what is measured beside the scores, unless `wanted` metrics need it."""
    needed = list(wanted)
    result = pb.EvaluateConfig()
    result.CopyFrom(config)
    for name, off in _BESIDE.items():
        without = pb.EvaluateConfig()
        without.CopyFrom(result)
        without.ClearField(name)  # type: ignore[arg-type]  # the names are those of the table above
        without.MergeFrom(off)
        if not any(metrics.lacks(metric, without) for metric in needed):
            result = without
    return result


def check(config: pb.EvaluateConfig, field_prefix: str = "config") -> None:
    """Raise Invalid (EVALUATE_CONFIG_INVALID) with every field that is wrong; unset fields stand for defaults."""
    filled = complete(config)
    found = [
        FieldViolation(f"{field_prefix}.{name}", f"{field_prefix}.{name}{what}")
        for name, what in (
            *_number_faults(filled),
            *_choice_faults(filled),
            *_list_faults(filled),
            *_table_faults(filled),
        )
    ]
    if found:
        raise Invalid("EVALUATE_CONFIG_INVALID", found[0].description, violations=found)


def _number_faults(config: pb.EvaluateConfig) -> Iterator[Fault]:
    for name, (low, high) in _BOUNDS.items():
        if not low <= (value := getattr(config, name)) <= high:
            yield name, f" must be {low} to {high}, not {value}"
    if not 0.5 < config.confidence < 1:  # written so that NaN is refused as well
        yield "confidence", f" must be above 0.5 and below 1, not {config.confidence:g}"


def _choice_faults(config: pb.EvaluateConfig) -> Iterator[Fault]:
    if config.split not in _SPLITS:
        yield "split", f": {config.split} is no split; use VALIDATION"
    if config.further_split not in (measurement_pb2.SPLIT_UNSPECIFIED, *_SPLITS):
        yield "further_split", f": {config.further_split} is no split; use VALIDATION, or leave it unset"
    elif config.further_split == config.split:
        yield "further_split", ": it is scored anyway, as split; leave it unset"
    if config.engine not in pb.EvaluateEngine.values():
        yield "engine", f": {config.engine} is unknown; use ONNXRUNTIME or TORCH"
    if config.quantization not in pb.Quantization.values():
        yield "quantization", f": {config.quantization} is unknown; use NONE, DYNAMIC or STATIC"


def _list_faults(config: pb.EvaluateConfig) -> Iterator[Fault]:
    sizes = config.throughput_batch_sizes
    if len(sizes) > _MOST_BATCH_SIZES:
        yield "throughput_batch_sizes", f": {len(sizes)} sizes, at most {_MOST_BATCH_SIZES}"
    low, high = _BOUNDS["batch_size"]
    for index, size in enumerate(sizes):
        if not low <= size <= high:
            yield f"throughput_batch_sizes[{index}]", f" must be {low} to {high}, not {size}"
        elif size in sizes[:index]:
            yield f"throughput_batch_sizes[{index}]", f": {size} is listed twice"
    if len(config.metrics) > _MOST_METRICS:
        yield "metrics", f": {len(config.metrics)} names, at most {_MOST_METRICS}"
    for index, name in enumerate(config.metrics):
        if not _METRIC.fullmatch(name):
            yield f"metrics[{index}]", f": {name[:80]!r} is no metric name; use lower case, digits, underscores"
        elif name in config.metrics[:index]:
            yield f"metrics[{index}]", f": {name} is listed twice"


def _table_faults(config: pb.EvaluateConfig) -> Iterator[Fault]:
    """Yield what a table cannot do: it has numbers of trained networks, and nothing to run."""
    if not config.table:
        if config.HasField("table_seed"):
            yield "table_seed", " chooses among a table's trainings; set table too, or leave it out"
        return
    try:
        ids.parse_name("tables", config.table, field="table")
    except NasmeshError as error:
        yield "table", f": {error.message.removeprefix('table: ')}"
    if config.table_seed < TABLE_MEAN:
        yield "table_seed", f" must be the index of a training, or {TABLE_MEAN} for their mean, not {config.table_seed}"
    for name, asked in _measured_only(config):
        if asked:
            yield name, f": {config.table} has numbers and nothing to measure; leave it out, or drop table"


def _measured_only(config: pb.EvaluateConfig) -> Iterator[tuple[str, bool]]:
    yield "engine", config.engine == pb.EVALUATE_ENGINE_TORCH
    yield "throughput_batch_sizes", bool(config.throughput_batch_sizes)
    yield "memory", config.memory
    yield "metrics", bool(config.metrics)
    yield "quantization", config.quantization != pb.QUANTIZATION_NONE
