"""What a search names and only servers have: losses, metrics, benchmark tables. Pure.

Nothing is refused that a server might have: one that does not say what it has may have anything, and where none has
been seen yet, whoever comes may.
"""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from nasmesh import metrics
from nasmesh.errors import Invalid, Unavailable
from nasmesh.spaces import cell
from nasmesh.v1 import job_pb2, measurement_pb2, search_pb2, space_pb2

_SHOWN = 40
_NO_SPLIT = measurement_pb2.SPLIT_UNSPECIFIED
_VALIDATION, _TEST = measurement_pb2.SPLIT_VALIDATION, measurement_pb2.SPLIT_TEST
_ANEW = "Where {} beside one that runs, start that server again: it names its {} when it connects"


class _Fault(NamedTuple):
    """Why a table cannot answer a search."""

    reason: str
    field: str
    what: str


def check_losses(servers: Sequence[job_pb2.Server], spec: search_pb2.SearchSpec) -> None:
    """Raise Unavailable (LOSS_ABSENT) where every known train server names its losses, and not one asked for."""
    if spec.evaluate.table:
        return  # nothing is trained
    for field, loss in (("train.loss", spec.train.loss), ("final.train.loss", spec.final.train.loss)):
        if loss and servers and not any(not server.losses or loss in server.losses for server in servers):
            known = sorted({name for server in servers for name in server.losses})
            raise _absent("LOSS_ABSENT", f"spec.{field}", f"train server has a loss {loss[:80]}", loss, known)


def check_metrics(servers: Sequence[job_pb2.Server], spec: search_pb2.SearchSpec) -> None:
    """Raise Unavailable (METRIC_ABSENT) where every known evaluate server names its metrics, and not one asked for."""
    for field, evaluate in (("evaluate", spec.evaluate), ("final.evaluate", spec.final.evaluate)):
        for index, metric in enumerate(evaluate.metrics):
            if servers and not any(not server.metrics or metric in server.metrics for server in servers):
                known = sorted({name for server in servers for name in server.metrics})
                what = f"evaluate server has a metric {metric[:80]}"
                raise _absent("METRIC_ABSENT", f"spec.{field}.metrics[{index}]", what, metric, known)


def check_table(servers: Sequence[job_pb2.Server], spec: search_pb2.SearchSpec) -> None:
    """Raise where no known evaluate server can answer the search from its table.

    Unavailable (TABLE_ABSENT): every one names its tables, and not this one. Invalid (TABLE_DATA_MISMATCH,
    TABLE_SPACE_MISMATCH, TABLE_SPLIT_ABSENT, TABLE_SEED_ABSENT, TABLE_METRIC_ABSENT): it has the table, which was made
    with other data, of another space, or does not hold what the search asks for.
    """
    table = spec.evaluate.table
    if not table or not servers or any(not server.tables for server in servers):
        return
    having = [server for server in servers if table in server.tables]
    if not having:
        known = ", ".join(sorted({name for server in servers for name in server.tables})[:_SHOWN])
        raise Unavailable(
            "TABLE_ABSENT",
            f"spec.evaluate.table: no evaluate server has {table[:100]} (they have {known}). "
            + _ANEW.format("it was imported", "tables"),
            field="spec.evaluate.table",
        )
    contents = [next((held for held in server.table_contents if held.name == table), None) for server in having]
    faults = [None if held is None else next(_table_faults(held, spec), None) for held in contents]
    if None in faults:
        return
    fault = next(filter(None, faults))
    raise Invalid(fault.reason, f"spec.{fault.field}: {fault.what}", field=f"spec.{fault.field}")


def _absent(reason: str, field: str, what: str, name: str, known: Sequence[str]) -> Unavailable:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    has = ", ".join(known[:_SHOWN])
    kind = {"LOSS_ABSENT": "losses", "METRIC_ABSENT": "metrics"}[reason]
    anew = _ANEW.format("its package was installed", kind)
    return Unavailable(reason, f"{field}: no {what} (they have {has}){hint} {anew}", field=field)


def _table_faults(held: job_pb2.BenchmarkTable, spec: search_pb2.SearchSpec) -> Iterator[_Fault]:
    """Yield why a table that holds this cannot answer a complete specification."""
    data = spec.data.dataset
    if held.dataset != data:
        what = f"{held.name} was made with {held.dataset}, not {data}; search over that, or by another table"
        yield _Fault("TABLE_DATA_MISMATCH", "data.dataset", what)
    yield from _space_faults(held, spec.space)
    yield from _split_faults(held, spec)
    for field, evaluate in (("evaluate", spec.evaluate), ("final.evaluate", spec.final.evaluate)):
        if evaluate.table_seed >= held.trainings:
            last = held.trainings - 1
            what = f"{held.name} holds {held.trainings} trainings of a network; use 0 to {last}, or -1 for their mean"
            yield _Fault("TABLE_SEED_ABSENT", f"{field}.table_seed", what)
    yield from _metric_faults(held, spec)


def _split_faults(held: job_pb2.BenchmarkTable, spec: search_pb2.SearchSpec) -> Iterator[_Fault]:
    splits = {figure.split for figure in held.figures if figure.split}
    has = ", ".join(measurement_pb2.Split.Name(split) for split in sorted(splits))
    if _VALIDATION not in splits:
        what = f"{held.name} has nothing measured on SPLIT_VALIDATION, only on {has}; use another table"
        yield _Fault("TABLE_SPLIT_ABSENT", "evaluate.table", what)
    if spec.HasField("final") and _TEST not in splits:
        what = f"{held.name} has nothing measured on SPLIT_TEST, only on {has}; leave final out"
        yield _Fault("TABLE_SPLIT_ABSENT", "final", what)


def _metric_faults(held: job_pb2.BenchmarkTable, spec: search_pb2.SearchSpec) -> Iterator[_Fault]:
    """Yield the objectives and bounds that the table has no number for, and that do not follow from the network."""
    asked = [(f"objectives[{index}].metric", one.metric) for index, one in enumerate(spec.objectives)]
    asked += [(f"constraints[{index}].metric", one.metric) for index, one in enumerate(spec.constraints)]
    phases = [(_VALIDATION, len(asked))]
    if spec.HasField("final"):
        phases.append((_TEST, len(spec.objectives)))  # a final trial is not judged by bounds
    for split, most in phases:
        known = {figure.metric for figure in held.figures if figure.split in (_NO_SPLIT, split)}
        for field, metric in asked[:most]:
            if metric not in known and not metrics.is_static(metric):
                has = _list([*known, "parameters", "macs", "size_bytes"])
                on = measurement_pb2.Split.Name(split)
                yield _Fault("TABLE_METRIC_ABSENT", field, f"{held.name} does not hold {metric} on {on}; it has {has}")


def _space_faults(held: job_pb2.BenchmarkTable, space: space_pb2.Space) -> Iterator[_Fault]:
    """Yield why no network of a space is in the table; a part of its space is fine, every network of it is there."""
    kind, own = space.WhichOneof("kind"), held.space.WhichOneof("kind")
    fix = f"nasmesh table spec {held.name.rpartition('/')[2]} writes a specification over it"
    if own is not None and kind != own:
        yield _Fault("TABLE_SPACE_MISMATCH", "space", f"{held.name} holds networks of a {own} space, not {kind}; {fix}")
        return
    if kind != "cell":
        return
    asked, there = cell.complete(space.cell), cell.complete(held.space.cell)
    for name in ("nodes", "cells", "width", "auxiliary_head"):
        wanted, has = getattr(asked, name), getattr(there, name)
        if wanted != has:
            shown = f"{list(has)}, not {list(wanted)}" if name == "cells" else f"{has}, not {wanted}"
            yield _Fault("TABLE_SPACE_MISMATCH", f"space.cell.{name}", f"{held.name} was made with {shown}; {fix}")
    for operation in sorted(set(asked.operations) - set(there.operations)):
        what = f"{held.name} has no {operation}; {fix}"
        yield _Fault("TABLE_SPACE_MISMATCH", "space.cell.operations", what)


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names)))
