"""A trial that has ended, with its tasks, as one row; and tasks as bytes that are read again when somebody asks."""

from collections.abc import Iterable
from typing import NamedTuple

from nasmesh.v1 import journal_pb2 as pb
from nasmesh.v1 import search_pb2
from scheduler.domain import Task
from scheduler.journal.records import fill_task_record, task_of

# Numbers in keys have so many digits, so that rows come in their order.
_DIGITS = 9


class EndedTrial(NamedTuple):
    """A row, its trial and tasks not read yet."""

    search: str
    number: int
    sequence: int
    outcome: int
    trial: bytes
    tasks: bytes


def row_key(search: str, number: int) -> str:
    """Return the key of a trial's row."""
    return f"ended/{search}/{number:0{_DIGITS}d}"


def encode(sequence: int, outcome: search_pb2.TrialOutcome.ValueType, trial: bytes, tasks: bytes) -> bytes:
    """Return a row's body: the event that ended the trial, and both as bytes."""
    record = pb.EndedRecord()
    record.sequence, record.outcome, record.trial, record.tasks = sequence, outcome, trial, tasks
    return record.SerializeToString()


def decode(key: str, body: bytes) -> EndedTrial:
    """Return the row of "ID/NUMBER"; raises DecodeError, ValueError."""
    record = pb.EndedRecord.FromString(body)
    search, _, number = key.rpartition("/")
    return EndedTrial(search, int(number), record.sequence, record.outcome, record.trial, record.tasks)


def encode_tasks(tasks: Iterable[Task]) -> bytes:
    """Return the bytes of tasks."""
    records = pb.TaskRecords()
    for task in tasks:
        fill_task_record(records.tasks.add(), task)
    return records.SerializeToString()


def decode_tasks(body: bytes) -> list[Task]:
    """Return the tasks of these bytes."""
    return [task_of(record) for record in pb.TaskRecords.FromString(body).tasks]


def task_ids(search: str, trial: int, rungs: int = 0) -> tuple[str, ...]:
    """Return the ids that tasks of a trial which reached so many rungs can have; scheduler.machine.tasks makes them."""
    begin = f"{search}-t{trial}-"
    first = begin + "admit", begin + "profile", begin + "train", begin + "evaluate"
    if not rungs:
        return first
    return first + tuple(f"{begin}{work}-r{rung}" for rung in range(1, rungs + 1) for work in ("train", "evaluate"))
