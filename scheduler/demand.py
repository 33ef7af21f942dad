"""What work there is, by what it needs: for whoever starts servers."""

from dataclasses import dataclass
from typing import NamedTuple

from nasmesh.v1 import scheduler_service_pb2 as pb
from nasmesh.v1 import search_pb2
from scheduler.domain import OPEN_SEARCHES, SearchRun, TaskKind, TaskState
from scheduler.engine import Engine
from scheduler.machine.tasks import spread
from scheduler.workload import need_of

_Alike = tuple[TaskKind, str, int, int, int]
"""All of a need but its owner."""


class _Need(NamedTuple):
    """What open tasks have in common that share a row."""

    kind: TaskKind
    need: str
    servers: int
    memory: int
    slots: int
    owner: str


@dataclass(slots=True)
class _Row:
    """How many tasks share it, and since when the first of them waits (monotonic; none: infinity)."""

    queued: int = 0
    running: int = 0
    since: float = float("inf")

    def add(self, other: "_Row") -> None:
        """Take in the tasks of another row."""
        self.queued += other.queued
        self.running += other.running
        self.since = min(self.since, other.since)


def demand_message(engine: Engine) -> pb.GetDemandResponse:
    """Return what waits and what runs; costs a walk over the open tasks, like the activity of GetServerInfo."""
    rows = _rows(engine)
    now = engine.clock.monotonic()
    answer = pb.GetDemandResponse(store_outage=engine.outage.holds)
    for key in sorted(rows, key=lambda key: (key.kind, rows[key].since, *key[1:])):
        row = rows[key]
        answer.demands.add(
            kind=search_pb2.TaskKind.ValueType(key.kind),
            need=key.need,
            servers=key.servers,
            owner=key.owner,
            queued=row.queued,
            running=row.running,
            needed_memory_bytes=key.memory,
            slots=key.slots,
            oldest_queued_s=max(0.0, now - row.since) if row.queued else 0.0,
        )
    return answer


def _rows(engine: Engine) -> dict[_Need, _Row]:
    rows: dict[_Need, _Row] = {}
    for run in engine.state.searches.values():
        if run.state in OPEN_SEARCHES:
            for key, row in _rows_of(engine, run).items():
                rows.setdefault(_Need(*key, run.owner), _Row()).add(row)
    return rows


def _rows_of(engine: Engine, run: SearchRun) -> dict[_Alike, _Row]:
    """Return one search's rows: there may be thousands of tasks in it, and each costs microseconds."""
    tasks, since, now = engine.state.tasks, engine.activity.queued_since, engine.clock.monotonic()
    rows: dict[_Alike, _Row] = {}
    for task_id in run.open_tasks:
        task = tasks[task_id]
        waits = task.state is TaskState.QUEUED
        if waits and run.paused:
            continue
        servers, slots = spread(run, task)
        key = (task.kind, need_of(run, task), servers, task.need_bytes, slots)
        row = rows.get(key)
        if row is None:
            row = rows[key] = _Row()
        if waits:
            row.queued += 1
            began = since.get(task_id, now)
            if began < row.since:
                row.since = began
        else:
            row.running += 1
    return rows
