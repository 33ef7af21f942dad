"""Jobs that share memory: who waits, who goes before, who never fits, and what running out of it becomes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nasmesh.host import killed_for_memory
from nasmesh.jobs import failures, slot
from nasmesh.jobs.room import OVERTAKEN, Claim, Memory, Room
from nasmesh.jobs.table import ChildLimits, JobTable, JobView
from nasmesh.v1 import job_pb2, worker_pb2
from nasmesh.v1 import train_service_pb2 as pb

HERE = Path(__file__).parent
MIB = 2**20
Make = Callable[..., JobTable]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    tables: list[JobTable] = []

    def build(budget_mib: int = 100, *, slots: int = 2, factor: float = 1.0) -> JobTable:
        table = JobTable(
            work="memory_work:run",
            slots=slots,
            directory=tmp_path / "jobs",
            environment={"PYTHONPATH": str(HERE), "MALLOC_ARENA_MAX": "2"},
            noun="training",
            queue=20,
            memory=Memory(budget_mib * MIB, "train_memory_bytes", lambda: factor),
        )
        tables.append(table)
        return table

    yield build
    for table in tables:
        table.close()


def start(table: JobTable, job_id: str, key: str, *, once: bool = False) -> None:
    request = pb.StartTrainingRequest(training_id=job_id)
    request.network.key = key
    table.start(job_id, request, once=once)


def end_of(table: JobTable, job_id: str) -> JobView:
    return list(table.watch(job_id))[-1]


def wait_for(table: JobTable, job_id: str, state: int) -> JobView:
    return next(view for view in table.watch(job_id) if view.state == state)


def test_job_when_it_does_not_fit_now_then_it_waits_queued_until_another_has_ended(make: Make) -> None:
    table = make()
    start(table, "wait-1", "60 1")
    wait_for(table, "wait-1", job_pb2.JOB_STATE_RUNNING)
    start(table, "second", "60 1")
    start(table, "small", "10 1")
    assert end_of(table, "small").state == job_pb2.JOB_STATE_SUCCEEDED
    assert table.get("second").state == job_pb2.JOB_STATE_QUEUED
    table.cancel("wait-1")
    assert end_of(table, "second").state == job_pb2.JOB_STATE_SUCCEEDED


def test_job_when_it_waits_for_memory_and_is_cancelled_then_it_ends_and_holds_nothing(make: Make) -> None:
    table = make()
    start(table, "wait-1", "70 1")
    wait_for(table, "wait-1", job_pb2.JOB_STATE_RUNNING)
    start(table, "second", "60 1")
    start(table, "weighed-after", "10 1")
    end_of(table, "weighed-after")
    assert table.cancel("second").state == job_pb2.JOB_STATE_CANCELLED
    table.cancel("wait-1")
    start(table, "large", "100 1")
    assert end_of(table, "large").state == job_pb2.JOB_STATE_SUCCEEDED


def test_job_when_it_never_fits_then_it_is_not_run_and_says_by_how_much(make: Make) -> None:
    table = make(factor=2.0)
    start(table, "large", "60 1")
    view = end_of(table, "large")
    assert [v.state for v in table.watch("large")] == [job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_FAILED]
    assert view.failure is not None
    assert view.violation is not None
    assert view.failure.reason == "CHILD_OUT_OF_MEMORY"
    assert "120 MiB" in view.failure.message
    assert "100 MiB" in view.failure.message
    assert (view.violation.constraint.metric, view.violation.constraint.max) == ("train_memory_bytes", 100 * MIB)
    assert view.violation.value == view.violation.needed_memory_bytes == 120 * MIB
    table.close()
    assert make(factor=2.0).get("large").violation == view.violation, "a next process still knows it"


def test_job_when_it_is_run_then_it_knows_its_bound_and_what_was_foretold(make: Make) -> None:
    table = make(factor=0.5)
    start(table, "job", "80 1")
    result = pb.TrainResult.FromString(end_of(table, "job").result)
    assert result.predicted_memory_bytes == 40 * MIB
    assert 40 * MIB < result.steps <= 50 * MIB


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="with a GPU addresses bound nothing")
def test_job_when_it_holds_more_than_foretold_then_it_runs_again_with_all_there_is(make: Make) -> None:
    table = make(1000)
    start(table, "job", "50 600")
    seen = [view.state for view in table.watch("job") if not view.progress]
    states = [job_pb2.JobState.Name(state).removeprefix("JOB_STATE_") for state in seen]
    assert states == ["QUEUED", "RUNNING", "QUEUED", "RUNNING"]
    assert pb.TrainResult.FromString(end_of(table, "job").result).steps == 1000 * MIB


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="with a GPU addresses bound nothing")
def test_job_when_it_runs_again_then_it_goes_on_from_its_last_checkpoint(make: Make) -> None:
    table = make(1000)
    start(table, "stored-1", "50 600")
    assert pb.TrainResult.FromString(end_of(table, "stored-1").result).checkpoint.key == "half"
    start(table, "stored-2", "50 40")
    assert not pb.TrainResult.FromString(end_of(table, "stored-2").result).HasField("checkpoint")


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="with a GPU addresses bound nothing")
def test_job_when_others_wait_for_it_then_it_ends_where_it_would_run_again_and_is_not_called_outside(
    make: Make,
) -> None:
    table = make(1000)
    start(table, "job", "50 600", once=True)
    view = end_of(table, "job")
    assert view.failure is not None
    assert (view.failure.reason, view.failure.retryable) == ("CHILD_OUT_OF_MEMORY", True)
    assert view.violation is None
    start(table, "large", "990 2000", once=True)
    assert end_of(table, "large").violation is not None, "it had all there is"


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="with a GPU addresses bound nothing")
def test_job_when_it_holds_more_than_there_is_then_outside_with_numbers_and_the_next_one_runs(make: Make) -> None:
    table = make(100, slots=1)
    start(table, "job", "50 2000")
    view = end_of(table, "job")
    assert view.violation is not None
    assert view.violation.value > view.violation.constraint.max == 100 * MIB
    start(table, "next", "50 40")
    assert end_of(table, "next").state == job_pb2.JOB_STATE_SUCCEEDED


def test_job_when_nothing_is_weighed_then_it_is_run_once_more_with_nothing_beside_it_and_then_outside(
    tmp_path: Path,
) -> None:
    most = 200 * MIB
    table = JobTable(
        work="memory_work:run",
        slots=2,
        directory=tmp_path / "jobs",
        environment={"PYTHONPATH": str(HERE)},
        noun="evaluation",
        limits=ChildLimits(memory_bytes=most),
        memory=Memory(metric="evaluate_memory_bytes", each=most),
    )
    start(table, "wait-1", "0 1")
    wait_for(table, "wait-1", job_pb2.JOB_STATE_RUNNING)
    start(table, "job", "0 2000")
    again = next(view for view in table.watch("job") if view.state == job_pb2.JOB_STATE_QUEUED and view.sequence > 1)
    start(table, "beside", "0 1")
    assert end_of(table, "beside").state == job_pb2.JOB_STATE_SUCCEEDED, "smaller ones may go before it"
    assert table.get("job").sequence == again.sequence, "it waits until it is alone"
    table.cancel("wait-1")
    view = end_of(table, "job")
    assert view.failure is not None
    assert view.violation is not None
    assert (view.state, view.failure.reason) == (job_pb2.JOB_STATE_FAILED, failures.OUT_OF_MEMORY)
    assert (view.violation.constraint.metric, view.violation.constraint.max) == ("evaluate_memory_bytes", most)
    assert view.violation.value > most
    table.close()


def test_child_when_the_kernel_ends_it_for_memory_then_out_of_memory_and_else_a_crash(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = make(100, slots=1)
    start(table, "killed-1", "100 1")
    crash = end_of(table, "killed-1")
    assert crash.failure is not None
    assert crash.failure.reason == "CHILD_CRASHED"
    assert crash.violation is None
    ended = iter(range(1000))
    monkeypatch.setattr(slot, "killed_for_memory", lambda: next(ended))
    start(table, "killed-2", "100 1")
    found = end_of(table, "killed-2")
    assert found.failure is not None
    assert found.failure.reason == failures.OUT_OF_MEMORY
    assert "kernel" in found.failure.message
    assert found.violation is not None


def test_job_when_it_cannot_be_weighed_then_it_fails_as_its_run_would(make: Make) -> None:
    table = make()
    for job_id, key, reason in (("a", "refused", "NETWORK_REJECTED"), ("b", "deadly", "CHILD_CRASHED")):
        start(table, job_id, key)
        view = end_of(table, job_id)
        assert view.failure is not None
        assert (view.state, view.failure.reason) == (job_pb2.JOB_STATE_FAILED, reason)
        assert view.violation is None
    start(table, "c", "10 1")
    assert end_of(table, "c").state == job_pb2.JOB_STATE_SUCCEEDED


class Waiting:
    """A job that waits, weighed."""

    def __init__(self, room: Room, mib: int) -> None:
        self.claim = Claim()
        assert room.weighed(self.claim, worker_pb2.JobWeighed(memory_bytes=mib * MIB)) is None


def test_large_job_when_small_ones_keep_coming_then_it_begins_all_the_same() -> None:
    room = Room(Memory(1000 * MIB, "train_memory_bytes"))
    running = [Waiting(room, 100), Waiting(room, 100)]
    for job in running:
        room.take(job.claim)
    large = Waiting(room, 800)
    line = [large, *(Waiting(room, 50) for _ in range(40))]
    begun = 0
    while (job := room.next(line)) is not large:
        if job is None:
            room.give_back(running.pop(0).claim)
            continue
        begun += 1
        line.remove(job)
        room.take(job.claim)
        running.append(job)
    assert begun <= OVERTAKEN, "no more than so many went before it"
    room.take(large.claim)
    assert room.taken <= room.budget


def test_job_when_nobody_has_weighed_it_then_two_slots_do_not_both() -> None:
    room = Room(Memory(1000 * MIB, "train_memory_bytes"))
    jobs = [Waiting(room, 10), Waiting(room, 10)]
    for job in jobs:
        job.claim = Claim()
    assert [room.next(jobs), room.next(jobs), room.next(jobs)] == [jobs[0], jobs[1], None]


def test_kernel_when_it_tells_what_it_ended_then_that_is_read(tmp_path: Path) -> None:
    (tmp_path / "vmstat").write_text("pgfault 12\noom_kill 7\n")
    assert killed_for_memory(tmp_path / "vmstat") == 7
    assert killed_for_memory(tmp_path / "nowhere") == 0


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("can't start new thread"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_error_when_it_says_that_memory_ran_out_then_it_is_taken_for_that(error: BaseException) -> None:
    assert failures.failure_of(error).reason == failures.OUT_OF_MEMORY


def test_error_when_it_came_of_telling_of_memory_then_it_is_memory_too() -> None:
    def told() -> None:
        try:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 192000000 bytes")
        except RuntimeError:
            raise ImportError("cannot import name 'x' from 'torch._dynamo.utils'")  # noqa: B904 - as torch does

    with pytest.raises(ImportError) as caught:
        told()
    assert failures.failure_of(caught.value).reason == failures.OUT_OF_MEMORY
    assert failures.failure_of(ImportError("no module named x")).reason == "JOB_FAILED"


def test_last_words_when_they_say_that_memory_ran_out_then_the_crash_is_taken_for_that() -> None:
    assert failures.crashed(-6, "terminate called after throwing 'std::bad_alloc'").reason == failures.OUT_OF_MEMORY
    assert failures.crashed(-11, "segmentation fault").reason == "CHILD_CRASHED"
    assert failures.crashed(-9, "std::bad_alloc").reason == "CHILD_CRASHED", "it was ended from outside"
