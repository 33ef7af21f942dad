"""Who is given a training that needs more memory, and when nobody is known who gives as much: the engine over time."""

from functools import partial

import pytest

from nasmesh.errors import Unavailable
from nasmesh.limits import AGENT_KNOWN_S, LEASE_S
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import job_pb2, search_pb2
from scheduler.agents import AgentEntry
from scheduler.demand import demand_message
from scheduler.domain import Task, TaskKind, TaskState
from scheduler.needs import LOOK_S, beyond
from tests.builders import scheduling as make
from tests.builders.scheduler_lifecycle import LifecycleWorld, pause, resume

GIB = 2**30
TASK = "s-t1-train"
TRAIN = search_pb2.TASK_KIND_TRAIN


class Hosts(LifecycleWorld):
    """Train servers of some memory each, by name; nothing fails by itself."""

    def __init__(self, **gives: int) -> None:
        super().__init__(1, kill_rate=0.0, agents=0)
        self.faults = False
        self.sessions: dict[str, make.Recorder] = {}
        self.entries: dict[str, AgentEntry] = {}
        self.join("generator", 0, kinds=make.ALL_KINDS[:1])
        for name, gibs in gives.items():
            self.join(name, gibs)

    def join(
        self,
        name: str,
        gibs: int,
        *,
        kinds: tuple[int, ...] = (TRAIN,),
        data: str = "datasets/digits",
        slots: int = 2,
    ) -> None:
        hello = make.make_hello(name, kinds=kinds, slots=slots)
        hello.server.datasets[0].name = data
        if gibs:
            hello.server.devices.add(id="cpu", job_memory_bytes=gibs * GIB)
        self.sessions[name] = make.Recorder()
        entry = self.step(partial(self.desk.hello, self.sessions[name], hello))[0]
        assert isinstance(entry, AgentEntry), entry
        self.entries[name] = entry
        for kind in kinds:
            self.step(partial(self.desk.ready, entry, pb.AgentReady(kind=search_pb2.TaskKind.ValueType(kind), free=2)))

    def leave(self, name: str) -> None:
        self.step(partial(self.desk.gone, self.entries[name], self.sessions[name]))

    def lease(self, name: str) -> pb.Lease | None:
        """Return the last lease that an agent was sent."""
        leases = [message.lease for message in self.sessions[name].sent if message.HasField("lease")]
        self.sessions[name].sent.clear()
        return leases[-1] if leases else None

    def report(self, name: str, outcome: pb.AttemptOutcome) -> None:
        self.step(partial(self.desk.outcome, self.entries[name], outcome))
        kind = TRAIN if name != "generator" else search_pb2.TASK_KIND_GENERATE
        self.step(partial(self.desk.ready, self.entries[name], pb.AgentReady(kind=kind, free=2)))

    def begin(self, *, processes: int = 1) -> None:
        """Create a search of one trial, whose training is queued then."""
        spec = make.make_spec(max_trials=1, parallelism=1)
        spec.train.distribution.processes = processes
        self.create("s", spec)
        lease = self.lease("generator")
        assert lease is not None
        self.report("generator", make.make_outcome(lease))

    def refuse(self, name: str, gibs: int) -> None:
        """Have an agent refuse the training that it was leased, since it needs so much."""
        lease = self.lease(name)
        assert lease is not None, f"{name} was leased nothing"
        self.report(name, make.make_infeasible(lease, needed=gibs * GIB))

    def pass_s(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.step()

    @property
    def task(self) -> Task:
        return self.engine.state.tasks[TASK]

    @property
    def trial(self) -> search_pb2.Trial:
        return self.engine.state.searches["s"].trials[0]

    def numbers(self) -> tuple[float, float]:
        assert self.trial.outcome == search_pb2.TRIAL_OUTCOME_INFEASIBLE
        return self.trial.violation.value / GIB, self.trial.violation.constraint.max / GIB


def settled(**gives: int) -> Hosts:
    """Return hosts whose scheduler has been up for longer than a lease, with a training queued."""
    hosts = Hosts(**gives)
    for _ in range(2):
        hosts.pass_s(LEASE_S)
    return hosts


def waiting_for(gibs: int, **gives: int) -> Hosts:
    """Return hosts of which the one called small has refused a training; the others were full until then."""
    hosts = settled(small=gives.pop("small", 1))
    hosts.begin()
    for name, given in gives.items():
        hosts.join(name, given)
    hosts.refuse("small", gibs)
    return hosts


def test_training_when_it_did_not_fit_then_only_who_gives_as_much_is_given_it() -> None:
    hosts = waiting_for(3, middle=2, large=4)
    assert (hosts.task.state, hosts.task.current().agent) == (TaskState.RUNNING, "agents/large")
    lease = hosts.lease("large")
    assert lease is not None
    assert lease.token.attempt == 2
    assert hosts.lease("middle") is None
    hosts.report("large", make.make_outcome(lease))
    assert hosts.trial.phase == search_pb2.TRIAL_PHASE_EVALUATE_QUEUED
    assert hosts.replayed() == hosts.engine.state


def test_training_over_processes_when_servers_have_fewer_slots_then_it_waits_for_one_that_has_them() -> None:
    hosts = settled(small=1, large=4)
    hosts.begin(processes=4)
    run = hosts.engine.state.searches["s"]
    for _ in range(3):
        hosts.pass_s(LOOK_S)
    assert hosts.task.state is TaskState.QUEUED
    told = hosts.engine.work.lacking(hosts.engine.state, run)
    assert told.startswith("trial 1 waits: a training over 4 processes")
    assert "have 2 at most" in told
    (row,) = demand_message(hosts.engine).demands
    assert (row.servers, row.slots, row.queued) == (1, 4, 1)
    hosts.join("wide", 0, slots=4)
    assert hosts.task.current().agent == "agents/wide"
    assert not hosts.engine.work.lacking(hosts.engine.state, run)
    assert hosts.replayed() == hosts.engine.state


def test_training_when_nobody_gives_as_much_then_infeasible_in_the_same_step_with_the_largest() -> None:
    hosts = waiting_for(9, middle=2, large=4)
    assert hosts.numbers() == (9, 4)
    assert hosts.replayed() == hosts.engine.state


def test_training_when_the_large_one_is_full_then_it_waits_without_end() -> None:
    hosts = settled(small=1, large=4)
    entry = hosts.entries["large"]
    hosts.step(partial(hosts.desk.ready, entry, pb.AgentReady(kind=TRAIN, free=0)))
    hosts.begin()
    hosts.refuse("small", 3)
    for _ in range(50):
        hosts.pass_s(LOOK_S)
    assert hosts.task.state is TaskState.QUEUED
    hosts.step(partial(hosts.desk.ready, entry, pb.AgentReady(kind=TRAIN, free=1)))
    assert hosts.task.current().agent == "agents/large"


def test_training_when_the_large_one_has_left_then_it_is_known_for_a_while() -> None:
    hosts = settled(small=1, large=4)
    hosts.leave("large")
    hosts.begin()
    hosts.refuse("small", 3)
    hosts.pass_s(AGENT_KNOWN_S - 1)
    assert hosts.task.state is TaskState.QUEUED
    (told,) = [hosts.engine.work.lacking(hosts.engine.state, hosts.engine.state.searches["s"])]
    assert told.startswith("trial 1 waits: its training needs 3 GiB of a device")
    assert "give 1 GiB at most" in told
    hosts.pass_s(LOOK_S + 1)
    assert hosts.numbers() == (3, 1)


def test_training_when_the_large_one_comes_back_in_time_then_it_is_trained_there() -> None:
    hosts = settled(small=1, large=4)
    hosts.leave("large")
    hosts.begin()
    hosts.refuse("small", 3)
    hosts.pass_s(AGENT_KNOWN_S - 1)
    hosts.join("large", 4)
    assert hosts.task.current().agent == "agents/large"


def test_training_when_the_large_one_comes_back_smaller_then_infeasible() -> None:
    hosts = settled(small=1, large=4)
    hosts.leave("large")
    hosts.begin()
    hosts.refuse("small", 3)
    hosts.join("large", 2)
    hosts.pass_s(LOOK_S)
    assert hosts.numbers() == (3, 2)


def test_training_when_the_scheduler_has_just_started_then_agents_have_a_lease_to_find_it() -> None:
    hosts = Hosts(small=1)
    hosts.begin()
    hosts.refuse("small", 3)
    assert hosts.task.state is TaskState.QUEUED
    hosts.pass_s(LEASE_S - 1)
    assert hosts.task.state is TaskState.QUEUED
    assert hosts.engine.next_deadline() <= hosts.clock.monotonic() + 1
    hosts.pass_s(1)
    assert hosts.numbers() == (3, 1)


def test_need_when_older_than_the_scheduler_then_whoever_met_it_has_longer_to_come_back() -> None:
    hosts = settled(small=1, large=4)
    hosts.leave("large")
    hosts.begin()
    hosts.refuse("small", 3)
    hosts.boot()
    assert hosts.task.need_bytes == 3 * GIB
    hosts.join("small", 1)
    hosts.pass_s(AGENT_KNOWN_S - 1)
    assert hosts.lease("small") is None
    assert hosts.task.state is TaskState.QUEUED
    hosts.pass_s(1)
    assert hosts.numbers() == (3, 1)


def test_need_when_nobody_at_all_is_known_then_it_waits_as_other_work_does() -> None:
    hosts = waiting_for(3, large=4)
    lease = hosts.lease("large")
    assert lease is not None
    hosts.report("large", make.make_failure(lease))
    for name in ("small", "large"):
        hosts.leave(name)
    for _ in range(30):
        hosts.pass_s(LOOK_S)
    assert hosts.task.state is TaskState.QUEUED
    hosts.join("other", 9, data="datasets/cifar10")
    hosts.pass_s(LOOK_S)
    assert hosts.task.state is TaskState.QUEUED, "who has other data says nothing of this"
    hosts.join("small", 1)
    hosts.pass_s(LOOK_S)
    assert hosts.numbers() == (3, 1)


def test_servers_when_a_deployer_would_start_them_then_they_count() -> None:
    hosts = settled(small=1)
    server = job_pb2.Server()
    server.devices.add(job_memory_bytes=4 * GIB)
    hosts.engine.work.needs.offered = lambda kind: [server] if kind is TaskKind.TRAIN else []
    hosts.begin()
    hosts.refuse("small", 3)
    hosts.pass_s(LOOK_S)
    assert hosts.task.state is TaskState.QUEUED
    (row,) = demand_message(hosts.engine).demands
    assert (row.needed_memory_bytes, row.queued) == (3 * GIB, 1)
    del server.devices[:]
    hosts.pass_s(LOOK_S)
    assert hosts.numbers() == (3, 1)


def test_search_when_paused_then_its_needs_are_judged_when_it_goes_on() -> None:
    hosts = settled(small=1)
    hosts.begin()
    hosts.wish(pause("s"))
    hosts.refuse("small", 3)
    hosts.pass_s(LOOK_S)
    assert hosts.task.state is TaskState.QUEUED
    hosts.wish(resume("s"))
    assert hosts.numbers() == (3, 1)


def test_journal_when_it_refuses_the_step_then_the_need_is_judged_with_the_next_report() -> None:
    hosts = settled(small=1)
    hosts.begin()
    lease = hosts.lease("small")
    assert lease is not None
    outcome = make.make_infeasible(lease, given=GIB, needed=3 * GIB)
    step = hosts.engine.prepare([partial(hosts.desk.outcome, hosts.entries["small"], outcome)])
    assert step.batch is not None
    hosts.disk.full = True
    with pytest.raises(Unavailable, match="no space left") as refused:
        hosts.engine.journal.append(step.batch)
    hosts.disk.full = False
    hosts.engine.abort(step, refused.value)
    assert hosts.task.state is TaskState.RUNNING
    hosts.pass_s(2.0)
    hosts.report("small", outcome)
    assert hosts.numbers() == (3, 1)


@pytest.mark.parametrize(
    ("said", "given", "recorded"), [(3, 4, 4 * GIB + 1), (5, 4, 5 * GIB), (0, 4, 0), (3, 0, 3 * GIB)]
)
def test_outcome_when_it_says_less_than_its_agent_gives_then_a_byte_more_than_that(
    said: int, given: int, recorded: int
) -> None:
    hosts = Hosts(agent=given)
    outcome = make.make_infeasible(pb.Lease(), needed=said * GIB)
    assert beyond(outcome, hosts.entries["agent"]).infeasible.needed_memory_bytes == recorded


def test_agent_when_it_refuses_what_it_should_hold_then_it_is_not_given_it_again() -> None:
    hosts = waiting_for(3, large=4, larger=5)
    tried = []
    while hosts.task.state is TaskState.RUNNING:
        name = hosts.task.current().agent.removeprefix("agents/")
        tried.append(name)
        assert len(tried) <= 2
        hosts.refuse(name, 3)
    assert sorted(tried) == ["large", "larger"]
    assert hosts.trial.violation.constraint.max == 5 * GIB
    assert hosts.trial.violation.needed_memory_bytes == 5 * GIB + 1
