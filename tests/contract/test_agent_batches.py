"""The agent's side of reports, batches and drain notices, against schedulers that know them and one that does not."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_fakes import TRAIN, WAIT_S, FakeDriver, FakeScheduler, lease, token

from nasmesh.agent.loop import Agent
from nasmesh.limits import LEASES_AHEAD
from nasmesh.v1 import dispatch_service_pb2 as pb


@pytest.fixture
def scheduler() -> Iterator[FakeScheduler]:
    fake = FakeScheduler()
    fake.welcome.accepts_reports = True
    yield fake
    fake.stop()


@pytest.fixture
def driver(scheduler: FakeScheduler, tmp_path: Path) -> Iterator[FakeDriver]:
    """The driver of a running agent with two slots."""
    made = FakeDriver(slots=2)
    agent = Agent(scheduler=scheduler.address, name="host-1", drivers=[made], work_dir=tmp_path / "agent", drain_s=5.0)
    thread = threading.Thread(target=agent.run, daemon=True)
    thread.start()
    scheduler.wait_for(scheduler.readies)
    yield made
    made.go.set()
    agent.drain()
    thread.join(WAIT_S)
    assert not thread.is_alive()


def reports(scheduler: FakeScheduler) -> list[pb.AgentReport]:
    return [request.report for request in scheduler.received if request.HasField("report")]


@pytest.mark.usefixtures("driver")
def test_an_outcome_and_the_free_slot_go_as_one_message(scheduler: FakeScheduler) -> None:
    assert scheduler.hellos()[0].accepts_batches
    scheduler.say(lease=lease())
    scheduler.wait_for_outcomes(1)
    report = reports(scheduler)[-1]
    assert [outcome.token for outcome in report.outcomes] == [token()]
    assert [(ready.kind, ready.free) for ready in report.ready] == [(TRAIN, 2)]
    assert not any(request.HasField("outcome") or request.HasField("ready") for request in scheduler.received)


def test_a_batch_is_worked_through_answers_first(scheduler: FakeScheduler, driver: FakeDriver, tmp_path: Path) -> None:
    scheduler.acknowledge = False
    driver.work = driver.wait_for_go
    scheduler.say(batch=pb.WorkBatch(leases=[lease("task-1"), lease("task-2")]))
    assert {driver.started.get(timeout=WAIT_S).token.task for _ in range(2)} == {"task-1", "task-2"}
    driver.go.set()
    scheduler.wait_for_outcomes(2)
    replies = [pb.OutcomeReply(token=token(task), disposition=pb.OUTCOME_DISPOSITION_RECORDED) for task in TASKS]
    driver.work = driver.wait_for_go
    driver.go.clear()
    cancel = pb.CancelAttempt(token=token("task-9"), reason="unknown here")
    scheduler.say(batch=pb.WorkBatch(outcome_replies=replies, cancels=[cancel], leases=[lease("task-3")]))
    driver.started.get(timeout=WAIT_S)
    assert {driver.forgotten.get(timeout=WAIT_S) for _ in TASKS} == {"task-1-1", "task-2-1"}
    kept = {path.name for path in (tmp_path / "agent" / "attempts").iterdir()}
    assert kept == {"task-3-1.lease"}
    scheduler.say(batch=pb.WorkBatch(cancels=[pb.CancelAttempt(token=token("task-3"), reason="not wanted")]))
    released = scheduler.wait_for_outcomes(3)[2]
    assert released.HasField("released")


TASKS = ("task-1", "task-2")


def test_a_drained_agent_offers_nothing_until_it_is_wanted_again(scheduler: FakeScheduler, driver: FakeDriver) -> None:
    driver.work = driver.wait_for_go
    scheduler.say(lease=lease("task-1"))
    driver.started.get(timeout=WAIT_S)
    scheduler.say(drain=pb.DrainNotice(draining=True))
    scheduler.wait_for(lambda: scheduler.readies()[-1].free == 0)
    driver.go.set()
    scheduler.wait_for_outcomes(1)
    assert [ready.free for ready in reports(scheduler)[-1].ready] == [0]
    scheduler.say(drain=pb.DrainNotice(draining=False))
    scheduler.wait_for(lambda: scheduler.readies()[-1].free == 2)


def test_an_agent_of_short_attempts_has_the_next_at_hand_and_gives_back_what_waits_too_long(
    scheduler: FakeScheduler, driver: FakeDriver
) -> None:
    assert [slots.ahead for slots in scheduler.hellos()[0].slots] == [LEASES_AHEAD]
    assert [ready.ahead for ready in reports(scheduler)[-1].ready] == [0], "nothing is known of its attempts yet"
    scheduler.say(lease=lease("task-0"))
    scheduler.wait_for_outcomes(1)
    assert reports(scheduler)[-1].ready[0].ahead > 0
    driver.work = driver.wait_for_go
    scheduler.say(batch=pb.WorkBatch(leases=[lease(f"task-{number}") for number in (1, 2, 3)]))
    assert {driver.started.get(timeout=WAIT_S).token.task for _ in range(3)} == {"task-0", "task-1", "task-2"}
    back = scheduler.wait_for_outcomes(2)[1]
    assert back.token == token("task-3")
    assert back.HasField("released")
    last = reports(scheduler)[-1].ready[0]
    assert (last.free, last.ahead) == (0, 0), "what holds it up takes long"


@pytest.mark.usefixtures("driver")
def test_outcomes_that_wait_go_again_after_a_lost_stream_and_are_told_once_acknowledged(
    scheduler: FakeScheduler,
) -> None:
    scheduler.acknowledge = False
    scheduler.say(batch=pb.WorkBatch(leases=[lease("task-1"), lease("task-2")]))
    scheduler.wait_for_outcomes(2)
    scheduler.acknowledge = True
    scheduler.drop()
    again = scheduler.wait_for_outcomes(4)[2:]
    assert {outcome.token.task for outcome in again} == {"task-1", "task-2"}
    assert {held.task for held in scheduler.hellos()[1].held} == {"task-1", "task-2"}


def test_a_scheduler_that_knows_no_reports_hears_single_messages(tmp_path: Path) -> None:
    old = FakeScheduler()
    agent = Agent(scheduler=old.address, name="host-1", drivers=[FakeDriver()], work_dir=tmp_path, drain_s=5.0)
    thread = threading.Thread(target=agent.run, daemon=True)
    thread.start()
    try:
        old.wait_for(old.readies)
        old.say(lease=lease())
        old.wait_for_outcomes(1)
        old.wait_for(lambda: len(old.readies()) == 2)
        assert not any(request.HasField("report") for request in old.received)
    finally:
        agent.drain()
        thread.join(WAIT_S)
        old.stop()
    assert not thread.is_alive()
