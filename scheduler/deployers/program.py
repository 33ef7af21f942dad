"""Runs a deployer in this process: reads the pools, opens their engines, looks until told to stop."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import cast

from nasmesh import limits
from nasmesh.agent.lifetime import Lifetime, locked_directory, write_address
from nasmesh.client.deploying import DeployerClient
from nasmesh.clock import SystemClock
from nasmesh.errors import Invalid
from nasmesh.logs import get_logger
from nasmesh.rpc.access import NO_CLIENT_ACCESS, NO_SERVER_ACCESS, ClientAccess, ServerAccess
from nasmesh.rpc.expiring import certificates_watched
from nasmesh.rpc.observing import metrics_served, observers
from nasmesh.rpc.server import Door, serve_threads
from nasmesh.telemetry.calls import Calls
from nasmesh.v1 import deployer_pb2
from scheduler.deployers.acquaintance import Acquaintance
from scheduler.deployers.base import Engine, Fault, Site, refuse
from scheduler.deployers.config import read_config
from scheduler.deployers.keeper import Keeper, Told
from scheduler.deployers.posts import Post
from scheduler.deployers.rules import EXTERNAL
from scheduler.deployers.service import services

ENGINES = {
    "local": ("scheduler.deployers.engines.local", "LocalEngine"),
    "kubernetes": ("scheduler.deployers.engines.kubernetes", "KubernetesEngine"),
    "slurm": ("scheduler.deployers.engines.slurm", "SlurmEngine"),
    "ray": ("scheduler.deployers.engines.ray", "RayEngine"),
}
"""Module and class of each engine, by the field of ServerPool that names it."""

LISTEN = "127.0.0.1:7404"
_PATIENCE_S = 1.0
_log = get_logger("deployer")


@dataclass(frozen=True, slots=True)
class Options:
    """What a deployer is started with. `home`: a directory for the state of all deployers of this host."""

    config: Path
    scheduler: str
    home: Path
    listen: str = LISTEN
    port_file: Path | None = None
    insecure: bool = False
    access: ServerAccess = NO_SERVER_ACCESS
    own_access: ClientAccess = NO_CLIENT_ACCESS
    metrics: str = ""
    store: str = ""


def open_engine(pool: deployer_pb2.ServerPool, site: Site) -> Engine | None:
    """Return the engine of a pool, None where it is external; raises Invalid (CONFIG_INVALID)."""
    kind = str(pool.WhichOneof("engine"))
    if kind == EXTERNAL:
        return None
    module, name = ENGINES[kind]
    try:
        make = cast("Callable[[deployer_pb2.ServerPool, Site], Engine]", getattr(import_module(module), name))
    except ImportError as error:
        text = f"{kind}: this engine is not installed here (no {error.name}); pip install 'nasmesh[{kind}]'"
        raise Invalid("CONFIG_INVALID", text, field=kind) from error
    return make(pool, site)


def open_posts(config: deployer_pb2.DeployerConfig, home: Path) -> list[Post]:
    """Return the pools of a configuration with their engines; raises as open_engine does.

    Every field that an engine finds wrong is named, of every pool.
    """
    site = Site(config.name, home)
    engines: list[Engine | None] = []
    faults: list[Fault] = []
    for index, pool in enumerate(config.pools):
        try:
            engines.append(open_engine(pool, site))
        except Invalid as error:
            for violation in error.violations:
                what = violation.description.removeprefix(f"{violation.field}: ")
                faults.append((f"pools.{index}.{violation.field}", what))
    refuse(faults)
    return [
        Post(pool, engine, Acquaintance(home / "pools", pool))
        for pool, engine in zip(config.pools, engines, strict=True)
    ]


def run(options: Options, lifetime: Lifetime) -> int:
    """Keep the pools until a signal; their servers run on. Returns the exit code.

    Raises Invalid and Unavailable for a wrong file, address or port, or a home that another deployer keeps.
    """
    config = read_config(options.config)
    home = options.home / config.name
    calls = Calls()
    with ExitStack() as stack:
        stack.enter_context(locked_directory(home))
        client = DeployerClient(
            options.scheduler, insecure=options.insecure, access=options.own_access, patience_s=_PATIENCE_S
        )
        stack.callback(client.close)
        told = Told(config.name, config.scheduler or options.scheduler, config.store or options.store)
        keeper = Keeper(open_posts(config, home), client, SystemClock(), told)
        stack.callback(keeper.close)
        around = observers(calls, options.metrics)
        door = Door(options.access, options.insecure, around=around)
        # KEDA keeps a stream open for each pool, and each takes a thread.
        workers = limits.SERVER_THREADS + 2 * len(config.pools)
        running = serve_threads(services(keeper.board), options.listen, workers=workers, door=door)
        stack.callback(running.stop, 0.5)
        ends = stack.enter_context(certificates_watched(options.access, options.own_access))
        stack.enter_context(metrics_served(options.metrics, [calls.readings, keeper.board.readings, *ends]))
        if options.port_file is not None:
            write_address(options.port_file, running.address)
        _log.info("serving", address=running.address, deployer=config.name, pools=len(config.pools))
        period_s = config.period.ToMilliseconds() / 1000
        keeper.look()
        while not lifetime.wait(period_s):
            keeper.look()
        _log.info("stopped")
    return lifetime.exit_code()
