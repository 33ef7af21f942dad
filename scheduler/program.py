"""Runs a scheduler in this process: journal, engine, core, services; until told to stop."""

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from nasmesh import limits
from nasmesh.clock import SystemClock, new_seed
from nasmesh.errors import NasmeshError
from nasmesh.logs import get_logger
from nasmesh.rpc.access import NO_SERVER_ACCESS, ServerAccess
from nasmesh.rpc.expiring import certificates_watched
from nasmesh.rpc.observing import metrics_served, observers
from nasmesh.rpc.rates import Rates
from nasmesh.rpc.server import Door, RunningAioServer, Service, serve_aio
from nasmesh.store.base import ObjectStore
from nasmesh.store.open import open_store
from nasmesh.telemetry.calls import Calls
from nasmesh.v1 import dispatch_service_pb2_grpc, scheduler_service_pb2_grpc
from scheduler import compiled
from scheduler.collecting import settle
from scheduler.core import Core
from scheduler.desk import Desk
from scheduler.dispatch import DispatchServicer
from scheduler.engine import Engine
from scheduler.failpoints import Failpoints
from scheduler.health import Health
from scheduler.journal.base import Journal
from scheduler.journal.places import journal_at
from scheduler.metrics import source
from scheduler.quotas import QUOTAS, Quotas
from scheduler.service import SchedulerServicer
from scheduler.standby import Led, Turn, take_turn

_log = get_logger("scheduler")


@dataclass(frozen=True, slots=True)
class Options:
    """What a scheduler is started with. `port_file` receives the address once it serves."""

    listen: str
    journal: str
    store: str
    port_file: Path | None = None
    insecure: bool = False
    failpoint: str = ""
    access: ServerAccess = NO_SERVER_ACCESS
    metrics: str = ""
    standby: bool = False
    """Wait while another scheduler leads on the same journal, instead of giving up."""
    quotas: Quotas = QUOTAS
    rates: Rates = field(default_factory=Rates)


class Scheduler:
    """A scheduler that serves. `address` is where."""

    def __init__(self, core: Core, server: RunningAioServer, health: Health, beside: ExitStack) -> None:
        """Hold a started one; use start. `beside` is closed at the end."""
        self.core = core
        self.address = server.address
        self._server = server
        self._health = health
        self._beside = beside
        self._lost: NasmeshError | None = None
        self._running = asyncio.create_task(core.run())
        if isinstance(core.engine.journal, Led):
            loop = asyncio.get_running_loop()
            core.engine.journal.on_loss(lambda error: loop.call_soon_threadsafe(self._lose, error))

    async def wait(self) -> None:
        """Return when it is stopped; raises what made it give up."""
        with suppress(asyncio.CancelledError):
            await self._running
        if self._lost is not None:
            raise self._lost

    async def stop(self, grace_s: float = 1.0) -> None:
        """Stop: no new calls, streams end, the journal is closed. Work in hand goes on at the agents."""
        await self._health.end()
        self._running.cancel()
        with suppress(asyncio.CancelledError, NasmeshError):
            await self._running
        await self._server.stop(grace_s)
        await asyncio.to_thread(self._beside.close)

    def _lose(self, error: NasmeshError) -> None:
        """Give up: another scheduler may lead by now."""
        self._lost = error
        self._running.cancel()


async def start(
    options: Options,
    *,
    journal: Journal | None = None,
    store: ObjectStore | None = None,
    door: Door | None = None,
    stuck_s: float = limits.COMMIT_STUCK_S,
) -> Scheduler:
    """Serve; health says NOT_SERVING until the journal is read back, and while a commit takes `stuck_s` seconds.

    With `standby` in the options it returns once this scheduler leads.
    `door` stands in for the options' own. Raises Invalid and Unavailable for a bad address, port, store, journal or
    access file, each naming the flag.
    """
    objects = store or open_store(options.store, check=True)
    engine = Engine(journal or journal_at(options.journal), SystemClock(), seed=new_seed())
    core = Core(engine, Failpoints(options.failpoint))
    services = _services(core, objects, options.quotas)
    calls = Calls()
    turn = Turn()
    turn.come = not options.standby
    around = (*observers(calls, options.metrics, aio=True), turn)
    around = around if options.standby else around[:-1]
    door = door or Door(options.access, options.insecure, options.rates, around=around)
    server = await serve_aio(services, options.listen, serving=False, door=door)
    engine.activity.calls_denied = server.gate.refusals
    beside = ExitStack()
    try:
        ends = beside.enter_context(certificates_watched(options.access))
        beside.enter_context(metrics_served(options.metrics, [calls.readings, source(engine), *ends]))
        await (take_turn(core, options.journal) if options.standby else core.recover())
    except BaseException:
        beside.close()
        await server.stop(0)
        raise
    health = Health(server, engine.activity, engine.clock, stuck_s=stuck_s)
    scheduler = Scheduler(core, server, health, beside)
    turn.come = True
    await health.begin()
    return scheduler


async def run(options: Options) -> None:
    """Serve until SIGTERM or SIGINT; everything acknowledged is in the journal by then."""
    scheduler = await start(options)
    settle()
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    if options.port_file is not None:
        _write_address(options.port_file, scheduler.address)
    form = {"epoch": scheduler.core.engine.state.epoch, "compiled": compiled.in_use()}
    _log.info("serving", address=scheduler.address, journal=options.journal, **form)
    stopping = asyncio.create_task(told.wait())
    ended = asyncio.create_task(scheduler.wait())
    await asyncio.wait({stopping, ended}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    await scheduler.stop()
    await ended
    _log.info("stopped")


def _services(core: Core, store: ObjectStore, quotas: Quotas) -> Sequence[Service]:
    return (
        Service(
            "nasmesh.v1.SchedulerService",
            scheduler_service_pb2_grpc.add_SchedulerServiceServicer_to_server,
            SchedulerServicer(core, store, quotas),
        ),
        Service(
            "nasmesh.v1.DispatchService",
            dispatch_service_pb2_grpc.add_DispatchServiceServicer_to_server,
            DispatchServicer(core, Desk(core.engine)),
        ),
    )


def _write_address(path: Path, address: str) -> None:
    """Write the address so that a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(address + "\n")
    os.replace(part, path)
