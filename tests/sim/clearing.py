"""The end of some lives: of searches that measure the same one is deleted, and what it measured is looked for."""

from functools import partial
from typing import TYPE_CHECKING

from nasmesh.clock import derive_seed, seeded_random
from tests.builders import scheduler_lifecycle as lifecycle

if TYPE_CHECKING:
    from tests.sim.world import World


def clear_up(world: "World") -> None:
    """Delete one of two searches that could share measurements, before or after the scheduler is started anew."""
    specs = world.client.specs
    if "two" not in specs or not specs["two"].cache:
        return
    rng = seeded_random(derive_seed(world.options.seed, "clearing"))
    search, restarts = rng.choice(sorted(specs)), rng.random() < 0.5
    before = dict(world.checks.shadow.measured)
    if restarts:
        _restart(world)
    (host,) = world.alive_hosts()
    command = lifecycle.command(host.lifecycle, lifecycle.delete(search, "clear-up"))
    world.run_host(host, partial(host.step, [command]))
    world.checks.equal(host.engine)
    if not restarts:
        _restart(world)
    after = world.checks.shadow.measured
    world.count("handed over", sum(after.get(digest, place) != place for digest, place in before.items()))


def _restart(world: "World") -> None:
    world.alive_hosts()[-1].die()
    world.alive_hosts()
