"""A whole mesh in virtual time: schedulers, agents with their servers, a client, disks, a store, and faults by chance.

Every choice comes from the seed. What runs is the real machine, engine, desk, searches, spool and in-memory store;
what is simulated is time, the network, the disks and the work.
"""

import math
from collections.abc import Callable

from nasmesh.agent.spool import job_id_of
from nasmesh.clock import ManualClock, derive_seed, seeded_random
from nasmesh.errors import Stale, Unavailable
from nasmesh.limits import LEASE_S
from nasmesh.store.memory import MemoryStore
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import search_pb2
from scheduler import engine as engine_module
from scheduler import snapshots
from scheduler.domain import OPEN_SEARCHES
from tests.builders import scheduling as make
from tests.sim.agent import SimAgent
from tests.sim.checks import Checks
from tests.sim.clearing import clear_up
from tests.sim.client import SimClient
from tests.sim.dying import KilledError
from tests.sim.faults import FAULTS
from tests.sim.host import Host
from tests.sim.journal import JournalDisk
from tests.sim.net import Link
from tests.sim.options import Options, searches
from tests.sim.store import FaultStore
from tests.sim.work import Work

LEASES_TO_END = 20
_KINDS = (make.ALL_KINDS, make.ALL_KINDS, make.ALL_KINDS[1:], make.ALL_KINDS[:1])


class LivenessError(AssertionError):
    """I15: faults have stopped, and a search does not end."""


class World:
    """One life of a mesh."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.rng = seeded_random(derive_seed(options.seed, "world"))
        self.clock = ManualClock()
        self.wall_offset = 0.0
        self.faulty = False
        self.hit: Callable[[str, str], bool] = self._by_chance
        self.counts: dict[str, int] = {}
        self.meetings: dict[tuple[str, int], tuple[int, str]] = {}
        engine_module.SNAPSHOT_EVENTS = options.snapshot_events
        snapshots.RECENT = options.recent
        self.disk = JournalDisk()
        self.disk.boundary = self.boundary
        self.disk.loses = lambda: self.faulty and options.lost > 0 and self.rng.random() < options.lost
        self.disk.lands = self._lands
        self.store = FaultStore(MemoryStore(), self.rng)
        self.checks = Checks(self.store, LEASE_S, as_created=not options.lifecycle)
        self.work = Work(self)
        self.hosts = [Host(self)]
        self.agents = [self._agent(index) for index in range(options.agents)]
        trains = [agent for agent in self.agents if search_pb2.TASK_KIND_TRAIN in agent.kinds]
        self.checks.placing.gives = {agent.name: agent.gives_bytes for agent in trains}
        self.client = SimClient(self, searches(options.seed))
        self._scheduler_acting: Host | None = None

    def _agent(self, index: int) -> SimAgent:
        rate = self.rng.choice([0.5, 0.7, 1.0, 1.4, 2.0]) if self.options.skew else 1.0
        return SimAgent(self, f"agents/a{index}", _KINDS[index], rate)

    # --- small things that everybody asks ----------------------------------------------------------------------

    def now(self) -> float:
        return self.clock.monotonic()

    def count(self, what: str, times: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + times

    def duration(self, lease: pb.Lease) -> float:
        """Return how long a piece of work takes, in seconds of its agent."""
        if self.faulty and self.options.releases > 0.5:
            return 0.05  # given back at once, again and again: attempts get numbers of two digits
        return self.rng.uniform(0.5, 8.0) if lease.HasField("train") else self.rng.uniform(0.0, 1.0)

    def parts_done(self, token: pb.AttemptToken) -> int:
        """Return how many agents have done their part of a gang's training, but for rank 0."""
        jobs = [agent.jobs.get(job_id_of(token)) for agent in self.agents if agent.alive]
        return sum(job is not None and math.isinf(job.done_at) for job in jobs)

    def duplicates(self, kind: str | None) -> bool:
        """Say whether a message is delivered twice now."""
        chance = self.options.duplicates if kind in ("outcome", "report", "request", "heartbeat") else 0.0
        return self.faulty and chance > 0 and self.rng.random() < chance

    def gives_back(self) -> bool:
        """Say whether an agent finds that a lease has waited too long for a slot."""
        return self.rng.random() < 0.1

    def vary(self, result: pb.GenerateResult) -> None:
        """Have the generator ask for its next call in some way, and propose networks that end at once."""
        result.next_call.after_results = self.rng.choice([0, 0, 1, 2])
        result.next_call.in_flight_below = self.rng.choice([0, 1, 2])
        if not self.options.failures:
            return
        result.done = self.rng.random() < 0.03
        if self.rng.random() < 0.05:
            del result.trials[:]
        for trial in result.trials:
            chance = self.rng.random()
            if chance < 0.08:
                trial.violation.value = 2.0
            elif chance < 0.12:
                trial.refusal.CopyFrom(search_pb2.Failure(reason="TOO_LARGE", message="too large"))

    # --- death --------------------------------------------------------------------------------------------------

    def boundary(self, whom: str, where: str) -> None:
        """Kill a process at a boundary, if its time has come."""
        if self.hit(whom, where):
            raise KilledError(whom, where)

    def _by_chance(self, whom: str, where: str) -> bool:
        if not self.faulty:
            return False
        if whom != "scheduler":
            return self.options.kill_agent > 0 and self.rng.random() < self.options.kill_agent
        rate = self.options.kill if where != "receive" else self.options.kill / 4
        return rate > 0 and self.rng.random() < rate

    def alive_hosts(self) -> list[Host]:
        """Return the schedulers that run, the newest last; one is started where there is none."""
        self.hosts = [host for host in self.hosts if host.alive]
        while not self.hosts:
            self.guarded(self._boot)
        return self.hosts

    def _boot(self) -> None:
        try:
            self.hosts.append(Host(self))
        except Stale:  # its first batch is in flight
            self.count("lost connections")
        except Unavailable:  # the disk is full: somebody makes room
            self.count("starts refused")
            self.disk.full = False

    def _lands(self) -> bool:
        """Say whether a batch of which nothing was heard was written after all."""
        landed = self.rng.random() < 0.5
        self.count("landed unheard", int(landed))
        return landed

    def guarded(self, act: Callable[[], object]) -> None:
        """Do something; a process that is killed by it is buried, and started again."""
        try:
            act()
        except KilledError as killed:
            self.bury(killed)

    def cuts_power(self) -> bool:
        """Say whether a process dies because its machine does."""
        return self.options.power_cut and self.rng.random() < 0.5

    def bury(self, killed: KilledError) -> None:
        power_cut = self.cuts_power()
        self.count("power cuts" if power_cut else "kills")
        if killed.whom == "scheduler":
            for host in self.hosts:
                if power_cut or host is self._scheduler_acting or self._scheduler_acting is None:
                    host.die()
            if power_cut:
                self.disk.power_cut(self.rng)
                self.checks.reread(self.disk)
            else:
                self.checks.feed(self.disk, self.now())
        else:
            agent = next(agent for agent in self.agents if agent.name == killed.whom)
            self.kill_agent(agent, power_cut=power_cut)

    def kill_agent(self, agent: SimAgent, *, power_cut: bool) -> None:
        lost = self.options.results_lost and self.rng.random() < 0.5
        if lost:
            self.count("services killed")
        agent.die(power_cut=power_cut, results_lost=lost)

    # --- what happens -------------------------------------------------------------------------------------------

    def run_host(self, host: Host, act: Callable[[], object]) -> None:
        self._scheduler_acting = host
        self.guarded(act)
        self._scheduler_acting = None

    def read_some(self, host: Host) -> None:
        """Have a scheduler take messages that lie before it."""
        now = self.now()
        ready = [link for link in host.links if link.up and link.held_up_until <= now]
        if ready:
            chosen = self.rng.sample(ready, self.rng.randint(1, len(ready)))
            self.run_host(host, lambda: host.read(chosen, self.rng.randint(1, 6)))

    def hear_some(self, link: Link, most: int) -> None:
        """Have an agent take messages that lie before it."""
        agent = link.agent
        while link.down and most and agent.alive and agent.link is link and link.held_down_until <= self.now():
            most -= 1
            agent.hear(link.down.popleft())

    def run_agent(self, agent: SimAgent) -> None:
        """Let an agent do what is due."""
        if not agent.alive:
            self.guarded(agent.start)
        elif agent.link is None:
            hosts = self.alive_hosts()
            # After a wrong turn (an older scheduler) it tries another.
            agent.connect(self.rng.choice(hosts))
        elif agent.link.broken and not agent.link.down:
            agent.hang_up()
        else:
            link = agent.link
            self.guarded(lambda: (self.hear_some(link, self.rng.randint(1, 8)), agent.act()))

    def notice_ends(self, host: Host) -> None:
        for link in [link for link in host.links if link.broken]:
            if host.alive:
                self.run_host(host, lambda link=link: host.notice(link))  # type: ignore[misc]

    # --- a life -------------------------------------------------------------------------------------------------

    def live(self) -> None:
        """Live with faults, then without, until every search has ended; then check everything."""
        self._settle_in()
        self.faulty = True
        self.store.rate = self.options.store
        for _ in range(self.options.turns):
            self._turn()
        self.heal()
        self.finish()

    def _settle_in(self) -> None:
        """Connect the agents and create the first search, so that there is something to break: rungs, too, if any."""
        rounds = 3
        if any(spec.HasField("early_stopping") for spec in self.client.specs.values()):
            rounds = seeded_random(derive_seed(self.options.seed, "settle in")).choice([3, 3, 20, 40])
        for _ in range(rounds):
            self.round()

    def _turn(self) -> None:
        now = self.now()
        for host in self.hosts:
            if host.notices_at <= now:
                host.die()
        host = self.rng.choice(self.alive_hosts())
        chance = self.rng.random()
        for fault, act in FAULTS:
            rate = getattr(self.options, fault)
            if rate and self.rng.random() < rate:
                self.count(fault)
                self.guarded(lambda act=act: act(self))  # type: ignore[misc]
        if not host.alive or host.stopped_until > now:
            self.clock.advance(self.rng.choice([0.1, 1.0, 5.0]))
        elif chance < 0.4:
            self.read_some(host)
        elif chance < 0.8:
            agent = self.rng.choice(self.agents)
            if agent.stopped_until <= now:
                self.run_agent(agent)
        elif chance < 0.9:
            self.clock.advance(self.rng.choice([0.05, 0.3, 1.0, 1.0, 3.0, 12.0, 35.0]))
            self.run_host(host, lambda: host.step([]))
        elif chance < 0.95:
            self.notice_ends(host)
        else:
            self.run_host(host, lambda: self.client.act(host))

    def heal(self) -> None:
        """Stop all faults. Only the newest scheduler goes on, as an operator would see to."""
        self.faulty = False
        self.store.rate = 0.0
        self.disk.full = False
        for host in self.alive_hosts():
            if not host.is_current:
                host.die()
        for host in self.hosts:
            host.stopped_until = 0.0
        for agent in self.agents:
            agent.stopped_until = 0.0
            agent.disk.full = False
        links = [link for host in self.hosts for link in host.links]
        for link in [*links, *(agent.link for agent in self.agents if agent.link is not None)]:
            if link.mute_up or link.mute_down:
                link.cut()  # keepalive gives up what was lost one way
            link.held_up_until = link.held_down_until = 0.0

    def finish(self) -> None:
        """Run undisturbed until all wishes are granted and all searches have ended (I15); then check all there is."""
        limit = self.now() + LEASES_TO_END * LEASE_S
        while self.client.open_wishes or self._open_searches():
            self.client.lift(self.alive_hosts()[-1])
            if self.now() > limit:
                raise LivenessError(f"I15: open after {LEASES_TO_END} leases: {self._open_searches()}")
            self.round()
        (host,) = self.alive_hosts()
        self.checks.equal(host.engine)
        check_results(self)
        clear_up(self)

    def round(self) -> None:
        """Let everybody do what is due, in order, then let time pass until the next thing happens."""
        host = self.alive_hosts()[-1]
        for agent in self.agents:
            self.run_agent(agent)
        self.notice_ends(host)
        if host.alive and self.client.open_wishes:
            self.run_host(host, lambda: self.client.act(host))
        while host.alive and any(link.up and not link.broken for link in host.links):
            ready = [link for link in host.links if link.up and not link.broken]
            self.run_host(host, lambda ready=ready: host.read(ready, 100))  # type: ignore[misc]
        if any(agent.link is not None and agent.link.down for agent in self.agents):
            self.clock.advance(0.05)
            return
        due = min(agent.deadline() for agent in self.agents)
        if host.alive:
            offset = host.engine.clock.monotonic() - self.now()
            due = min(due, host.engine.next_deadline() - offset)
        self.clock.advance(min(max(due - self.now(), 0.01), 5.0))
        if host.alive:
            self.run_host(host, lambda: host.step([]))

    def _open_searches(self) -> list[str]:
        state = self.checks.shadow
        return [run.id for run in state.searches.values() if run.state in OPEN_SEARCHES]


def check_results(world: World) -> None:
    """Check what came of it: results delivered once, scores once, finals on the test split and what chooses them."""
    for run in world.checks.shadow.searches.values():
        assert int(run.generator_state or b"0") == run.cursor, f"{run.id}: results delivered twice or never"
        for trial in run.trials:
            further = [
                m for m in trial.measurements if m.metric == "accuracy" and m.split == trial.evaluate.further_split
            ]
            scores = [
                m for m in trial.measurements if m.metric == "accuracy" and m.split != trial.evaluate.further_split
            ]
            scored = trial.outcome == search_pb2.TRIAL_OUTCOME_SUCCEEDED
            # What stopped or failed after a rung may have its score there.
            wrong = len(scores) > 1 if trial.rungs and not scored else len(scores) != scored
            assert not wrong, f"I2: {trial.name}: {scores}"
            assert {m.split for m in scores} <= ({3} if trial.final else {2}), f"{trial.name} saw {scores}"
            assert len(further) == (scored and bool(trial.evaluate.further_split)), f"I2: {trial.name}: {further}"
        if run.stop_reason.startswith("max_trials") and not world.options.lifecycle:
            lost = run.outcomes.get(search_pb2.TRIAL_OUTCOME_LOST, 0)
            assert len(run.results) - lost == run.spec.budget.max_trials, f"I6: {run.stop_reason}"
        finals = [trial.number for trial in run.trials if trial.final]
        assert sorted(finals) == sorted(run.final_trials)
