"""A scheduler and an engine in memory for tests of the keeper: servers come, work, fail and go by chance of a seed."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from nasmesh.clock import ManualClock
from nasmesh.errors import Invalid, NotFound, Unavailable
from nasmesh.v1 import scheduler_service_pb2 as pb
from nasmesh.v1 import search_pb2
from scheduler.deployers.acquaintance import Acquaintance
from scheduler.deployers.base import DOES_NOT_FIT, ENGINE_DOWN, Engine, Order, Standing, State
from scheduler.deployers.config import parse_config
from scheduler.deployers.keeper import Keeper, Told
from scheduler.deployers.posts import Post

TRAIN = search_pb2.TASK_KIND_TRAIN
PATIENT_S = 60.0
"""Engines in memory answer at once: a look that waits for so long sees them on any machine."""


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
    needed_bytes: int = 0

    # --- the scheduler's side -----------------------------------------------------------------------------------

    def demand(self) -> pb.GetDemandResponse:
        self._answer()
        row = pb.Demand(kind=TRAIN, need="datasets/digits", servers=1, queued=self.waiting, running=self.running())
        row.needed_memory_bytes = self.needed_bytes
        row.needed_memory_bytes = self.needed_bytes
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

    def put_to_work(self, name: str) -> None:
        """Have a server that was started be there, with one of the tasks that wait."""
        fake = self.servers[name]
        fake.state, fake.connected, fake.was_connected = State.RUNNING, True, True
        self.waiting -= 1
        fake.held += 1

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


@dataclass
class OnePool:
    """The engine of one of a mesh's pools: it knows its own servers, and hangs while its gate is shut."""

    mesh: FakeMesh
    pool: str
    gate: threading.Event = field(default_factory=threading.Event)
    breaks: str = ""
    kind_name: str = "one"

    def start(self, order: Order) -> None:
        self._pass()
        self.mesh.start(order)

    def stop(self, name: str, grace_s: float) -> None:
        self._pass()
        self.mesh.stop(name, grace_s)

    def standings(self) -> Sequence[Standing]:
        self._pass()
        return [one for one in self.mesh.standings() if self.mesh.servers[one.name].order.pool == self.pool]

    def close(self) -> None:
        pass

    def _pass(self) -> None:
        self.gate.wait()
        if self.breaks:
            raise KeyError(self.breaks)  # as of a library that meets what it did not expect


@contextmanager
def keeping(mesh: FakeMesh, home: Path, text: str, *engines: Engine, patience_s: float = PATIENT_S) -> Iterator[Keeper]:
    """Yield a keeper of the pools of a configuration, with these engines, then the mesh's; external ones have none."""
    posts, left = [], list(engines)
    for pool in parse_config(text).pools:
        is_external = pool.WhichOneof("engine") == "external"
        engine = None if is_external else left.pop(0) if left else mesh
        posts.append(Post(pool, engine, Acquaintance(home, pool)))
    keeper = Keeper(posts, mesh, mesh.clock, Told("nasmesh", "hub:7400"), patience_s=patience_s)
    try:
        yield keeper
    finally:
        keeper.close()


def until_gone(keeper: Keeper, mesh: FakeMesh, looks: int = 400) -> None:
    """Look until all work is done and everybody has left."""
    for _ in range(looks):
        keeper.look()
        mesh.pass_time()
        if not (mesh.waiting or mesh.running() or mesh.alive()):
            keeper.look()
            return
    raise AssertionError(f"{mesh.waiting} wait, {mesh.running()} run, {mesh.alive()} are there")
