"""One scheduler process of the simulation: the real engine, desk and searches on the simulated journal."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from nasmesh.errors import NasmeshError, Stale
from nasmesh.v1 import dispatch_service_pb2 as pb
from scheduler.agents import AgentEntry
from scheduler.desk import Desk
from scheduler.dispatch import _command as command_of
from scheduler.engine import Engine
from scheduler.lifecycle import Lifecycle
from scheduler.searches import Searches
from tests.sim import ahead
from tests.sim.journal import SimJournal
from tests.sim.net import Link

if TYPE_CHECKING:
    from tests.sim.world import World

Command = Callable[[], object]


class HostClock:
    """A scheduler machine's clock: monotonic from an arbitrary moment, wall as somebody set it."""

    def __init__(self, world: "World", offset: float) -> None:
        self._world = world
        self._offset = offset

    def monotonic(self) -> float:
        return self._world.clock.monotonic() + self._offset

    def wall(self) -> float:
        return self._world.clock.wall() + self._world.wall_offset


class Host:
    """A scheduler that lives until it is killed, or finds its journal taken over."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.alive = True
        self.stopped_until = 0.0
        self.notices_at = math.inf
        """When it notices that its lock is lost."""
        self.links: list[Link] = []
        world.disk.unlock()
        clock = HostClock(world, world.rng.uniform(0, 1e6))
        self.engine = Engine(SimJournal(world.disk), clock, seed=1)
        self.engine.recover()
        self.desk = Desk(self.engine)
        self.searches = Searches(self.engine)
        self.lifecycle = Lifecycle(self.engine, self.searches)
        self.epoch = self.engine.state.epoch
        world.checks.feed(world.disk, world.now())
        world.checks.booted(self.engine, world.now())

    @property
    def is_current(self) -> bool:
        return self.epoch == self.world.disk.written.epoch

    def step(self, commands: Sequence[Command]) -> list[object]:
        """Do as scheduler.core does: prepare, one append, publish; or abort."""
        engine, world = self.engine, self.world
        world.boundary("scheduler", "receive")
        step = engine.prepare(commands)
        world.count("leases ahead", ahead.check(step, engine.agents.connected()))
        if step.batch is not None:
            try:
                engine.journal.append(step.batch)
            except Stale as error:
                lost = error.reason == "LEADERSHIP_LOST"
                world.count("lost connections" if lost else "stale schedulers refused")
                self.die()
                return [error] * len(step.results)
            except NasmeshError as error:
                world.count("full journals")
                engine.abort(step, error)
                world.checks.renewed(world.now())
                return step.results
            world.checks.feed(world.disk, world.now())
        engine.publish(step)
        if self.is_current and step.batch is not None:
            world.checks.armed(engine, world.now())
        return step.results

    def die(self) -> None:
        """End the process; agents notice when they next look at their streams."""
        self.alive = False
        for link in self.links:
            link.broken = True
            link.up.clear()
        self.links.clear()

    # --- streams ------------------------------------------------------------------------------------------------

    def read(self, links: Sequence[Link], most: int) -> None:
        """Take up to `most` messages of each stream in one step, as one group commit."""
        commands: list[Command] = []
        origins: list[Link] = []
        for link in links:
            for command in self._commands(link, most):
                commands.append(command)
                origins.append(link)
        if not commands:
            return
        for link, result in zip(origins, self.step(commands), strict=True):
            if isinstance(result, AgentEntry):
                link.entry = result
            elif isinstance(result, NasmeshError):
                link.close(result)
                link.up.clear()
            elif isinstance(result, Exception):
                raise result

    def _commands(self, link: Link, most: int) -> list[Command]:
        found: list[Command] = []
        while link.up and len(found) < most:
            message = link.up.popleft()
            kind = message.WhichOneof("kind")
            if kind == "hello":
                # As in dispatch.py: nothing more is read before the hello has its answer.
                return [partial(self._hello, link, message)]
            if link.entry is None:
                return found
            found.append(command_of(self.desk, link.entry, message))
            if self.world.duplicates(kind):
                found.append(command_of(self.desk, link.entry, message))
        return found

    def _hello(self, link: Link, message: pb.WorkRequest) -> AgentEntry:
        stale = message.hello.epoch > self.engine.state.epoch  # refused before a word of it is heard
        try:
            return self.desk.hello(link, message.hello)
        finally:  # also where the journal refuses what follows from it: the agent has spoken all the same
            for token in () if stale else message.hello.held:
                self.world.checks.named(token, message.hello.agent, self.world.now())

    def notice(self, link: Link) -> None:
        """See that a stream has ended."""
        if link in self.links:
            self.links.remove(link)
        if link.entry is not None:
            self.step([partial(self.desk.gone, link.entry, link)])
