"""A scheduler and an engine in memory for tests of the keeper: servers come, work, fail and go by chance of a seed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

from nasmesh.clock import ManualClock
from nasmesh.errors import Invalid, NotFound, Unavailable
from nasmesh.v1 import scheduler_service_pb2 as pb
from nasmesh.v1 import search_pb2
from scheduler.deployers.base import DOES_NOT_FIT, ENGINE_DOWN, Order, Standing, State

TRAIN = search_pb2.TASK_KIND_TRAIN


@dataclass(slots=True)
class Fake:
    """One server of the engine in memory."""

    order: Order
    state: State = State.PENDING
    connected: bool = False
    drained: bool = False
    held: int = 0
    was_connected: bool = False
    told: bool = False


@dataclass
class FakeMesh:
    """Both sides of what a keeper talks to. `breaks` counts broken promises; none may be."""

    clock: ManualClock
    rng: Random
    waiting: int = 0
    done: int = 0
    most: int = 99
    servers: dict[str, Fake] = field(default_factory=dict)
    undrained: list[str] = field(default_factory=list)
    offers: list[pb.ServerOffer] = field(default_factory=list)
    breaks: list[str] = field(default_factory=list)
    scheduler_away: bool = False
    engine_away: bool = False
    refuses: bool = False
    fails: float = 0.0
    kind_name: str = "fake"

    # --- the scheduler's side -----------------------------------------------------------------------------------

    def demand(self) -> pb.GetDemandResponse:
        self._answer()
        row = pb.Demand(kind=TRAIN, need="datasets/digits", servers=1, queued=self.waiting, running=self.running())
        return pb.GetDemandResponse(demands=[row] if row.queued or row.running else [])

    def agents(self) -> Iterable[pb.Agent]:
        self._answer()
        return [self._agent(fake) for fake in self.servers.values() if fake.was_connected]

    def offer_servers(self, deployer: str, offers: Iterable[pb.ServerOffer]) -> None:
        assert deployer
        self._answer()
        self.offers = list(offers)

    def drain_agent(self, agent: str) -> pb.Agent:
        fake = self._known(agent)
        fake.drained = True
        return self._agent(fake)

    def undrain_agent(self, agent: str) -> pb.Agent:
        fake = self._known(agent)
        fake.drained = False
        self.undrained.append(agent)
        return self._agent(fake)

    # --- the engine's -------------------------------------------------------------------------------------------

    def start(self, order: Order) -> None:
        self._reach()
        if self.refuses:
            raise Invalid(DOES_NOT_FIT, "resources: 9 GPUs are asked for, 0 of 0 are free", field="resources")
        if order.name in self.servers:
            self.breaks.append(f"{order.name} was started twice")
        self.servers[order.name] = Fake(order)
        if sum(fake.state is not State.ENDED for fake in self.servers.values()) > self.most:
            self.breaks.append("more servers than the pool may have")

    def stop(self, name: str, grace_s: float) -> None:
        self._reach()
        assert grace_s > 0
        fake = self.servers.get(name)
        if fake is not None and fake.state is not State.ENDED:
            if fake.held and not fake.told:
                self.breaks.append(f"{name} was stopped at work")
            fake.told = True

    def standings(self) -> Sequence[Standing]:
        self._reach()
        return [Standing(name, fake.state, "made up") for name, fake in self.servers.items()]

    def close(self) -> None:
        pass

    # --- time ---------------------------------------------------------------------------------------------------

    def pass_time(self, seconds: float = 1.0) -> None:
        """Let every server do the next thing that it would."""
        self.clock.advance(seconds)
        for fake in self.servers.values():
            if fake.state is State.ENDED:
                continue
            if fake.told:
                fake.state, fake.connected = State.ENDED, False
            elif fake.state is State.PENDING:
                fake.state = State.RUNNING if self.rng.random() < 0.7 else State.PENDING
            elif not fake.connected:
                broken = not fake.was_connected and self.rng.random() < self.fails
                if broken:
                    fake.state = State.ENDED
                else:
                    fake.connected = fake.was_connected = self.rng.random() < 0.7 or fake.was_connected
            else:
                self._work(fake)

    def kill(self, name: str) -> None:
        """End a server as a lost node would: what it held waits again."""
        fake = self.servers[name]
        self.waiting += fake.held
        fake.held, fake.state, fake.connected = 0, State.ENDED, False

    def alive(self) -> list[str]:
        return [name for name, fake in self.servers.items() if fake.state is not State.ENDED]

    def running(self) -> int:
        return sum(fake.held for fake in self.servers.values())

    def _work(self, fake: Fake) -> None:
        if fake.held and self.rng.random() < 0.4:
            fake.held -= 1
            self.done += 1
        elif not fake.held and self.waiting and not fake.drained:
            fake.held += 1
            self.waiting -= 1

    # --- below --------------------------------------------------------------------------------------------------

    def _agent(self, fake: Fake) -> pb.Agent:
        agent = pb.Agent(
            name=f"agents/{fake.order.name}",
            connected=fake.connected,
            draining=fake.drained,
            labels={"pool": fake.order.pool},
        )
        agent.slots.add(kind=TRAIN, slots=1)
        agent.server.datasets.add(name="datasets/digits", available=True)
        for number in range(fake.held):
            agent.attempts.add(task=f"t{number}", attempt=1)
        return agent

    def _known(self, agent: str) -> Fake:
        self._answer()
        fake = self.servers.get(agent)
        if fake is None or not fake.was_connected:
            raise NotFound("AGENT_UNKNOWN", f"agents/{agent} has not been here", field="name")
        return fake

    def _answer(self) -> None:
        if self.scheduler_away:
            raise Unavailable("SCHEDULER_AWAY", "the scheduler gives no answer")

    def _reach(self) -> None:
        if self.engine_away:
            raise Unavailable(ENGINE_DOWN, "the engine gives no answer")
