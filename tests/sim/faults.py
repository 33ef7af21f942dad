"""The faults that strike at a turn. Those at a boundary (kill, power cut) and in the store are where they strike."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sim.net import Link
    from tests.sim.world import World


def _link(world: "World") -> "Link | None":
    links = [agent.link for agent in world.agents if agent.link is not None]
    return world.rng.choice(links) if links else None


def break_stream(world: "World") -> None:
    """Lose a connection; both ends notice when they look, the scheduler perhaps after reading what was said."""
    link = _link(world)
    if link is None:
        return
    if world.rng.random() < 0.5:
        link.cut()
    else:
        link.agent.hang_up()


def mute(world: "World") -> None:
    """Lose one direction from now on, until the connection is given up."""
    link = _link(world)
    if link is None:
        return
    if link.mute_up or link.mute_down:
        link.cut()
    elif world.rng.random() < 0.5:
        link.mute_up = True
    else:
        link.mute_down = True


def delay(world: "World") -> None:
    """Hold back one direction of one stream, so that streams overtake each other."""
    link = _link(world)
    if link is None:
        return
    until = world.now() + world.rng.choice([0.5, 3.0, 20.0, 40.0])
    if world.rng.random() < 0.5:
        link.held_up_until = until
    else:
        link.held_down_until = until


def stop(world: "World") -> None:
    """Stop a process as SIGSTOP does; it goes on later and knows nothing of it."""
    until = world.now() + world.rng.choice([1.0, 20.0, 100.0])
    world.rng.choice([*world.agents, *world.alive_hosts()]).stopped_until = until


def second_scheduler(world: "World") -> None:
    """Start another scheduler on the same journal, by mistake, on a file system whose locks do not work."""
    if len(world.alive_hosts()) < 2:
        world._boot()


def cut_off(world: "World") -> None:
    """Lose the leader's lock: who stands by takes over at once, and the other goes on until it notices."""
    if len(world.alive_hosts()) < 2:
        (leader,) = world.alive_hosts()
        leader.notices_at = world.now() + world.rng.choice([0.0, 1.0, 5.0])
        world._boot()


def wall_jump(world: "World") -> None:
    """Set the scheduler's wall clock by years."""
    world.wall_offset = world.rng.choice([-3e8, -3600.0, 0.0, 3600.0, 3e8])


def journal_full(world: "World") -> None:
    """Fill the scheduler's disk, or make room again."""
    world.disk.full = not world.disk.full


def spool_full(world: "World") -> None:
    """Fill an agent's disk, or make room again."""
    disk = world.rng.choice(world.agents).disk
    disk.full = not disk.full


def kill_agent(world: "World") -> None:
    """Kill an agent between two steps."""
    agent = world.rng.choice(world.agents)
    if agent.alive:
        world.count("kills")
        world.kill_agent(agent, power_cut=world.options.power_cut and world.rng.random() < 0.5)


def wish(world: "World") -> None:
    """Have a person change their mind about a search or an agent."""
    world.client.wish(world.alive_hosts()[-1])


FAULTS: tuple[tuple[str, Callable[["World"], None]], ...] = (
    ("breaks", break_stream),
    ("mutes", mute),
    ("delays", delay),
    ("stops", stop),
    ("two_schedulers", second_scheduler),
    ("cut_offs", cut_off),
    ("wall_jumps", wall_jump),
    ("journal_full", journal_full),
    ("spool_full", spool_full),
    ("kill_agent", kill_agent),
    ("lifecycle", wish),
)
