"""A training whose object store goes away: before work, on the way, at the end, for good."""

from pathlib import Path

import pytest

from nasmesh import limits
from nasmesh.clock import ManualClock, SystemClock
from nasmesh.errors import Unavailable
from nasmesh.jobs.context import Cancelled
from nasmesh.jobs.failures import failure_of
from nasmesh.jobs.outbox import Outbox
from nasmesh.store.keys import ObjectKind
from nasmesh.store.memory import MemoryStore
from nasmesh.v1 import object_pb2
from nasmesh.v1 import train_service_pb2 as pb
from tests.builders.training_jobs import Context, request, run, stored
from train_svc import job
from train_svc.upload import work_of

FOR_EVER = 10**9


class FaultStore(MemoryStore):
    """A store that refuses so many reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.refuse_puts = 0
        self.refuse_gets = 0
        self.puts = 0

    def put(self, kind: ObjectKind, content: bytes, *, extension: str = "onnx") -> object_pb2.ObjectRef:
        self.puts += 1
        if self.refuse_puts > 0:
            self.refuse_puts -= 1
            raise Unavailable("STORE_DOWN", "the store is away")
        return super().put(kind, content, extension=extension)

    def get(self, ref: object_pb2.ObjectRef) -> bytes:
        if self.refuse_gets > 0:
            self.refuse_gets -= 1
            raise Unavailable("STORE_DOWN", "the store is away")
        return super().get(ref)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path))
    return tmp_path


def by_hand() -> tuple[Context, ManualClock]:
    context, clock = Context(), ManualClock()
    context.clock = clock
    return context, clock


def kept(home: Path) -> list[Path]:
    return list((home / "uploads").glob("*"))


def test_store_when_it_comes_back_after_the_work_then_the_same_result_and_nothing_left(home: Path) -> None:
    store = FaultStore()
    start = request(stored(store), steps=12)
    expected = run(start, store)
    store.refuse_puts = 5
    context, clock = by_hand()
    result = job.train(start, context, store, clock)
    assert result.model == expected.model, "a checkpoint also holds the seconds it took"
    waiting = [progress for progress, _ in context.marks if progress.uploading]
    assert len(waiting) == 5
    assert {progress.step for progress in waiting} == {12}
    assert not context.marks[-1][0].uploading
    assert kept(home) == []


def test_store_when_it_stays_away_then_store_down_which_is_not_counted_and_the_work_is_kept(home: Path) -> None:
    store = FaultStore()
    start = request(stored(store), steps=12)
    expected = run(start, store)
    store.refuse_puts = FOR_EVER
    context, clock = by_hand()
    began = clock.monotonic()
    with pytest.raises(Unavailable) as caught:
        job.train(start, context, store, clock)
    assert limits.UPLOAD_S <= clock.monotonic() - began < limits.UPLOAD_S + 60
    failure = failure_of(caught.value)
    assert (failure.reason, failure.retryable, failure.counted) == ("STORE_DOWN", True, False)
    assert [file.name for file in kept(home)] == [f"{work_of(start)}.kept"]
    # The next attempt on this machine has another id, and trains nothing.
    store.refuse_puts = 0
    again = pb.StartTrainingRequest()
    again.CopyFrom(start)
    again.training_id = "t-2"
    context, clock = by_hand()
    result = job.train(again, context, store, clock)
    assert result.model == expected.model, "a checkpoint also holds the seconds it took"
    assert {progress.step for progress, _ in context.marks} == {12}
    assert kept(home) == []


def test_store_when_away_on_the_way_then_training_goes_on_and_ends_as_without(home: Path) -> None:
    store = FaultStore()
    start = request(stored(store), steps=60, checkpoint_interval_s=0.001)
    expected = run(start, store)
    store.refuse_puts = 2
    context = Context()
    result = job.train(start, context, store, SystemClock())
    assert result.model == expected.model
    assert store.refuse_puts == 0
    assert not any(progress.uploading for progress, _ in context.marks), "none of these was waited for"
    assert kept(home) == []


def test_store_when_away_before_work_then_store_down_at_once() -> None:
    store = FaultStore()
    start = request(stored(store), steps=12)
    store.refuse_gets = 1
    with pytest.raises(Unavailable) as caught:
        run(start, store)
    assert failure_of(caught.value).counted is False
    assert run(start, store).checkpoint.key


def test_training_when_told_to_stop_while_it_waits_then_stops_and_keeps_its_work(home: Path) -> None:
    store = FaultStore()
    start = request(stored(store), steps=12)
    store.refuse_puts = FOR_EVER

    def stop(context: Context) -> None:
        context.cancelled = context.marks[-1][0].uploading

    with pytest.raises(Cancelled):
        job.train(start, Context(stop), store, ManualClock())
    assert len(kept(home)) == 1


def test_kept_when_it_is_no_checkpoint_then_dropped_and_the_training_is_done(home: Path) -> None:
    store = FaultStore()
    start = request(stored(store), steps=12)
    Outbox(home / "uploads").keep(work_of(start), b"no checkpoint")
    assert run(start, store).checkpoint.key
    assert kept(home) == []


def test_kept_when_older_than_what_was_stored_then_the_stored_one_counts(home: Path) -> None:
    store = FaultStore()
    start = request(stored(store), steps=12)
    done = run(start, store)
    early = Context(lambda context: setattr(context, "cancelled", len(context.marks) >= 2))
    slow = request(start.network, steps=12, checkpoint_interval_s=0.001)
    with pytest.raises(Cancelled):
        run(slow, store, early)
    Outbox(home / "uploads").keep(work_of(start), store.get(early.checkpoints[0]))
    start.resume_from.CopyFrom(done.checkpoint)
    context, clock = by_hand()
    job.train(start, context, store, clock)
    assert {progress.step for progress, _ in context.marks} == {12}


def test_outbox_when_nobody_came_back_for_two_days_then_empty(tmp_path: Path) -> None:
    directory = tmp_path / "outbox"
    Outbox(directory).keep("a" * 64, b"kept")
    assert Outbox(directory).load("a" * 64) == b"kept"
    later = ManualClock(wall=SystemClock().wall() + limits.OUTBOX_KEEP_S + 60)
    assert Outbox(directory, clock=later).load("a" * 64) is None
