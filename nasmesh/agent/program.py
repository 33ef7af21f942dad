"""The shared main of the generate, train and evaluate programs: serve, work for a scheduler, drain on a signal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nasmesh.agent.beside import held_place
from nasmesh.agent.drivers.driver import Driver
from nasmesh.agent.flags import AddFlags, ServerSettings, default_name, parse_server_flags
from nasmesh.agent.lifetime import Lifetime, write_address
from nasmesh.agent.loop import DRAIN_S, Agent
from nasmesh.exits import guarded
from nasmesh.jobs.table import JobTable
from nasmesh.logs import configure, get_logger
from nasmesh.rpc.expiring import certificates_watched
from nasmesh.rpc.observing import metrics_served, observers
from nasmesh.rpc.server import Door, RunningServer, Service, serve_threads
from nasmesh.telemetry.calls import Calls
from nasmesh.telemetry.exposition import Source
from nasmesh.telemetry.tracing import configure_tracing, stop_tracing
from nasmesh.unpickling import forbid_unpickling

_LOG = get_logger("program")

JOB_GRACE_S = 10.0
"""How long jobs may take to write a checkpoint when the server ends; the agent then has time to give them back."""

STOP_GRACE_S = 1.0
"""How long calls in hand may take after that; watches of ended jobs have returned by then."""

ENDS_S = 20.0
"""Within this time of a signal a server has ended: DRAIN_S for what its agent holds, STOP_GRACE_S, and its children."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a program serves: its service, how its agent drives it, and its jobs, if it has any."""

    service: Service
    driver: Driver
    jobs: JobTable | None = None


@dataclass(frozen=True, slots=True)
class Program:
    """One of our server programs. `build` makes the servicer from the settings and must not import torch."""

    name: str
    listen: str
    build: Callable[[ServerSettings], Served]
    slots: int = 1
    add_flags: AddFlags | None = None
    """Adds flags that only this program has; `build` finds them in ServerSettings.own."""


def run_server_program(program: Program, argv: Sequence[str] | None = None) -> int:
    """Run until a signal and return the exit code: 0, 2 wrong flags, 3 port or directory in use, 130 Ctrl-C."""

    def main() -> int:
        forbid_unpickling()
        told = parse_server_flags(
            program.name, listen=program.listen, slots=program.slots, argv=argv, add_own=program.add_flags
        )
        configure(program.name, settings=told.environment)
        configure_tracing(program.name, told.environment)
        lifetime = Lifetime()
        with held_place(told) as settings:
            served = program.build(settings)
            try:
                return _serve(settings, served, lifetime)
            finally:
                if served.jobs is not None:
                    served.jobs.close()
                stop_tracing()

    return guarded(main)


def _serve(settings: ServerSettings, served: Served, lifetime: Lifetime) -> int:
    calls = Calls()
    around = observers(calls, settings.metrics)
    running = serve_threads(
        [served.service], settings.listen, door=Door(settings.access, settings.insecure, around=around)
    )
    try:
        agent = _agent(settings, served, running) if settings.scheduler else None
        with (
            certificates_watched(settings.access, settings.own_access) as ends,
            metrics_served(settings.metrics, [*_sources(calls, served, agent), *ends]),
        ):
            return _work(settings, served, running, agent, lifetime)
    finally:
        running.stop(STOP_GRACE_S)


def _sources(calls: Calls, served: Served, agent: Agent | None) -> list[Source]:
    jobs = [] if served.jobs is None else [served.jobs.readings]
    return [calls.readings, *jobs, *([] if agent is None else [agent.readings])]


def _work(
    settings: ServerSettings, served: Served, running: RunningServer, agent: Agent | None, lifetime: Lifetime
) -> int:
    thread = lifetime.follow(agent) if agent is not None else None
    if settings.port_file is not None:
        write_address(settings.port_file, running.address)
    _LOG.info("serving", address=running.address, scheduler=settings.scheduler or None, store=settings.store)
    lifetime.wait()
    _LOG.info("draining")
    running.set_serving(False)
    if served.jobs is not None:
        # Before the agent cancels what it holds: the first request to stop says how much time there is.
        served.jobs.begin_drain(JOB_GRACE_S)
    if agent is not None and thread is not None:
        agent.drain()
        lifetime.join(thread, DRAIN_S + 1.0)
    if served.jobs is not None:
        served.jobs.drain(JOB_GRACE_S)
    return lifetime.exit_code()


def _agent(settings: ServerSettings, served: Served, running: RunningServer) -> Agent:
    return Agent(
        scheduler=settings.scheduler,
        name=settings.name or default_name(settings.program, running.address),
        drivers=[served.driver],
        work_dir=settings.work_dir / "agent",
        insecure=settings.insecure,
        access=settings.own_access,
        labels=settings.labels,
    )
