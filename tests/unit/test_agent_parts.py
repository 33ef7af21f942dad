"""The agent's small parts: spool, back-off, heartbeats, what is held, flags, the job follower."""

import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nasmesh.agent import stream
from nasmesh.agent.attempt import Attempt
from nasmesh.agent.backoff import CAP_S, FIRST_S, Backoff
from nasmesh.agent.drivers.following import JobStatus, follow
from nasmesh.agent.flags import default_name, parse_agent_flags, parse_server_flags
from nasmesh.agent.heartbeats import Heartbeats
from nasmesh.agent.held import Held
from nasmesh.agent.lifetime import locked_directory, write_address
from nasmesh.agent.pace import Pace
from nasmesh.agent.spool import Spool, job_id_of
from nasmesh.clock import ManualClock, SystemClock
from nasmesh.errors import Busy, Conflict, Invalid, NasmeshError, NotFound, Raced, Unavailable
from nasmesh.exits import exit_code
from nasmesh.ids import format_name
from nasmesh.limits import LEASES_AHEAD
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import job_pb2, object_pb2, search_pb2

TRAIN = search_pb2.TASK_KIND_TRAIN


def lease(task: str = "t", attempt: int = 1) -> pb.Lease:
    return pb.Lease(token=pb.AttemptToken(task=task, attempt=attempt, epoch=2), train=pb.TrainWork())


def attempt(tmp_path: Path, task: str = "t", *, adopted: bool = False) -> Attempt:
    return Attempt(lease(task), spool=Spool(tmp_path), reported=lambda: None, adopted=adopted)


def test_spool_gives_back_what_was_put_until_it_is_dropped(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    assert spool.load_epoch() == 0
    spool.put_epoch(9)
    spool.put_lease(lease())
    spool.put_checkpoint(lease().token, object_pb2.ObjectRef(key="k"))
    outcome = pb.AttemptOutcome(token=lease().token, released=pb.AttemptReleased())
    spool.put_outcome(outcome)
    again = Spool(tmp_path)
    assert again.load_epoch() == 9
    kept = list(again.load_leases())
    assert [(entry.lease, entry.checkpoint) for entry in kept] == [(lease(), object_pb2.ObjectRef(key="k"))]
    assert list(again.load_outcomes()) == [outcome]
    again.drop(lease().token)
    assert list(Spool(tmp_path).load_leases()) == []
    assert list((tmp_path / "attempts").iterdir()) == []


def test_spool_survives_junk_and_half_written_files(tmp_path: Path) -> None:
    Spool(tmp_path)
    for name in ("a-1.lease", "b-1.outcome", "c-1.lease.part"):
        (tmp_path / "attempts" / name).write_bytes(b"\xff junk")
    (tmp_path / "scheduler.epoch").write_text("x")
    spool = Spool(tmp_path)
    assert spool.load_epoch() == 0
    assert list(spool.load_leases()) == []
    assert list(spool.load_outcomes()) == []


@pytest.mark.parametrize("token", [pb.AttemptToken(task="../x", attempt=1), pb.AttemptToken(task="t", attempt=0)])
def test_a_token_that_is_no_id_never_becomes_a_file_name(token: pb.AttemptToken) -> None:
    with pytest.raises(Invalid):
        job_id_of(token)


def test_backoff_doubles_its_bound_up_to_the_cap_and_is_jittered() -> None:
    backoff = Backoff(seed=3)
    delays = [backoff.next_s() for _ in range(200)]
    assert all(0 <= delay <= min(CAP_S, FIRST_S * 2.0**number) for number, delay in enumerate(delays))
    assert max(delays) > 0.9 * CAP_S
    assert min(delays[20:]) < 0.1 * CAP_S
    backoff.reset()
    assert backoff.next_s() <= FIRST_S


def test_heartbeats_follow_the_lease_and_hurry_for_progress() -> None:
    beats = threading.Semaphore(0)
    heartbeats = Heartbeats(beats.release, clock=SystemClock())
    try:
        assert not beats.acquire(timeout=0.05)
        heartbeats.progress()
        assert beats.acquire(timeout=5)
        heartbeats.follow_lease(0.15)
        for _ in range(4):
            assert beats.acquire(timeout=5)
    finally:
        heartbeats.stop()


def test_held_starts_as_many_as_there_are_slots_and_counts_the_free_ones(tmp_path: Path) -> None:
    held = Held(SystemClock())
    first, second = attempt(tmp_path, "a"), attempt(tmp_path, "b")
    assert held.add(first)
    assert held.add(second)
    assert not held.add(first)
    assert held.room(TRAIN, 3) == (1, 0)
    assert held.start_next(lambda _kind: 1) is first
    assert held.start_next(lambda _kind: 1) is None
    outcome = pb.AttemptOutcome(token=first.token)
    held.end(first, outcome)
    assert held.start_next(lambda _kind: 1) is second
    assert {token.task for token in held.tokens()} == {"a", "b"}
    held.end(second, None)
    assert not held.wait_until_empty(0.0)
    assert held.acknowledge("a-1") == outcome
    assert held.acknowledge("a-1") is None
    assert held.wait_until_empty(0.0)


@pytest.mark.parametrize(
    ("took", "slots", "longest", "ahead"),
    [
        ([], 1, 0.0, 0),
        ([0.0], 1, 0.0, LEASES_AHEAD),
        ([0.02], 1, 0.0, LEASES_AHEAD),
        ([0.04], 1, 0.0, 3),
        ([0.2], 4, 0.0, 2),
        ([0.1], 1, 0.0, 1),
        ([0.21], 1, 0.0, 0),
        ([30.0], 4, 0.0, 0),
        ([0.02], 1, 5.0, 0),
        ([0.02] * 50 + [1.0], 1, 0.0, 0),
        ([1.0] + [0.035] * 50, 1, 0.0, 3),
    ],
)
def test_pace_has_as_many_leases_wait_as_cover_the_way_to_the_scheduler(
    took: list[float], slots: int, longest: float, ahead: int
) -> None:
    pace = Pace()
    for seconds in took:
        pace.ended(seconds)
    assert pace.ahead(slots, longest) == ahead


def test_reports_that_may_wait_go_together_and_nothing_overtakes_them() -> None:
    def report(*tasks: str, free: int) -> pb.WorkRequest:
        made = pb.AgentReport(ready=[pb.AgentReady(kind=TRAIN, free=free)])
        for task in tasks:
            made.outcomes.add(token=pb.AttemptToken(task=task, attempt=1))
        return pb.WorkRequest(report=made)

    outgoing: queue.SimpleQueue[stream.Said | None] = queue.SimpleQueue()
    beat = pb.WorkRequest(heartbeat=pb.AgentHeartbeat())
    for said in (
        stream.Said(report("a", free=0), may_wait=True),
        stream.Said(report("b", free=1), may_wait=True),
        stream.Said(beat),
        stream.Said(report("c", free=2), may_wait=True),
        stream.Said(report("d", free=3)),
        stream.Said(report("e", free=4)),
    ):
        outgoing.put(said)
    words = stream.gathered(outgoing)
    together = [report("a", "b", free=1), beat, report("c", "d", free=3), report("e", free=4)]
    assert [next(words) for _ in together] == together
    outgoing.put(stream.Said(report("f", free=1), may_wait=True))
    assert next(words) == report("f", free=1), "nothing else came"
    outgoing.put(None)
    assert list(words) == []


def test_held_gives_back_what_waits_too_long_though_no_slot_is_free(tmp_path: Path) -> None:
    clock = ManualClock()
    held = Held(clock)
    for name in ("a", "b", "c"):
        held.add(attempt(tmp_path, name))
    first = held.start_next(lambda _kind: 1)
    assert first is not None
    assert held.overdue(0.5) == []
    clock.advance(0.5)
    late = held.overdue(0.5)
    assert [one.token.task for one in late] == ["b", "c"]
    assert held.start_next(lambda _kind: 1) is None
    late[1].cancel()
    assert held.start_next(lambda _kind: 1) is late[1], "it only has to be given back"
    held.end(late[1], None)
    held.end(first, None)
    assert held.room(TRAIN, 1) == (0, 0), "b waits still, and what takes half a second needs nobody waiting"


def test_on_cancel_is_called_once_also_when_it_comes_late(tmp_path: Path) -> None:
    work = attempt(tmp_path)
    called = threading.Semaphore(0)
    work.cancel()
    work.on_cancel(called.release)
    assert called.acquire(timeout=5)
    work.cancel(superseded=True)
    assert work.superseded
    assert not called.acquire(timeout=0.05)


def test_flags_become_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path))
    monkeypatch.delenv("NASMESH_STORE", raising=False)
    settings = parse_server_flags("train_svc", listen="127.0.0.1:7402", slots=2, argv=["--label", "a=b=c"])
    assert (settings.listen, settings.slots, settings.scheduler) == ("127.0.0.1:7402", 2, "")
    assert settings.labels == {"a": "b=c"}
    assert settings.work_dir == tmp_path / "train_svc"
    assert settings.store == f"dir:{tmp_path / 'objects'}"
    side = parse_agent_flags(["--scheduler", "127.0.0.1:1", "--target", "127.0.0.1:2"])
    assert side.name == default_name("agent", "127.0.0.1:2")
    with pytest.raises(Invalid, match=r"--target; see nasmesh agent --help"):
        parse_agent_flags(["--scheduler", "127.0.0.1:1"])


def test_the_default_name_is_an_agent_id_whatever_the_host_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.node", lambda: "_My Host_" + "x" * 80)
    name = default_name("train_svc", "127.0.0.1:7402")
    assert name.endswith("train-svc-7402")
    format_name("agents", name)


def test_a_work_directory_is_for_one_process(tmp_path: Path) -> None:
    with locked_directory(tmp_path / "w"), pytest.raises(Unavailable, match="work-dir"):  # noqa: SIM117
        with locked_directory(tmp_path / "w"):
            pass
    with locked_directory(tmp_path / "w"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(Invalid, match="work-dir"), locked_directory(tmp_path / "file" / "w"):
        pass
    with pytest.raises(Invalid, match="port-file"):
        write_address(tmp_path / "file" / "port", "127.0.0.1:1")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Invalid("A", "a"), 2),
        (Unavailable("A", "a"), 3),
        (NotFound("A", "a"), 4),
        (Conflict("A", "a"), 5),
        (Raced("A", "a"), 5),
        (Busy("A", "a"), 3),
        (NasmeshError("A", "a"), 1),
    ],
)
def test_exit_codes(error: NasmeshError, code: int) -> None:
    assert exit_code(error) == code


class FakeCalls:
    """A server that raises what it is told to, then has the job done."""

    def __init__(self, *errors: NasmeshError) -> None:
        self.errors = list(errors)
        self.cancelled = threading.Event()

    def _status(self, state: job_pb2.JobState.ValueType) -> JobStatus:
        return JobStatus(state, 1, None, None, pb.AttemptOutcome(train={}), search_pb2.Failure())

    def start(self, job_id: str, lease: pb.Lease) -> JobStatus:  # noqa: ARG002
        if self.errors:
            raise self.errors.pop(0)
        return self._status(job_pb2.JOB_STATE_RUNNING)

    def get(self, job_id: str) -> JobStatus:  # noqa: ARG002
        raise NotFound("TRAINING_UNKNOWN", "gone")

    def watch(self, job_id: str, after_sequence: int) -> Iterator[JobStatus]:  # noqa: ARG002
        yield self._status(job_pb2.JOB_STATE_SUCCEEDED)

    def cancel(self, job_id: str, grace_s: float | None = None) -> None:  # noqa: ARG002
        self.grace_s = grace_s
        self.cancelled.set()

    def delete(self, job_id: str) -> None:
        raise AssertionError(job_id)

    def continued(self, lease: pb.Lease, checkpoint: object_pb2.ObjectRef) -> pb.Lease:  # noqa: ARG002
        return lease


def test_follow_outlasts_a_busy_and_an_absent_server(tmp_path: Path) -> None:
    calls = FakeCalls(Unavailable("UNREACHABLE", "x"), Busy("NO_SLOT", "x", retry_after_s=0.01))
    assert follow(calls, attempt(tmp_path)).HasField("train")


def test_follow_gives_up_a_server_that_stays_away(tmp_path: Path) -> None:
    calls = FakeCalls(*[Unavailable("UNREACHABLE", "x")] * 50)
    with pytest.raises(Unavailable) as caught:
        follow(calls, attempt(tmp_path), unreachable_s=0.0)
    assert caught.value.reason == "SERVER_UNREACHABLE"


def test_follow_starts_nothing_for_an_attempt_that_should_stop(tmp_path: Path) -> None:
    for adopted in (False, True):
        work = attempt(tmp_path, adopted=adopted)
        work.cancel()
        calls = FakeCalls(Invalid("STARTED", "must not be called"))
        assert follow(calls, work).HasField("released")


@pytest.mark.parametrize("grace_s", [None, 60.0])
def test_follow_asks_for_as_much_time_as_the_checkpoint_is_given(tmp_path: Path, grace_s: float | None) -> None:
    calls, work = FakeCalls(), attempt(tmp_path)

    def watch(job_id: str, after_sequence: int) -> Iterator[JobStatus]:  # noqa: ARG001
        work.cancel(grace_s=grace_s)
        assert calls.cancelled.wait(5)
        last = object_pb2.ObjectRef(key="last")
        yield JobStatus(job_pb2.JOB_STATE_CANCELLED, 2, None, last, pb.AttemptOutcome(), search_pb2.Failure())

    calls.watch = watch  # type: ignore[method-assign]
    assert follow(calls, work).released.checkpoint.key == "last"
    assert calls.grace_s == grace_s


def test_follow_passes_on_what_the_server_refuses(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="epochs"):
        follow(FakeCalls(Invalid("TRAIN_CONFIG_INVALID", "epochs")), attempt(tmp_path))
