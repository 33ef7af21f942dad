"""A training over several agents from its lease to its end: all are told the same, and it ends for all of them."""

from functools import partial
from pathlib import Path

import pytest

from nasmesh.errors import Invalid
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import journal_pb2, search_pb2, train_service_pb2
from nasmesh.v1 import scheduler_service_pb2 as api
from scheduler import convert
from scheduler.admin.explaining import explain
from scheduler.domain import Task, TaskState
from scheduler.facts import AttemptLeased
from scheduler.journal import codec
from scheduler.journal.base import Batch
from scheduler.journal.sqlite import SqliteJournal
from scheduler.machine.tasks import IllegalTransitionError
from tests.builders import scheduler_lifecycle as wish
from tests.builders import scheduling as make
from tests.builders.scheduler_lifecycle import LifecycleWorld
from tests.builders.scheduler_play import Play, spec
from tests.builders.scheduler_world import SimulatedAgent, key_of

TASK = "s-t1-train"


def spread(size: int = 2) -> search_pb2.SearchSpec:
    found = make.make_spec(max_trials=1, parallelism=1)
    found.train.distribution.processes, found.train.distribution.across_hosts = size, True
    found.train.batch_size = 12
    return found


class Gang(LifecycleWorld):
    """Two agents that train the one network of a search "s"; `rank` finds them by their place."""

    def __init__(self, size: int = 2) -> None:
        super().__init__(1, kill_rate=0.0, agents=2)
        self.faults = False
        for agent in self.agents:
            self.connect(agent)
        self.create("s", spread(size))
        first = self.agents[0]
        self.deliver(first)
        self.say(first, make.make_outcome(next(iter(first.held.values()))))
        first.held.clear()
        self.hear()

    def connect(self, agent: SimulatedAgent) -> None:
        session = make.Recorder()
        hello = make.make_hello(agent.name.partition("/")[2], kinds=agent.kinds)
        hello.server.gang_address = f"{agent.name.partition('/')[2]}.example:7500"
        hello.held.extend(lease.token for lease in agent.held.values())
        agent.entry, agent.session = self.step(partial(self.desk.hello, session, hello))[0], session  # type: ignore[assignment]
        self.ready(agent)

    def hear(self) -> None:
        """Have all agents take what they were sent."""
        for agent in self.agents:
            if agent.session is not None:
                self.deliver(agent)

    def say(self, agent: SimulatedAgent, outcome: pb.AttemptOutcome) -> int:
        """Tell how an attempt ended; returns what the scheduler made of it."""
        assert agent.entry is not None
        assert agent.session is not None
        self.step(partial(self.desk.outcome, agent.entry, outcome))
        replies = [message.outcome_reply for message in agent.session.sent if message.HasField("outcome_reply")]
        return replies[-1].disposition

    def beat(self, agent: SimulatedAgent, checkpoint: str = "") -> None:
        assert agent.entry is not None
        line = pb.AttemptProgress(token=self.lease(agent).token)
        line.train.CopyFrom(train_service_pb2.TrainProgress(step=1))
        if checkpoint:
            line.checkpoint.CopyFrom(make.make_ref(checkpoint, "checkpoints"))
        self.step(partial(self.desk.heartbeat, agent.entry, pb.AgentHeartbeat(attempts=[line])))

    def rank(self, rank: int) -> SimulatedAgent:
        return next(agent for agent in self.agents if agent.name == self.task.current().agents[rank])

    @staticmethod
    def lease(agent: SimulatedAgent) -> pb.Lease:
        (lease,) = agent.held.values()
        return lease

    @property
    def task(self) -> Task:
        return self.engine.state.tasks[TASK]

    def cancels(self, agent: SimulatedAgent) -> list[tuple[str, bool]]:
        """Return which attempts an agent was asked to stop, and whether they are wanted later."""
        assert agent.session is not None
        asked = [message.cancel for message in agent.session.sent if message.HasField("cancel")]
        return [(cancel.token.task, cancel.checkpoint) for cancel in asked]


def test_lease_when_a_gang_begins_then_all_have_the_same_token_and_meet_at_rank_0() -> None:
    mesh = Gang()
    leases = [mesh.lease(mesh.rank(rank)) for rank in (0, 1)]
    assert leases[0].token == leases[1].token
    where = f"{mesh.rank(0).name.partition('/')[2]}.example:7500"
    assert [lease.train.gang for lease in leases] == [
        train_service_pb2.GangMember(rank=rank, size=2, rendezvous=where) for rank in (0, 1)
    ]
    attempt = mesh.desk.attempt(TASK, 0)
    assert (attempt.agent, list(attempt.members)) == (mesh.rank(0).name, [mesh.rank(1).name])
    for agent in mesh.agents:
        shown = convert.agent_message(agent.entry, mesh.engine.state)  # type: ignore[arg-type]
        assert [token.task for token in shown.attempts] == [TASK]
    assert f"{attempt.agent} with {attempt.members[0]}" in mesh.task.story()
    assert mesh.replayed() == mesh.engine.state


def test_result_when_rank_0_has_it_then_recorded_and_the_others_are_let_go() -> None:
    mesh = Gang()
    leader, member = mesh.rank(0), mesh.rank(1)
    lease = mesh.lease(leader)
    assert mesh.say(leader, make.make_outcome(lease)) == pb.OUTCOME_DISPOSITION_RECORDED
    assert mesh.task.state is TaskState.SUCCEEDED
    assert mesh.cancels(member) == [(TASK, False)]
    assert [entry.used.get(2, 0) for entry in mesh.engine.agents.all()] == [0, 0]
    late = wish.released(lease, "mine")
    assert mesh.say(member, late) == pb.OUTCOME_DISPOSITION_SUPERSEDED
    assert mesh.task.state is TaskState.SUCCEEDED


@pytest.mark.parametrize(("reason", "counted"), [("CHILD_CRASHED", 1), ("RANK_LOST", 0), ("GANG_REFUSED", 0)])
def test_failure_when_a_member_has_one_then_it_ends_for_all_and_names_who_had_it(reason: str, counted: int) -> None:
    mesh = Gang()
    leader, member = mesh.rank(0), mesh.rank(1)
    assert mesh.say(member, make.make_failure(mesh.lease(member), reason)) == pb.OUTCOME_DISPOSITION_RECORDED
    assert (mesh.task.state, mesh.task.counted, mesh.task.losses) == (TaskState.QUEUED, counted, 1 - counted)
    failure = mesh.task.attempts[0].failure
    assert failure is not None
    assert failure.message == f"rank 1 ({member.name}): as told"
    assert mesh.cancels(leader) == [(TASK, False)]


def test_infeasible_when_a_member_finds_it_then_the_trial_is() -> None:
    mesh = Gang()
    leader, member = mesh.rank(0), mesh.rank(1)
    mesh.say(member, make.make_infeasible(mesh.lease(member)))
    assert mesh.engine.state.searches["s"].trials[0].outcome == search_pb2.TRIAL_OUTCOME_INFEASIBLE
    assert mesh.cancels(leader) == [(TASK, False)]


def test_result_when_a_member_claims_it_then_refused() -> None:
    mesh = Gang()
    member = mesh.rank(1)
    assert mesh.say(member, make.make_outcome(mesh.lease(member))) == pb.OUTCOME_DISPOSITION_INVALID
    failure = mesh.task.attempts[0].failure
    assert failure is not None
    assert "is rank 0's, not rank 1's" in failure.message


def test_release_when_a_member_gives_its_place_back_then_queued_with_rank_0s_checkpoint() -> None:
    mesh = Gang()
    mesh.beat(mesh.rank(0), "step 5")
    mesh.beat(mesh.rank(1), "not of rank 0")
    mesh.say(mesh.rank(1), wish.released(mesh.lease(mesh.rank(1)), "of rank 1"))
    assert (mesh.task.counted, mesh.task.losses) == (0, 0)
    assert mesh.task.checkpoint == make.make_ref("step 5", "checkpoints")
    mesh.hear()
    assert [mesh.lease(agent).token.attempt for agent in mesh.agents] == [2, 2]
    assert all(mesh.lease(agent).train.resume_from == mesh.task.checkpoint for agent in mesh.agents)


@pytest.mark.parametrize("rank", [0, 1])
def test_silence_when_one_of_them_says_nothing_then_lost_though_the_others_beat(rank: int) -> None:
    mesh = Gang()
    silent, other = mesh.rank(rank), mesh.rank(1 - rank)
    for _ in range(4):
        mesh.clock.advance(10.0)
        if mesh.task.state is TaskState.RUNNING:
            mesh.beat(other)
    assert mesh.task.state is TaskState.QUEUED
    failure = mesh.task.attempts[0].failure
    assert failure is not None
    assert failure.reason == "LEASE_EXPIRED"
    assert failure.message == f"nothing heard for 30 s ({silent.name}, rank {rank} of its gang)"
    assert (mesh.task.counted, mesh.task.losses) == (0, 1)
    assert mesh.cancels(other) == [(TASK, False)]


def test_hello_when_a_member_has_forgotten_then_lost_for_all() -> None:
    mesh = Gang()
    leader, member = mesh.rank(0), mesh.rank(1)
    member.held.clear()
    mesh.connect(member)
    failure = mesh.task.attempts[0].failure
    assert failure is not None
    assert failure.reason == "AGENT_FORGOT"
    assert member.name in failure.message
    assert mesh.cancels(leader) == [(TASK, False)]


def test_restart_when_members_name_the_token_then_it_goes_on_and_who_stays_away_is_given_a_lease() -> None:
    mesh = Gang()
    leader, member = mesh.rank(0), mesh.rank(1)
    mesh.boot()
    mesh.connect(leader)
    mesh.clock.advance(20.0)
    mesh.beat(leader)
    assert mesh.engine.work.leases.armed() == {(TASK, agent.name): 1 for agent in mesh.agents}
    mesh.connect(member)
    mesh.clock.advance(25.0)
    mesh.beat(leader)
    assert mesh.task.state is TaskState.RUNNING
    mesh.clock.advance(10.0)
    mesh.beat(leader)
    assert mesh.task.state is TaskState.QUEUED
    assert mesh.replayed() == mesh.engine.state


def test_drain_when_a_members_agent_is_asked_for_its_trainings_then_rank_0_gives_it_back() -> None:
    mesh = Gang()
    leader, member = mesh.rank(0), mesh.rank(1)
    mesh.wish(wish.drain(member.name, release=True))
    assert (mesh.cancels(leader), mesh.cancels(member)) == ([(TASK, True)], [])
    mesh.connect(leader)  # it may not have heard that
    assert mesh.cancels(leader) == [(TASK, True)]
    mesh.say(leader, wish.released(mesh.lease(leader), "step 7"))
    assert mesh.task.checkpoint == make.make_ref("step 7", "checkpoints")
    assert mesh.cancels(member) == [(TASK, False)]


def test_pause_when_a_gang_trains_then_rank_0_is_asked() -> None:
    mesh = Gang()
    mesh.wish(wish.pause("s"))
    assert (mesh.cancels(mesh.rank(0)), mesh.cancels(mesh.rank(1))) == ([(TASK, True)], [])


def test_cancel_when_a_gang_trains_then_all_are_told() -> None:
    mesh = Gang()
    mesh.cancel("s")
    assert [mesh.cancels(mesh.rank(rank)) for rank in (0, 1)] == [[(TASK, False)], [(TASK, False)]]


def test_search_when_too_few_agents_are_there_then_it_says_so_as_long_as_that_is_so() -> None:
    mesh = Gang(size=3)
    found = mesh.searches.get("searches/s")
    assert found.reason.startswith("trial 1 waits: a training over 3 servers waits for agents: 2 of the connected")
    (listed,) = mesh.searches.list(api.ListSearchesRequest()).searches
    assert listed.reason == found.reason
    mesh.agents.append(SimulatedAgent("agents/more", make.ALL_KINDS))
    mesh.connect(mesh.agents[-1])
    assert mesh.task.state is TaskState.RUNNING
    assert mesh.searches.get("searches/s").reason == ""


def test_hello_when_its_address_for_gangs_is_none_then_refused() -> None:
    mesh = Gang()
    for address, reason in (("here", "ADDRESS_INVALID"), ("host:0", "HELLO_INVALID")):
        hello = make.make_hello("x")
        hello.server.gang_address = address
        refused = mesh.step(partial(mesh.desk.hello, make.Recorder(), hello))[0]
        assert isinstance(refused, Invalid)
        assert refused.reason == reason


@pytest.mark.parametrize("members", [(), ("agents/a",), ("agents/b", "agents/c")])
def test_machine_when_not_as_many_agents_as_needed_then_illegal(members: tuple[str, ...]) -> None:
    searched = spec(max_trials=1)
    searched.train.distribution.processes, searched.train.distribution.across_hosts = 2, True
    play = Play(searched)
    play.propose(1)
    trial = play.run.trials[0]
    trial.train.distribution.CopyFrom(searched.train.distribution)
    with pytest.raises(IllegalTransitionError, match="are not 2 agents"):
        play.tell(AttemptLeased(TASK, "agents/a", members))


def test_journal_when_written_without_members_then_one_agent_alone() -> None:
    old = journal_pb2.JournalEvent(attempt_leased=journal_pb2.JournalAttemptLeased(task="s-g1", agent="agents/a"))
    assert codec.decode_event(1, old.SerializeToString()).change == AttemptLeased("s-g1", "agents/a", ())


def test_explain_when_a_gang_was_leased_and_lost_then_all_of_it_are_named(tmp_path: Path) -> None:
    mesh = Gang()
    leader, member = mesh.rank(0), mesh.rank(1)
    mesh.say(member, make.make_failure(mesh.lease(member)))
    journal = SqliteJournal(tmp_path / "journal.db")
    journal.open()
    journal.append(Batch(1, tuple(mesh.disk.events)))
    journal.close()
    story = explain(tmp_path / "journal.db", TASK)
    leased = next(line for line in story.lines if line.what == "leased")
    assert (leased.details["agent"], leased.details["members"]) == (leader.name, [member.name])
    failed = next(line for line in story.lines if line.what == "failed")
    assert str(failed.details["message"]).startswith(f"rank 1 ({member.name})")
    assert f"asked {leader.name} to stop {TASK}, attempt 1" in failed.followed


def test_snapshot_when_read_back_then_the_gang_is_as_it_was() -> None:
    mesh = Gang()
    state = mesh.engine.state
    keys = ["state", "search/s", "trial/s/1", f"task/{TASK}", "task/s-g1", "network/0"]
    back = codec.decode_rows([(key, codec.encode_row(state, key)) for key in keys])
    assert back.tasks[TASK] == mesh.task
    assert key_of(mesh.lease(mesh.rank(0)).token)[0] in back.tasks
