"""The agent against a scheduler and servers over real gRPC."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agent_fakes import TRAIN, WAIT_S, FakeDriver, FakeScheduler, FakeTrainServer, lease, token

from nasmesh.agent.attempt import Attempt
from nasmesh.agent.drivers.train import TrainDriver
from nasmesh.agent.loop import Agent
from nasmesh.agent.spool import Spool
from nasmesh.agent.targets import TRAIN as TRAIN_SERVICE
from nasmesh.agent.targets import LocalTarget, RemoteTarget, served_contract
from nasmesh.errors import Invalid, Rejected, Unavailable
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import object_pb2, train_service_pb2
from tests.builders.addresses import free_address

Run = Callable[..., Agent]


@pytest.fixture
def scheduler() -> Iterator[FakeScheduler]:
    fake = FakeScheduler()
    yield fake
    fake.stop()


@pytest.fixture
def run(scheduler: FakeScheduler, tmp_path: Path) -> Iterator[Run]:
    started: list[tuple[Agent, threading.Thread]] = []

    def begin(driver: FakeDriver | TrainDriver, *, drain_s: float = 5.0) -> Agent:
        agent = Agent(
            scheduler=scheduler.address,
            name="host-1",
            drivers=[driver],
            work_dir=tmp_path / "agent",
            labels={"room": "a"},
            drain_s=drain_s,
        )
        thread = threading.Thread(target=agent.run, daemon=True)
        thread.start()
        started.append((agent, thread))
        return agent

    yield begin
    for agent, thread in started:
        agent.drain()
        thread.join(WAIT_S)
        assert not thread.is_alive()


def test_agent_when_given_several_addresses_then_it_finds_the_one_that_leads_and_the_next_after_that(
    tmp_path: Path,
) -> None:
    nobody = free_address()
    one, two = FakeScheduler(), FakeScheduler(free_address())
    two.stop()
    agent = Agent(
        scheduler=f"{nobody},{one.address},{two.address}", name="host-1", drivers=[FakeDriver()], work_dir=tmp_path
    )
    thread = threading.Thread(target=agent.run, daemon=True)
    thread.start()
    one.wait_for(one.readies)
    one.stop()
    two.start_again()
    two.wait_for(two.readies)
    agent.drain()
    thread.join(WAIT_S)
    assert not thread.is_alive()
    two.stop()


def test_hello_says_who_the_agent_is_and_ready_offers_its_slots(scheduler: FakeScheduler, run: Run) -> None:
    run(FakeDriver(slots=2))
    scheduler.wait_for(scheduler.readies)
    hello = scheduler.hellos()[0]
    assert hello.agent == "agents/host-1"
    assert [(slot.kind, slot.slots) for slot in hello.slots] == [(TRAIN, 2)]
    assert (hello.server.engine, hello.epoch, list(hello.held)) == ("fake 1", 0, [])
    assert hello.version
    assert hello.labels == {"room": "a"}
    assert [(ready.kind, ready.free) for ready in scheduler.readies()] == [(TRAIN, 2)]


def test_a_lease_is_worked_on_answered_and_forgotten(scheduler: FakeScheduler, run: Run, tmp_path: Path) -> None:
    driver = FakeDriver()
    run(driver)
    scheduler.wait_for(scheduler.readies)
    scheduler.say(lease=lease())
    outcome = scheduler.wait_for_outcomes(1)[0]
    assert outcome.token == token()
    assert outcome.train.data_digest == "task-1-1"
    assert driver.forgotten.get(timeout=WAIT_S) == "task-1-1"
    scheduler.wait_for(lambda: len(scheduler.readies()) == 2)
    assert scheduler.readies()[-1].free == 1
    assert list((tmp_path / "agent" / "attempts").iterdir()) == []


def test_heartbeats_carry_progress_and_checkpoint(scheduler: FakeScheduler, run: Run) -> None:
    driver = FakeDriver()
    driver.work = driver.wait_for_go
    run(driver)
    scheduler.wait_for(scheduler.readies)
    scheduler.say(lease=lease())
    attempt = driver.started.get(timeout=WAIT_S)
    attempt.report(train_service_pb2.TrainProgress(step=5), object_pb2.ObjectRef(key="c5"))
    scheduler.wait_for(lambda: any(line.train.step == 5 for line in scheduler.heartbeats()))
    assert scheduler.heartbeats()[-1].token == token()
    assert scheduler.heartbeats()[-1].checkpoint.key == "c5"
    count = len(scheduler.heartbeats())
    scheduler.wait_for(lambda: len(scheduler.heartbeats()) >= count + 2)
    driver.go.set()
    scheduler.wait_for_outcomes(1)


def test_surplus_leases_wait_for_a_slot_and_are_kept_alive(scheduler: FakeScheduler, run: Run) -> None:
    driver = FakeDriver()
    driver.work = driver.wait_for_go
    run(driver)
    scheduler.wait_for(scheduler.readies)
    scheduler.say(lease=lease("task-1"))
    scheduler.say(lease=lease("task-1"))
    scheduler.say(lease=lease("task-2"))
    driver.started.get(timeout=WAIT_S)
    scheduler.wait_for(lambda: {line.token.task for line in scheduler.heartbeats()} == {"task-1", "task-2"})
    assert driver.started.empty()
    driver.go.set()
    assert {outcome.token.task for outcome in scheduler.wait_for_outcomes(2)} == {"task-1", "task-2"}


def test_cancel_stops_the_attempt_and_gives_it_back_with_its_checkpoint(scheduler: FakeScheduler, run: Run) -> None:
    driver = FakeDriver()
    driver.work = driver.wait_for_go
    run(driver)
    scheduler.wait_for(scheduler.readies)
    scheduler.say(lease=lease())
    driver.started.get(timeout=WAIT_S).report(None, object_pb2.ObjectRef(key="c1"))
    scheduler.say(cancel=pb.CancelAttempt(token=token(), reason="by a person"))
    outcome = scheduler.wait_for_outcomes(1)[0]
    assert outcome.released.checkpoint.key == "c1"


def test_a_superseded_attempt_is_stopped_and_its_outcome_dropped(
    scheduler: FakeScheduler, run: Run, tmp_path: Path
) -> None:
    driver = FakeDriver()
    driver.work = driver.wait_for_go
    run(driver)
    scheduler.wait_for(scheduler.readies)
    scheduler.say(lease=lease())
    driver.started.get(timeout=WAIT_S)
    scheduler.say(heartbeat_reply=pb.HeartbeatReply(superseded=[token()]))
    scheduler.wait_for(lambda: len(scheduler.readies()) == 2)
    assert driver.forgotten.get(timeout=WAIT_S) == "task-1-1"
    assert scheduler.outcomes() == []
    assert list((tmp_path / "agent" / "attempts").iterdir()) == []


def test_errors_of_a_driver_become_failures(scheduler: FakeScheduler, run: Run) -> None:
    driver = FakeDriver()
    errors: list[Exception] = [
        Rejected("OP_NOT_ALLOWED", "no Loop"),
        Unavailable("STORE_DOWN", "the store is away"),
        ValueError("a bug"),
    ]

    def fail(attempt: Attempt) -> pb.AttemptOutcome:
        raise errors[attempt.token.attempt - 1]

    driver.work = fail
    run(driver)
    scheduler.wait_for(scheduler.readies)
    for number in (1, 2, 3):
        scheduler.say(lease=lease(attempt=number))
        scheduler.wait_for_outcomes(number)
    failures = [outcome.failure for outcome in scheduler.outcomes()]
    assert [(failure.reason, failure.retryable, failure.counted) for failure in failures] == [
        ("OP_NOT_ALLOWED", False, True),
        ("STORE_DOWN", True, False),
        ("JOB_FAILED", True, True),
    ]


def test_an_outcome_too_large_for_a_message_fails_instead_of_breaking_the_stream(
    scheduler: FakeScheduler, run: Run
) -> None:
    driver = FakeDriver()
    driver.work = lambda _attempt: pb.AttemptOutcome(
        train=train_service_pb2.TrainResult(environment={"x": "y" * (5 << 20)})
    )
    run(driver)
    scheduler.wait_for(scheduler.readies)
    scheduler.say(lease=lease())
    assert scheduler.wait_for_outcomes(1)[0].failure.reason == "OUTCOME_TOO_LARGE"


def test_a_lost_scheduler_stops_nothing_and_gets_the_outcome_when_it_is_back(
    scheduler: FakeScheduler, run: Run, tmp_path: Path
) -> None:
    driver = FakeDriver()
    driver.work = driver.wait_for_go
    run(driver)
    scheduler.wait_for(scheduler.readies)
    scheduler.say(lease=lease())
    attempt = driver.started.get(timeout=WAIT_S)
    scheduler.stop()
    driver.go.set()
    spooled = tmp_path / "agent" / "attempts" / "task-1-1.outcome"
    poll = threading.Event()
    while not spooled.exists():
        poll.wait(0.01)
    assert not attempt.cancelled.is_set()
    scheduler.start_again()
    assert scheduler.wait_for_outcomes(1)[0].train.data_digest == "task-1-1"
    assert list(scheduler.hellos()[1].held) == [token()]
    scheduler.wait_for(lambda: len(scheduler.readies()) >= 2)


def test_an_unacknowledged_outcome_is_sent_again_on_the_next_stream(scheduler: FakeScheduler, run: Run) -> None:
    scheduler.acknowledge = False
    driver = FakeDriver()
    run(driver)
    scheduler.wait_for(scheduler.readies)
    scheduler.say(lease=lease())
    scheduler.wait_for_outcomes(1)
    scheduler.acknowledge = True
    scheduler.drop()
    first, second = scheduler.wait_for_outcomes(2)[:2]
    assert first == second
    assert driver.forgotten.get(timeout=WAIT_S) == "task-1-1"


def test_a_restarted_agent_sends_spooled_outcomes_and_adopts_its_leases(
    scheduler: FakeScheduler, run: Run, tmp_path: Path
) -> None:
    # What a process that was killed leaves: a finished attempt, a running one with a checkpoint, a superseded one.
    spool = Spool(tmp_path / "agent")
    for task in ("done", "running", "old"):
        spool.put_lease(lease(task))
    spool.put_outcome(pb.AttemptOutcome(token=token("done"), train=train_service_pb2.TrainResult(data_digest="d")))
    spool.put_checkpoint(token("running"), object_pb2.ObjectRef(key="c9"))
    scheduler.welcome.superseded.append(token("old"))
    driver = FakeDriver()
    run(driver)
    outcomes = {outcome.token.task: outcome for outcome in scheduler.wait_for_outcomes(2)}
    assert set(outcomes) == {"done", "running"}
    assert outcomes["done"].train.data_digest == "d"
    assert {held.task for held in scheduler.hellos()[0].held} == {"done", "running", "old"}
    adopted = next(attempt for attempt in iter(driver.started.get, None) if attempt.token.task == "running")
    assert adopted.adopted
    assert adopted.checkpoint is not None
    assert adopted.checkpoint.key == "c9"


def test_a_scheduler_with_a_lower_epoch_is_refused_also_after_a_restart(
    scheduler: FakeScheduler, run: Run, tmp_path: Path
) -> None:
    scheduler.welcome.epoch = 7
    agent = run(FakeDriver())
    scheduler.wait_for(scheduler.readies)
    agent.drain()
    assert Spool(tmp_path / "agent").load_epoch() == 7
    scheduler.welcome.epoch = 6
    run(FakeDriver())
    scheduler.wait_for(lambda: scheduler.connections >= 3)
    assert scheduler.hellos()[-1].epoch == 7
    assert len(scheduler.readies()) == 1


def test_drain_gives_work_back_takes_no_more_and_returns(scheduler: FakeScheduler, run: Run) -> None:
    driver = FakeDriver()
    driver.work = driver.wait_for_go
    agent = run(driver)
    scheduler.wait_for(scheduler.readies)
    scheduler.say(lease=lease())
    driver.started.get(timeout=WAIT_S).report(None, object_pb2.ObjectRef(key="c1"))
    agent.drain()
    assert scheduler.wait_for_outcomes(1)[0].released.checkpoint.key == "c1"
    kinds = [request.WhichOneof("kind") for request in scheduler.received]
    assert kinds.index("draining") < kinds.index("outcome")


def test_a_name_that_is_no_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="name"):
        Agent(scheduler="127.0.0.1:1", name="No Name", drivers=[], work_dir=tmp_path)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeTrainServer]:
    fake = FakeTrainServer(tmp_path / "jobs")
    yield fake
    fake.table.close()


@pytest.mark.parametrize("remote", [False, True])
def test_train_driver_runs_and_deletes_the_job(
    scheduler: FakeScheduler, run: Run, server: FakeTrainServer, remote: bool
) -> None:
    running = server.serve()
    assert served_contract(running.address) == TRAIN_SERVICE
    target = RemoteTarget(running.address, TRAIN_SERVICE) if remote else LocalTarget(server)
    run(TrainDriver(target))
    scheduler.wait_for(scheduler.readies)
    scheduler.say(lease=lease("echo"))
    assert scheduler.wait_for_outcomes(1)[0].train.data_digest == "echo-1"
    poll = threading.Event()
    while server.table.list():
        poll.wait(0.01)
    scheduler.say(lease=lease("crash"))
    assert scheduler.wait_for_outcomes(2)[1].failure.reason == "CHILD_CRASHED"
    scheduler.say(lease=lease("wait"))
    # Of this task: the first one reported such a step too.
    scheduler.wait_for(lambda: ("wait", 1) in [(line.token.task, line.train.step) for line in scheduler.heartbeats()])
    scheduler.say(cancel=pb.CancelAttempt(token=token("wait")))
    assert scheduler.wait_for_outcomes(3)[2].released.checkpoint.key == "last"
    running.stop(0.1)


def test_train_driver_outlasts_a_restart_of_the_server_and_resumes_from_the_checkpoint(
    scheduler: FakeScheduler, run: Run, server: FakeTrainServer, tmp_path: Path
) -> None:
    running = server.serve()
    run(TrainDriver(RemoteTarget(running.address, TRAIN_SERVICE)))
    scheduler.wait_for(scheduler.readies)
    scheduler.say(lease=lease("mark"))
    scheduler.wait_for(lambda: any(line.checkpoint.key == "half" for line in scheduler.heartbeats()))
    running.stop(0.1)
    server.table.close()
    second = FakeTrainServer(tmp_path / "jobs")
    again = second.serve(running.address)
    try:
        assert scheduler.wait_for_outcomes(1)[0].train.data_digest == "resumed from half"
        assert [start.resume_from.key for start in second.starts] == ["half"]
    finally:
        again.stop(0.1)
        second.table.close()


def test_a_leftover_job_with_another_body_is_replaced(
    scheduler: FakeScheduler, run: Run, server: FakeTrainServer
) -> None:
    server.table.start("echo-1", train_service_pb2.StartTrainingRequest(training_id="echo-1"))
    run(TrainDriver(LocalTarget(server)))
    scheduler.wait_for(scheduler.readies)
    scheduler.say(lease=lease("echo"))
    assert scheduler.wait_for_outcomes(1)[0].train.data_digest == "echo-1"
    assert len(server.starts) == 2
