"""Evaluations that a benchmark table answers: nothing is run, and what training costs is the table's word."""

from evaluate_svc.measured import measurement
from nasmesh import evaluate_config
from nasmesh.errors import Invalid, Rejected
from nasmesh.model.admission import Admitted, admit
from nasmesh.store.base import ObjectStore
from nasmesh.tables import shelf
from nasmesh.tables.table import Table
from nasmesh.v1 import evaluate_service_pb2 as pb
from nasmesh.v1 import evaluation_pb2, measurement_pb2

_WEIGHTED = ("latency_p50", "latency_p99")


def look_up(start: pb.StartEvaluationRequest, store: ObjectStore) -> pb.EvaluateResult:
    """Return what a table says of a network; `device_time_s` is what its training took.

    Raises Invalid (TABLE_DATA_MISMATCH, TABLE_SPLIT_ABSENT), NotFound (TABLE_UNKNOWN), Rejected (NETWORK_NOT_IN_TABLE,
    TABLE_SEED_ABSENT), Unavailable.
    """
    config = evaluate_config.complete(start.config)
    table = shelf.load(config.table)
    _check(table, start, config)
    admitted = admit(store.get(start.model), checkpoint=True)
    row = table.row_of(start.choices)
    _check_network(table, row, admitted, config.table)
    found = [
        measurement("parameters", admitted.counts.parameters),
        measurement("macs", admitted.counts.macs),
        measurement("size_bytes", admitted.counts.size_bytes),
    ]
    for (metric, split), _ in sorted(table.figures.items()):
        if split not in (measurement_pb2.SPLIT_UNSPECIFIED, config.split, config.further_split):
            continue
        value = table.value((metric, split), row, config.table_seed)
        if value is not None and (config.latency or metric not in _WEIGHTED):
            found.append(measurement(metric, value, measurement_pb2.Split.ValueType(split)))
    return pb.EvaluateResult(
        measurements=found,
        device_time_s=table.cost_s(row, config.table_seed),
        data_digest=table.digest,
        environment={"table": config.table, "table_seed": str(config.table_seed), "device": "table"},
    )


def _check(table: Table, start: pb.StartEvaluationRequest, config: evaluation_pb2.EvaluateConfig) -> None:
    if table.about.dataset != start.data.dataset:
        message = f"data.dataset: {config.table} was made with {table.about.dataset}, not {start.data.dataset}"
        raise Invalid("TABLE_DATA_MISMATCH", message, field="data.dataset")
    for field, split in (("split", config.split), ("further_split", config.further_split)):
        if not split or split in table.splits():
            continue
        names = ", ".join(
            sorted(measurement_pb2.Split.Name(measurement_pb2.Split.ValueType(s)) for s in table.splits())
        )
        asked = measurement_pb2.Split.Name(split)
        message = f"config.{field}: {config.table} has nothing measured on {asked}, only on {names}"
        raise Invalid("TABLE_SPLIT_ABSENT", message, field=f"config.{field}")


def _check_network(table: Table, row: int, admitted: Admitted, name: str) -> None:
    """Raise Rejected unless the network is the table's: the same choices in another space are another network."""
    counted = admitted.counts.parameters, admitted.counts.macs
    known = int(table.parameters[row]), int(table.macs[row])
    if counted != known:
        message = (
            f"{name}: with these choices it has a network of {known[0]} parameters and {known[1]} multiply-accumulates,"
            f" this one has {counted[0]} and {counted[1]}; search in the table's own space"
        )
        raise Rejected("NETWORK_NOT_IN_TABLE", message, field="model")
