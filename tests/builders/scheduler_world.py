"""A whole mesh without sockets: engine and desk on a memory disk, agents by chance, kills at commits."""

from dataclasses import dataclass, field
from functools import partial

from nasmesh.clock import ManualClock, seeded_random
from nasmesh.errors import NasmeshError
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import scheduler_service_pb2, search_pb2
from scheduler import invariants, lease_invariants
from scheduler.agents import AgentEntry
from scheduler.desk import Desk
from scheduler.domain import OPEN_SEARCHES, State
from scheduler.engine import Engine
from scheduler.journal import codec
from scheduler.journal.memory import MemoryDisk, MemoryJournal
from scheduler.machine import apply
from scheduler.searches import Searches
from tests.builders import scheduling as make


class KilledError(Exception):
    """The scheduler was killed at a commit."""


@dataclass(slots=True)
class SimulatedAgent:
    """What one agent remembers; its spool outlives its process."""

    name: str
    kinds: tuple[int, ...]
    entry: AgentEntry | None = None
    session: make.Recorder | None = None
    held: dict[tuple[str, int, int], pb.Lease] = field(default_factory=dict)
    spool: dict[tuple[str, int, int], pb.AttemptOutcome] = field(default_factory=dict)
    old: list[pb.AttemptOutcome] = field(default_factory=list)


def key_of(token: pb.AttemptToken) -> tuple[str, int, int]:
    return token.task, token.attempt, token.epoch


class World:
    """One scheduler at a time, and agents that dial it. Every choice comes from the seed."""

    def __init__(self, seed: int, *, kill_rate: float = 0.05, agents: int = 3) -> None:
        self.rng = seeded_random(seed)
        self.clock = ManualClock()
        self.disk = MemoryDisk()
        self.kill_rate = kill_rate
        self.kills = 0
        self.full_disks = 0
        self.dispositions: dict[int, int] = {}
        self.acked: dict[str, int] = {}
        kinds = [make.ALL_KINDS, make.ALL_KINDS[1:], make.ALL_KINDS[:1]]
        self.agents = [SimulatedAgent(f"agents/a{i}", kinds[i % 3]) for i in range(agents)]
        self.faults = True
        self.boot()

    # --- the scheduler's life --------------------------------------------------------------------------------

    def boot(self) -> None:
        self.disk.locked = False
        self.engine = Engine(MemoryJournal(self.disk), self.clock, seed=1)
        self.engine.recover()
        self.desk = Desk(self.engine)
        self.searches = Searches(self.engine)
        self.check()
        for agent in self.agents:
            agent.entry = None
            agent.session = None

    def step(self, *commands: object) -> list[object]:
        """Run commands; by chance the scheduler dies before or after the commit, or the disk is full."""
        before = invariants.remember(self.engine.state)
        epoch = self.engine.state.epoch
        step = self.engine.prepare(list(commands))  # type: ignore[arg-type]
        if step.batch is not None:
            if self.faults and self.rng.random() < self.kill_rate:
                if self.rng.random() < 0.5:
                    self.engine.journal.append(step.batch)
                self.kills += 1
                raise KilledError
            self.disk.full = self.faults and self.rng.random() < 0.01
            try:
                self.engine.journal.append(step.batch)
            except NasmeshError as error:
                self.full_disks += 1
                self.disk.full = False
                self.engine.abort(step, error)
                self.check()
                return step.results
        self.engine.publish(step)
        invariants.check_step(before, epoch, self.engine.state)
        self.check()
        return step.results

    def check(self) -> None:
        engine = self.engine
        invariants.check(engine.state)
        agents = engine.agents.connected()
        slots = {(e.name, k): n + e.most_ahead.get(k, 0) for e in agents for k, n in e.slots.items()}
        running = lease_invariants.running_tasks(engine.state)
        lease_invariants.check_leases(running, engine.work.leases.armed(), slots)

    def replayed(self) -> State:
        """Return the state that the journal's events give from nothing."""
        state = State()
        for sequence, body in enumerate(self.disk.events, start=1):
            apply(state, codec.decode_event(sequence, body))
        return state

    # --- clients ---------------------------------------------------------------------------------------------

    def create(self, search_id: str, spec: search_pb2.SearchSpec) -> object:
        request = scheduler_service_pb2.CreateSearchRequest(search_id=search_id, spec=spec, request_id=search_id)
        return self.step(partial(self.searches.create, request))[0]

    def cancel(self, search_id: str) -> None:
        """Cancel a search, again until the scheduler has lived to answer."""
        request = scheduler_service_pb2.CancelSearchRequest(name=f"searches/{search_id}", request_id="cancel")
        while True:
            try:
                result = self.step(partial(self.searches.cancel, request))[0]
            except KilledError:
                self.boot()
                continue
            if not isinstance(result, NasmeshError):
                return
            self.clock.advance(2.0)

    def open_searches(self) -> int:
        return sum(run.state in OPEN_SEARCHES for run in self.engine.state.searches.values())

    # --- agents ----------------------------------------------------------------------------------------------

    def connect(self, agent: SimulatedAgent) -> None:
        session = make.Recorder()
        hello = make.make_hello(agent.name.partition("/")[2], kinds=agent.kinds)
        for token in [*(lease.token for lease in agent.held.values()), *(o.token for o in agent.spool.values())]:
            hello.held.append(token)
        result = self.step(partial(self.desk.hello, session, hello))[0]
        if isinstance(result, NasmeshError):
            return
        assert isinstance(result, AgentEntry)
        agent.entry, agent.session = result, session
        self.ready(agent)

    def ready(self, agent: SimulatedAgent) -> None:
        assert agent.entry is not None
        free = [pb.AgentReady(kind=search_pb2.TaskKind.ValueType(kind), free=2) for kind in agent.kinds]
        self.step(*(partial(self.desk.ready, agent.entry, ready) for ready in free))

    def deliver(self, agent: SimulatedAgent) -> None:
        """Let the agent read what it was sent."""
        assert agent.session is not None
        for message in agent.session.sent:
            kind = message.WhichOneof("kind")
            if kind == "lease":
                agent.held[key_of(message.lease.token)] = message.lease
            elif kind == "cancel":
                agent.held.pop(key_of(message.cancel.token), None)
            elif kind == "welcome":
                for token in message.welcome.superseded:
                    agent.held.pop(key_of(token), None)
                    agent.spool.pop(key_of(token), None)
            elif kind == "heartbeat_reply":
                for token in message.heartbeat_reply.superseded:
                    agent.held.pop(key_of(token), None)
            elif kind == "outcome_reply":
                self._acknowledged(agent, message.outcome_reply)
        agent.session.sent.clear()

    def _acknowledged(self, agent: SimulatedAgent, reply: pb.OutcomeReply) -> None:
        outcome = agent.spool.pop(key_of(reply.token), None)
        self.dispositions[reply.disposition] = self.dispositions.get(reply.disposition, 0) + 1
        if outcome is not None:
            agent.old.append(outcome)
        if reply.disposition == pb.OUTCOME_DISPOSITION_RECORDED:
            self.acked[reply.token.task] = reply.token.attempt

    def heartbeat(self, agent: SimulatedAgent) -> None:
        assert agent.entry is not None
        beat = pb.AgentHeartbeat()
        for lease in agent.held.values():
            progress = beat.attempts.add(token=lease.token)
            if lease.HasField("train") and self.rng.random() < 0.3:
                progress.checkpoint.CopyFrom(make.make_ref(f"{lease.trial} {self.rng.random()}", "checkpoints"))
        self.step(partial(self.desk.heartbeat, agent.entry, beat))

    def finish(self, agent: SimulatedAgent) -> None:
        """End one lease in some way, and say so."""
        if agent.held:
            key = self.rng.choice(sorted(agent.held))
            agent.spool[key] = self._outcome(agent.held.pop(key))
        self.flush(agent)

    def flush(self, agent: SimulatedAgent) -> None:
        assert agent.entry is not None
        outcomes = list(agent.spool.values())
        if self.faults and agent.old and self.rng.random() < 0.2:
            outcomes.append(self.rng.choice(agent.old))
        self.step(*(partial(self.desk.outcome, agent.entry, outcome) for outcome in outcomes))

    def _outcome(self, lease: pb.Lease) -> pb.AttemptOutcome:
        chance = self.rng.random() if self.faults else 1.0
        if chance < 0.05:
            return make.make_failure(lease)
        if chance < 0.08:
            return make.make_failure(lease, "STORE_DOWN", counted=False)
        if chance < 0.09:
            return make.make_failure(lease, "NETWORK_DIVERGED", retryable=False)
        if chance < 0.12:
            return pb.AttemptOutcome(token=lease.token, released=pb.AttemptReleased())
        if chance < 0.14:
            return pb.AttemptOutcome(token=lease.token)
        if chance < 0.16 and (lease.HasField("train") or lease.HasField("evaluate")):
            return make.make_infeasible(lease)
        outcome = make.make_outcome(lease)
        if outcome.HasField("generate") and not lease.HasField("finalize"):
            self._vary(outcome.generate)
        return outcome

    def _vary(self, result: pb.GenerateResult) -> None:
        result.next_call.after_results = self.rng.choice([0, 0, 1, 2])
        result.next_call.in_flight_below = self.rng.choice([0, 1, 2])
        result.done = self.rng.random() < 0.05
        if self.rng.random() < 0.1:
            del result.trials[:]
        for trial in result.trials:
            if self.rng.random() < 0.1:
                trial.violation.value = 2.0
            elif self.rng.random() < 0.05:
                trial.refusal.CopyFrom(search_pb2.Failure(reason="TOO_LARGE", message="too large"))

    # --- chance ----------------------------------------------------------------------------------------------

    def act(self) -> None:
        """Let something happen; a killed scheduler is started again."""
        try:
            self._act(self.rng.choice(self.agents))
        except KilledError:
            self.boot()

    def _act(self, agent: SimulatedAgent) -> None:
        chance = self.rng.random()
        if self.faults and chance < 0.02:
            self._crash(agent)
        elif self.faults and chance < 0.04 and agent.entry is not None and agent.session is not None:
            self.step(partial(self.desk.gone, agent.entry, agent.session))
            agent.entry = agent.session = None
        elif agent.entry is None or agent.session is None:
            self.connect(agent)
        elif chance < 0.2:
            self.clock.advance(self.rng.choice([0.1, 1.0, 5.0, 40.0] if self.faults else [0.1, 1.0]))
            self.step()
        elif chance < 0.4:
            self.heartbeat(agent)
        elif chance < 0.85:
            self.deliver(agent)
            self.finish(agent)
        else:
            self.deliver(agent)
            self.ready(agent)

    def _crash(self, agent: SimulatedAgent) -> None:
        """Kill the agent: what it worked on is forgotten, what it spooled is not."""
        agent.held.clear()
        agent.entry = agent.session = None
