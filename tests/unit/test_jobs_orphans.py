"""A job that nobody watches or asks about writes a checkpoint and stops; what it did is kept for whoever comes back."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nasmesh.clock import ManualClock
from nasmesh.jobs.board import Board
from nasmesh.jobs.records import RecordDirectory
from nasmesh.jobs.table import ChildLimits, JobTable, JobView
from nasmesh.limits import ORPHAN_GRACE_S
from nasmesh.v1 import job_pb2
from nasmesh.v1 import train_service_pb2 as pb

HERE = Path(__file__).parent


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def table(tmp_path: Path, clock: ManualClock) -> Iterator[JobTable]:
    made = _table(tmp_path, clock)
    yield made
    made.close()


def _table(directory: Path, clock: ManualClock) -> JobTable:
    return JobTable(
        work="jobs_work:run",
        slots=1,
        directory=directory / "jobs",
        limits=ChildLimits(orphan_s=600.0),
        environment={"PYTHONPATH": str(HERE)},
        clock=clock,
        noun="training",
    )


def _start(table: JobTable, job_id: str) -> JobView:
    return table.start(job_id, pb.StartTrainingRequest(training_id=job_id))


def _listed(table: JobTable, job_id: str) -> JobView:
    """The job as a list shows it: looking at a list is not asking for a job."""
    return next(view for view in table.list() if view.job_id == job_id)


def _until_ended(table: JobTable, job_id: str) -> JobView:
    waited = threading.Event()
    for _ in range(2000):
        if (view := _listed(table, job_id)).ended:
            return view
        waited.wait(0.01)
    raise AssertionError(f"{job_id} did not end")


def test_an_orphan_checkpoints_and_stops_and_whoever_comes_back_finds_it(
    table: JobTable, clock: ManualClock, tmp_path: Path
) -> None:
    _start(table, "wait-1")
    next(view for view in table.watch("wait-1") if view.progress)
    clock.advance(599.0)
    assert table.get("wait-1").state == job_pb2.JOB_STATE_RUNNING  # asked for: it has its full time again
    clock.advance(599.0)
    assert not _listed(table, "wait-1").ended
    clock.advance(2.0)
    view = _until_ended(table, "wait-1")
    assert view.state == job_pb2.JOB_STATE_CANCELLED
    assert view.checkpoint is not None
    assert view.checkpoint.key == "last"
    assert view.failure is not None
    assert (view.failure.reason, view.failure.retryable, view.failure.counted) == ("ORPHANED", True, False)
    # The same start from an agent that comes back gets what became of it, in a next process too.
    assert _start(table, "wait-1") == view
    table.close()
    again = _table(tmp_path, clock)
    try:
        assert _start(again, "wait-1") == view
    finally:
        again.close()


def test_a_watched_job_is_no_orphan_however_long_it_takes(clock: ManualClock, tmp_path: Path) -> None:
    board = Board(RecordDirectory(tmp_path, ".job"), clock=clock, noun="training", capacity=2, orphan_s=600.0)
    board.start("wait-1", b"")
    job = board.take()
    assert job is not None
    watch = board.watch("wait-1", 0, None)
    next(watch)
    clock.advance(5000.0)
    board.check_attention(job)
    assert job.cancel_at is None
    watch.close()  # type: ignore[attr-defined]
    clock.advance(599.0)
    board.check_attention(job)
    assert job.cancel_at is None
    clock.advance(1.0)
    board.check_attention(job)
    assert job.cancel_at == clock.monotonic() + ORPHAN_GRACE_S


def test_a_forgotten_job_in_the_queue_stops_when_its_turn_comes(table: JobTable, clock: ManualClock) -> None:
    for number in (1, 2):
        _start(table, f"wait-{number}")
    next(view for view in table.watch("wait-1") if view.progress)
    clock.advance(601.0)
    for number in (1, 2):
        view = _until_ended(table, f"wait-{number}")
        assert view.failure is not None
        assert view.failure.reason == "ORPHANED"


def test_work_that_ends_while_nobody_looks_keeps_its_result(table: JobTable, clock: ManualClock) -> None:
    _start(table, "echo-1")
    assert _until_ended(table, "echo-1").state == job_pb2.JOB_STATE_SUCCEEDED
    clock.advance(3600.0)
    assert pb.TrainResult.FromString(table.get("echo-1").result).data_digest == "echo-1"
