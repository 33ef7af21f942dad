"""One rehearsal from specification to figures."""

import dataclasses
from collections.abc import Callable

from nasmesh.clock import Clock, SystemClock
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import job_pb2, search_pb2
from scheduler.rehearsal.data import NOTHING_ADDED, Added
from scheduler.rehearsal.model import Model
from scheduler.rehearsal.world import Ask, World


@dataclasses.dataclass(frozen=True, slots=True)
class Rehearsal:
    """How one number of agents did. Times in virtual seconds, but for `took_s` and `generator_took_s`."""

    agents: int
    wall_time_s: float
    utilisation: float
    limit: str
    bound_s: dict[str, float]
    idle_s: dict[str, float]
    trials: int
    succeeded: int
    calls: int
    state: str
    reason: str
    best: float | None
    device_time_s: float
    took_s: float
    generator_took_s: float
    networks: list[str]


@dataclasses.dataclass(slots=True)
class Timed:
    """A real generator that is asked, what it offers, and how long it really took."""

    ask: Ask
    server: job_pb2.Server
    clock: Clock = dataclasses.field(default_factory=SystemClock)
    took_s: float = 0.0

    def __call__(self, lease: pb.Lease) -> pb.AttemptOutcome:
        """Ask and take the time."""
        began = self.clock.monotonic()
        outcome = self.ask(lease)
        self.took_s += self.clock.monotonic() - began
        return outcome


def rehearse(  # noqa: PLR0913 - all that a rehearsal depends on
    spec: search_pb2.SearchSpec,
    hosts: int,
    generator: Timed,
    model: Model,
    *,
    generators: int = 1,
    added: Added = NOTHING_ADDED,
    told: Callable[[int], None] = lambda _: None,
) -> Rehearsal:
    """Return how long a search takes with so many hosts; the same spec and model give the same answer.

    `added`: data sets besides the built-in ones. `told` hears how many trials have ended. Raises what CreateSearch
    raises, Invalid (REHEARSAL_STUCK, METRIC_UNMODELLED), Unavailable (GENERATOR_ABSENT).
    """
    started, before = generator.clock.monotonic(), generator.took_s
    world = World(hosts, generator, generator.server, model, generators=generators, added=added)
    world.rehearse(spec, told)
    run = world.run
    best = run.leaders[0][0] if run.leaders else None
    maximized = run.spec.objectives[0].goal == search_pb2.GOAL_MAXIMIZE
    return Rehearsal(
        agents=hosts,
        wall_time_s=world.clock.monotonic(),
        utilisation=world.usage.utilisation,
        limit=world.usage.limit(),
        bound_s=dict(world.usage.bound_s),
        idle_s={why.value: seconds for why, seconds in world.usage.idle_s.items()},
        trials=len(run.trials),
        succeeded=run.outcomes.get(search_pb2.TRIAL_OUTCOME_SUCCEEDED, 0),
        calls=world.asked,
        state=run.state.name,
        reason=run.reason,
        best=None if best is None else -best if maximized else best,
        device_time_s=run.device_time_s + run.final_device_time_s,
        took_s=generator.clock.monotonic() - started,
        generator_took_s=generator.took_s - before,
        networks=[trial.network.name for trial in run.trials],
    )
