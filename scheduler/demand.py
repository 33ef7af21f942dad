"""What work there is, by what it needs: for whoever starts servers."""

from dataclasses import dataclass
from typing import NamedTuple

from nasmesh.v1 import scheduler_service_pb2 as pb
from nasmesh.v1 import search_pb2
from scheduler.domain import OPEN_SEARCHES, TaskKind, TaskState
from scheduler.engine import Engine
from scheduler.machine.tasks import gang_size
from scheduler.workload import need_of


class _Need(NamedTuple):
    """What open tasks have in common that share a row."""

    kind: TaskKind
    need: str
    servers: int
    owner: str


@dataclass(slots=True)
class _Row:
    """How many tasks share it, and since when the first of them waits (monotonic; none: infinity)."""

    queued: int = 0
    running: int = 0
    since: float = float("inf")


def demand_message(engine: Engine) -> pb.GetDemandResponse:
    """Return what waits and what runs; costs a walk over the open tasks, like the activity of GetServerInfo."""
    rows = _rows(engine)
    now = engine.clock.monotonic()
    answer = pb.GetDemandResponse(store_outage=engine.outage.holds)
    for key in sorted(rows, key=lambda key: (key.kind, rows[key].since, key.need, key.servers, key.owner)):
        row = rows[key]
        answer.demands.add(
            kind=search_pb2.TaskKind.ValueType(key.kind),
            need=key.need,
            servers=key.servers,
            owner=key.owner,
            queued=row.queued,
            running=row.running,
            oldest_queued_s=max(0.0, now - row.since) if row.queued else 0.0,
        )
    return answer


def _rows(engine: Engine) -> dict[_Need, _Row]:
    state, since = engine.state, engine.activity.queued_since
    now = engine.clock.monotonic()
    rows: dict[_Need, _Row] = {}
    for run in state.searches.values():
        if run.state not in OPEN_SEARCHES:
            continue
        for task_id in run.open_tasks:
            task = state.tasks[task_id]
            waits = task.state is TaskState.QUEUED
            if waits and run.paused:
                continue
            row = rows.setdefault(_Need(task.kind, need_of(run, task), gang_size(run, task), run.owner), _Row())
            if waits:
                row.queued += 1
                row.since = min(row.since, since.get(task_id, now))
            else:
                row.running += 1
    return rows
