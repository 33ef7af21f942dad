"""JobTable with real child processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from nasmesh.errors import Busy, Conflict, Invalid, NotFound, Stale, Unavailable
from nasmesh.jobs.nursery import Nursery
from nasmesh.jobs.table import ChildLimits, JobTable, JobView
from nasmesh.v1 import job_pb2
from nasmesh.v1 import train_service_pb2 as pb

HERE = Path(__file__).parent
LIMITS = ChildLimits(memory_bytes=200 << 20, job_timeout_s=30.0, cancel_grace_s=1.0)
Make = Callable[..., JobTable]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    tables: list[JobTable] = []

    def build(*, slots: int = 1, limits: ChildLimits = LIMITS, queue: int | None = None) -> JobTable:
        table = JobTable(
            work="jobs_work:run",
            slots=slots,
            directory=tmp_path / "jobs",
            limits=limits,
            environment={"PYTHONPATH": str(HERE)},
            noun="training",
            queue=queue,
        )
        tables.append(table)
        return table

    yield build
    for table in tables:
        table.close()


def start(table: JobTable, job_id: str, *, key: str = "") -> JobView:
    request = pb.StartTrainingRequest(training_id=job_id)
    request.network.key = key
    return table.start(job_id, request)


def wait(table: JobTable, job_id: str) -> JobView:
    return list(table.watch(job_id))[-1]


def wait_for_mark(table: JobTable, job_id: str) -> None:
    next(view for view in table.watch(job_id) if view.progress)


def result(view: JobView) -> pb.TrainResult:
    assert view.state == job_pb2.JOB_STATE_SUCCEEDED, view.failure
    return pb.TrainResult.FromString(view.result)


def reason(view: JobView) -> str:
    assert view.state == job_pb2.JOB_STATE_FAILED
    assert view.failure is not None
    return view.failure.reason


def test_start_runs_the_job_and_reuses_the_child(make: Make) -> None:
    table = make()
    assert start(table, "echo-1").state == job_pb2.JOB_STATE_QUEUED
    first, again = wait(table, "echo-1"), start(table, "echo-1")
    assert again == first
    start(table, "echo-2")
    second = wait(table, "echo-2")
    assert result(first).data_digest == "echo-1"
    assert result(first).device_time_s == result(second).device_time_s
    assert pb.TrainProgress.FromString(second.progress).step == 2


def test_watch_shows_every_state_and_resumes_after_a_sequence(make: Make) -> None:
    table = make()
    start(table, "echo-1")
    views = list(table.watch("echo-1"))
    states = [job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_SUCCEEDED]
    assert list(dict.fromkeys(view.state for view in views)) == states
    assert [view.sequence for view in views] == sorted({view.sequence for view in views})
    late = list(table.watch("echo-1", 0))
    assert [view.state for view in late] == states
    assert list(table.watch("echo-1", views[-1].sequence - 1)) == [views[-1]]
    assert list(table.watch("echo-1", views[-1].sequence, timeout_s=0.01)) == []


def test_start_when_the_id_has_another_body_is_a_conflict(make: Make) -> None:
    table = make()
    start(table, "echo-1")
    with pytest.raises(Conflict) as caught:
        start(table, "echo-1", key="other")
    assert (caught.value.reason, caught.value.field) == ("TRAINING_ID_REUSED", "training_id")
    with pytest.raises(Invalid, match="training_id"):
        start(table, "No/Id")
    with pytest.raises(NotFound) as missing:
        table.watch("never")
    assert missing.value.reason == "TRAINING_UNKNOWN"


def test_start_when_slots_and_queue_are_full_is_busy(make: Make) -> None:
    table = make(queue=1)
    start(table, "wait-1")
    start(table, "wait-2")
    with pytest.raises(Busy) as caught:
        start(table, "wait-3")
    assert caught.value.retry_after_s > 0
    assert table.cancel("wait-2").state == job_pb2.JOB_STATE_CANCELLED
    start(table, "wait-3")


def test_cancel_lets_the_job_write_a_checkpoint_and_keeps_the_child(make: Make) -> None:
    table = make()
    start(table, "wait-1")
    wait_for_mark(table, "wait-1")
    with pytest.raises(Stale):
        table.delete("wait-1")
    before = time.monotonic()
    table.cancel("wait-1", 20.0)
    view = wait(table, "wait-1")
    assert time.monotonic() - before < 10.0, "it ends when it has done that, not with its time"
    assert view.state == job_pb2.JOB_STATE_CANCELLED
    assert view.checkpoint is not None
    assert view.checkpoint.key == "last"
    start(table, "echo-1")
    assert pb.TrainProgress.FromString(wait(table, "echo-1").progress).step == 2
    assert table.cancel("echo-1").state == job_pb2.JOB_STATE_SUCCEEDED


@pytest.mark.parametrize(("grace_s", "kept"), [(None, "half"), (20.0, "last")])
def test_cancel_when_the_checkpoint_takes_longer_then_kept_only_with_time_for_it(
    make: Make, grace_s: float | None, kept: str
) -> None:
    table = make()
    start(table, "slow-1")
    wait_for_mark(table, "slow-1")
    table.cancel("slow-1", grace_s)
    table.cancel("slow-1", 0.0)  # the first request counts
    view = wait(table, "slow-1")
    assert view.state == job_pb2.JOB_STATE_CANCELLED
    assert view.checkpoint is not None
    assert view.checkpoint.key == kept


def test_cancel_when_the_work_does_not_listen_ends_its_process_within_two_seconds(make: Make) -> None:
    table, took = make(), []
    while len(took) < 5 and min(took, default=2.0) >= 2.0:  # a busy machine may take longer, but not every time
        job_id = f"deaf-{len(took)}"
        start(table, job_id)
        wait_for_mark(table, job_id)
        before = time.monotonic()
        table.cancel(job_id)
        assert wait(table, job_id).state == job_pb2.JOB_STATE_CANCELLED
        took.append(time.monotonic() - before)
    assert min(took) < 2.0
    start(table, "echo-1")
    assert wait(table, "echo-1").state == job_pb2.JOB_STATE_SUCCEEDED


def test_crash_costs_one_job_and_names_signal_and_last_words(make: Make) -> None:
    table = make()
    start(table, "crash-1")
    view = wait(table, "crash-1")
    assert reason(view) == "CHILD_CRASHED"
    assert view.failure is not None
    assert view.failure.retryable
    assert view.failure.counted
    assert "SIGSEGV" in view.failure.message
    assert "the last words" in view.failure.message
    start(table, "echo-1")
    assert wait(table, "echo-1").state == job_pb2.JOB_STATE_SUCCEEDED


@pytest.mark.parametrize(
    ("job_id", "expected", "retryable"),
    [("refuse-1", "OP_NOT_ALLOWED", False), ("raise-1", "JOB_FAILED", True), ("huge-1", "RESULT_TOO_LARGE", False)],
)
def test_errors_of_the_work_become_failures(make: Make, job_id: str, expected: str, retryable: bool) -> None:
    table = make()
    start(table, job_id)
    view = wait(table, job_id)
    assert reason(view) == expected
    assert view.failure is not None
    assert view.failure.retryable is retryable


def test_memory_over_the_limit_ends_the_job(make: Make) -> None:
    table = make()
    start(table, "memory-1")
    assert reason(wait(table, "memory-1")) == "CHILD_OUT_OF_MEMORY"


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="with a GPU there is no such limit")
@pytest.mark.parametrize("job_id", ["burst-1", "tensor-1"])
def test_an_allocation_far_beyond_the_limit_is_refused_before_it_happens(make: Make, job_id: str) -> None:
    table = make(limits=ChildLimits(memory_bytes=1 << 30))
    start(table, job_id)
    view = wait(table, job_id)
    assert reason(view) == "CHILD_OUT_OF_MEMORY"
    assert view.failure is not None
    assert "an allocation failed" in view.failure.message  # said by the child
    start(table, "echo-1")
    assert wait(table, "echo-1").state == job_pb2.JOB_STATE_SUCCEEDED


def test_address_space_limit_turns_an_allocation_into_a_failure(make: Make) -> None:
    table = make(limits=ChildLimits(memory_bytes=1 << 30, address_space_bytes=500 << 20))
    start(table, "memory-1")
    assert reason(wait(table, "memory-1")) == "CHILD_OUT_OF_MEMORY"


def test_timeout_ends_the_job(make: Make) -> None:
    table = make(limits=ChildLimits(job_timeout_s=0.8))
    start(table, "deaf-1")
    assert reason(wait(table, "deaf-1")) == "JOB_TIMED_OUT"


def test_bytes_that_are_no_frame_end_the_child_not_the_table(make: Make) -> None:
    table = make()
    start(table, "garbage-1")
    assert reason(wait(table, "garbage-1")) == "CHILD_CRASHED"
    start(table, "echo-1")
    assert wait(table, "echo-1").state == job_pb2.JOB_STATE_SUCCEEDED


def test_ended_jobs_survive_a_restart_until_deleted(make: Make) -> None:
    table = make(slots=2)
    start(table, "echo-1")
    start(table, "wait-1")
    done = wait(table, "echo-1")
    table.close()
    again = make()
    assert start(again, "echo-1") == done
    assert [view.job_id for view in again.list()] == ["echo-1"]
    with pytest.raises(Conflict):
        start(again, "echo-1", key="other")
    again.delete("echo-1")
    again.close()
    assert make().list() == ()


def test_an_unreadable_record_is_dropped_and_an_interrupted_write_ignored(make: Make, tmp_path: Path) -> None:
    directory = tmp_path / "jobs"
    directory.mkdir()
    (directory / "echo-1.job").write_bytes(b"\xff\x00 junk")
    (directory / "echo-2.job.part").write_bytes(b"half")
    table = make()
    assert table.list() == ()
    start(table, "echo-1")
    assert wait(table, "echo-1").state == job_pb2.JOB_STATE_SUCCEEDED


def test_a_result_is_kept_in_memory_when_the_disk_refuses(make: Make, tmp_path: Path) -> None:
    table = make()
    (tmp_path / "jobs" / "echo-1.job.part").mkdir()
    start(table, "echo-1")
    assert result(wait(table, "echo-1")).data_digest == "echo-1"


def test_drain_refuses_new_jobs_and_asks_those_at_hand_to_stop(make: Make) -> None:
    table = make()
    start(table, "wait-1")
    start(table, "wait-2")
    wait_for_mark(table, "wait-1")
    assert table.drain(5.0)
    assert {view.state for view in table.list()} == {job_pb2.JOB_STATE_CANCELLED}
    with pytest.raises(Unavailable) as caught:
        start(table, "echo-1")
    assert caught.value.reason == "DRAINING"


def test_a_child_that_died_between_jobs_is_replaced(make: Make) -> None:
    table = make()
    start(table, "echo-1")
    pid = int(result(wait(table, "echo-1")).device_time_s)
    process = psutil.Process(pid)
    os.kill(pid, signal.SIGKILL)
    process.wait(5)
    start(table, "echo-2")
    assert int(result(wait(table, "echo-2")).device_time_s) != pid


def test_a_child_that_lost_its_device_is_replaced(make: Make) -> None:
    table = make()
    start(table, "echo-1")
    first = result(wait(table, "echo-1")).device_time_s
    start(table, "lost-1")
    lost = wait(table, "lost-1")
    assert reason(lost) == "DEVICE_LOST"
    assert lost.failure is not None
    assert lost.failure.retryable
    start(table, "echo-2")
    assert result(wait(table, "echo-2")).device_time_s != first, "the next job has another process"


def test_close_ends_every_child_and_releases_watchers(make: Make) -> None:
    table = make(slots=2)
    start(table, "wait-1")
    start(table, "echo-1")
    pid = int(result(wait(table, "echo-1")).device_time_s)
    views: list[JobView] = []
    watcher = threading.Thread(target=lambda: views.extend(table.watch("wait-1")))
    watcher.start()
    wait_for_mark(table, "wait-1")
    table.close()
    watcher.join(5)
    assert not watcher.is_alive()
    assert not any(view.ended for view in views)
    assert not psutil.pid_exists(pid)


def test_work_that_cannot_be_imported_fails_the_job_with_the_reason(tmp_path: Path) -> None:
    table = JobTable(work="no_such_module:run", slots=1, directory=tmp_path)
    try:
        start(table, "echo-1")
        view = wait(table, "echo-1")
        assert reason(view) == "CHILD_CRASHED"
        assert view.failure is not None
        assert "no_such_module" in view.failure.message
    finally:
        table.close()
    with pytest.raises(Invalid, match="work"):
        JobTable(work="os.path; rm", slots=1, directory=tmp_path)


def test_children_die_with_a_server_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from nasmesh.jobs.table import JobTable;"
        "from nasmesh.v1 import train_service_pb2 as pb;"
        "table = JobTable(work='jobs_work:run', slots=1, directory=Path(sys.argv[1]));"
        "table.start('echo-1', pb.StartTrainingRequest(training_id='echo-1'));"
        "view = list(table.watch('echo-1'))[-1];"
        "table.start('deaf-1', pb.StartTrainingRequest(training_id='deaf-1'));"
        "next(view for view in table.watch('deaf-1') if view.progress);"
        "print(int(pb.TrainResult.FromString(view.result).device_time_s), flush=True); sys.stdin.read()"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(HERE)},
    )
    assert server.stdout is not None
    assert server.stdin is not None
    child = psutil.Process(int(server.stdout.readline()))
    server.kill()
    server.wait(5)
    server.stdin.close()
    server.stdout.close()
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_warm_spare_is_started_and_given_out_first() -> None:
    nursery = Nursery("jobs_work:run", limits=LIMITS, environment={"PYTHONPATH": str(HERE)}, spare_delay_s=0.0)
    first = nursery.take()
    try:
        assert first.warm.wait(10)
        spare = nursery.take()
        try:
            assert spare.warm.wait(10)
            assert spare.process_id != first.process_id
        finally:
            spare.end()
    finally:
        first.end()
        nursery.close()
