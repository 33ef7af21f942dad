"""While the object store is down, dispatch is held and probed; nothing is lost by it, however long it lasts."""

from functools import partial

from nasmesh.errors import Unavailable
from nasmesh.v1 import dispatch_service_pb2 as pb
from scheduler.activity_message import activity_message
from scheduler.domain import TaskKind, TaskState
from scheduler.machine.tasks import LOSSES
from scheduler.outage import PROBE_S, Outage
from tests.builders import scheduling as make
from tests.builders.scheduler_world import SimulatedAgent, World


def working_world() -> tuple[World, SimulatedAgent]:
    """Return a world with one agent and a search of many trials, whose first trainings are leased."""
    world = World(1, kill_rate=0.0, agents=1)
    world.faults = False
    agent = world.agents[0]
    world.connect(agent)
    world.create("s", make.make_spec(max_trials=8, parallelism=8))
    world.ready(agent)
    answer_generate(world, agent)
    return world, agent


def answer_generate(world: World, agent: SimulatedAgent) -> None:
    for lease in take(world, agent):
        assert lease.WhichOneof("work") == "generate"
        report(world, agent, make.make_outcome(lease))


def take(world: World, agent: SimulatedAgent) -> list[pb.Lease]:
    """Return the leases that have come since."""
    world.deliver(agent)
    leases = list(agent.held.values())
    agent.held.clear()
    return leases


def report(world: World, agent: SimulatedAgent, outcome: pb.AttemptOutcome) -> None:
    assert agent.entry is not None
    world.step(partial(world.desk.outcome, agent.entry, outcome))


def want(world: World, agent: SimulatedAgent, free: int = 2) -> list[pb.Lease]:
    """Have the agent say how much room it has, and return what it is given."""
    assert agent.entry is not None
    for kind in make.ALL_KINDS:
        world.step(partial(world.desk.ready, agent.entry, pb.AgentReady(kind=kind, free=free)))  # type: ignore[arg-type]
    return take(world, agent)


def down(lease: pb.Lease) -> pb.AttemptOutcome:
    return make.make_failure(lease, "STORE_DOWN", counted=False)


def break_store(world: World, agent: SimulatedAgent) -> None:
    """Report STORE_DOWN until dispatch is held."""
    for _ in range(10):
        leases = want(world, agent)
        while leases:
            for lease in leases:
                report(world, agent, down(lease))
            leases = take(world, agent)
        if world.engine.outage.holds:
            return
        world.clock.advance(30.0)
        world.step()
    raise AssertionError("three failures did not hold dispatch")


def test_outcomes_when_three_of_five_say_store_down_then_held_not_before() -> None:
    outage = Outage()
    for reason in ("STORE_DOWN", "CHILD_CRASHED", "STORE_DOWN", "CHILD_CRASHED"):
        outage.failed(reason, 0.0)
    assert not outage.holds
    outage.worked(0.0)
    outage.failed("STORE_DOWN", 0.0)
    assert not outage.holds, "the first of the three is the sixth before"
    outage.worked(0.0)
    outage.failed("STORE_DOWN", 0.0)
    assert not outage.holds
    outage.failed("STORE_DOWN", 0.0)
    assert outage.holds


def test_dispatch_when_the_store_is_down_then_one_probe_every_five_seconds() -> None:
    world, agent = working_world()
    break_store(world, agent)
    assert activity_message(world.engine).store_outage
    world.clock.advance(PROBE_S - 0.1)
    assert want(world, agent) == []
    given = []
    for _ in range(6):
        world.clock.advance(PROBE_S)
        world.step()
        leases = want(world, agent)
        assert len(leases) <= 1, "a probe is one task"
        given += leases
        for lease in leases:
            report(world, agent, down(lease))
        assert want(world, agent) == [], "the next one comes five seconds later"
    assert len(given) >= 4
    assert world.engine.next_deadline() <= world.clock.monotonic() + PROBE_S


def test_dispatch_when_a_probe_succeeds_then_everything_goes_on() -> None:
    world, agent = working_world()
    break_store(world, agent)
    probe: list[pb.Lease] = []
    while not probe:
        world.clock.advance(PROBE_S)
        world.step()
        probe = want(world, agent)
    report(world, agent, make.make_outcome(probe[0]))
    assert not world.engine.outage.holds
    assert not activity_message(world.engine).store_outage
    world.clock.advance(60.0)  # the back-off of the tasks that failed
    world.step()
    assert len(want(world, agent)) >= 2


def test_dispatch_when_a_probe_stores_a_checkpoint_then_everything_goes_on() -> None:
    world, agent = working_world()
    break_store(world, agent)
    probe: list[pb.Lease] = []
    while not probe:
        world.clock.advance(PROBE_S)
        world.step()
        probe = want(world, agent)
    assert agent.entry is not None
    mark = pb.AttemptProgress(token=probe[0].token, checkpoint=make.make_ref("half", "checkpoints"))
    world.step(partial(world.desk.heartbeat, agent.entry, pb.AgentHeartbeat(attempts=[mark])))
    assert not world.engine.outage.holds


def test_outage_when_it_lasts_for_hours_then_no_trial_is_lost_or_quarantined() -> None:
    world, agent = working_world()
    break_store(world, agent)
    attempts = 0
    for _ in range(4 * LOSSES):
        world.clock.advance(PROBE_S)
        world.step()
        for lease in want(world, agent):
            attempts += 1
            report(world, agent, down(lease))
    assert attempts > 2 * LOSSES
    run = world.engine.state.searches["s"]
    tasks = [world.engine.state.tasks[task] for task in run.open_tasks]
    assert len(tasks) == 8
    assert all(
        task.counted == 0 and task.losses < 10 and task.state in (TaskState.QUEUED, TaskState.RUNNING) for task in tasks
    )
    assert world.engine.activity.failures["STORE_OUTAGE"] > LOSSES


def test_restart_when_the_store_is_down_then_it_is_learnt_anew() -> None:
    world, agent = working_world()
    break_store(world, agent)
    world.boot()
    assert not world.engine.outage.holds
    world.connect(agent)
    assert want(world, agent), "the first ones find out again"


def test_activity_when_the_journal_refuses_an_outcome_then_it_is_counted_when_it_comes_again() -> None:
    world, agent = working_world()
    leases = want(world, agent)
    before = world.engine.activity.outcomes_recorded
    entry, failed = agent.entry, down(leases[0])
    assert entry is not None
    step = world.engine.prepare([partial(world.desk.outcome, entry, failed)])
    world.engine.abort(step, Unavailable("JOURNAL_FULL", "no space left"))
    [refused] = world.step(partial(world.desk.outcome, entry, failed))  # it is not even tried for a second
    assert isinstance(refused, Unavailable)
    assert (world.engine.activity.outcomes_recorded, dict(world.engine.activity.failures)) == (before, {})
    world.clock.advance(2.0)
    assert world.step(partial(world.desk.outcome, entry, failed)) == [None]
    doing = activity_message(world.engine)
    assert (doing.outcomes_recorded, dict(doing.failures)) == (before + 1, {"STORE_DOWN": 1})


def test_activity_when_outcomes_come_then_each_is_counted_once() -> None:
    world, agent = working_world()
    leases = want(world, agent)
    assert len(leases) == 2
    before = world.engine.activity.outcomes_recorded
    outcome = make.make_outcome(leases[0])
    report(world, agent, outcome)
    report(world, agent, outcome)
    report(world, agent, down(leases[0]))
    running = len(world.engine.work.leases.armed())
    world.clock.advance(31.0)
    world.step()
    doing = activity_message(world.engine)
    assert doing.outcomes_recorded == before + 1
    assert (doing.duplicates_refused, doing.superseded_refused) == (1, 1)
    assert dict(doing.attempts_lost) == {"LEASE_EXPIRED": running}
    assert doing.open_searches == 1
    assert doing.connected_agents == 1
    by_kind = {TaskKind(counts.kind): (counts.queued, counts.running) for counts in doing.tasks}
    assert sum(by_kind[TaskKind.TRAIN]) == 7
    assert sum(by_kind[TaskKind.EVALUATE]) == 1
    assert doing.oldest_queued_s == 31.0
    assert doing.events == world.engine.state.sequence
