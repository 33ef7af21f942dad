"""Servers as processes of the deployer's own host, each with its share of processors, memory and GPUs.

They outlive the deployer: what it must know of them again is in a file each. All pools of a deployer share the host, so
what is given away is counted over all of them, under one lock.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from nasmesh.clock import Clock, SystemClock
from nasmesh.errors import Invalid, Unavailable
from nasmesh.rpc.access import ACCESS_VARIABLES
from nasmesh.v1 import deployer_pb2
from scheduler.deployers.base import DOES_NOT_FIT, ENGINE_DOWN, Fault, Order, Resources, Site, Standing, State, refuse
from scheduler.deployers.engines.local_host import Gpu, Share, host_memory_bytes, list_gpus, pick, shortage
from scheduler.deployers.engines.local_record import Kept, LocalRecord, is_alive, started_at

_TAIL = 8192
_OWN = ACCESS_VARIABLES | {"NASMESH_METRICS", "NASMESH_GANG_LISTEN"}


class LocalEngine:
    """One pool's processes."""

    kind_name = "local"

    def __init__(self, pool: deployer_pb2.ServerPool, site: Site, clock: Clock | None = None) -> None:
        """Keep a pool's processes below the site's home; raises Invalid (CONFIG_INVALID) for wrong settings."""
        self._pool = pool.name
        self._home = site.home / "local"
        self._work_dir = pool.work_dir
        self._settings = pool.local
        self._clock = clock or SystemClock()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._gpus: list[Gpu] = []
        refuse(_faults(pool.local))

    def start(self, order: Order) -> None:
        """Keep an order, and start its process if there is room; raises Invalid (DOES_NOT_FIT) where there never is."""
        with self._locked() as kept:
            if order.name in kept.records or kept.has_ended(order.name):
                return
            total = self._total(order.resources)
            why = shortage(order.resources, total, total)
            if why:
                raise Invalid(DOES_NOT_FIT, f"resources: {why}, all of this host taken together", field="resources")
            record = LocalRecord(order.name, order.pool, self._command(order), dict(order.environment), order.resources)
            kept.put(record)
            self._advance(kept)

    def stop(self, name: str, grace_s: float) -> None:
        """Send SIGTERM now, and SIGKILL to all that is left of it once `grace_s` seconds are over."""
        with self._locked() as kept:
            record = kept.records.get(name)
            if record is None or record.kill_at:
                return
            if not record.pid:
                kept.end(name, "withdrawn before it began")
                return
            record.kill_at = self._clock.wall() + grace_s
            kept.put(record)
            self._signal(record, signal.SIGTERM)

    def standings(self) -> Sequence[Standing]:
        """Return how the pool's processes stand; those that there is room for now are started."""
        with self._locked() as kept:
            waiting = self._advance(kept)
            own = [record for record in kept.records.values() if record.pool == self._pool]
            found = [
                Standing(record.name, State.RUNNING, f"process {record.pid}")
                if record.pid
                else Standing(record.name, State.PENDING, waiting.get(record.name, ""))
                for record in own
            ]
            return [*found, *(Standing(name, State.ENDED, why) for name, why in kept.ended(self._pool))]

    def close(self) -> None:
        """Let the processes run on."""
        self._children.clear()

    # --- below ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[Kept]:
        """Yield what is kept of all local servers of this deployer, while nobody else changes it."""
        try:
            (self._home / "logs").mkdir(parents=True, exist_ok=True)
            with (self._home / "lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield Kept(self._home)
        except OSError as error:
            raise Unavailable(ENGINE_DOWN, f"{self._home}: {error.strerror}; it must be writable") from error

    def _advance(self, kept: Kept) -> dict[str, str]:
        """Note what has ended, kill what was asked to end long ago, start what there is room for; returns who waits."""
        for name, record in list(kept.records.items()):
            if record.pid and not self._lives(record):
                kept.end(name, self._how_it_ended(record))
                self._tidy(record)
            elif record.kill_at and self._clock.wall() >= record.kill_at:
                self._signal(record, signal.SIGKILL)
        waiting: dict[str, str] = {}
        for record in kept.in_order():
            if not record.pid and record.pool == self._pool:
                total = self._total(record.resources)
                taken = [Share(r.resources, r.gpus) for r in kept.records.values() if r.pid]
                why = shortage(record.resources, total, total.less(taken))
                if why:
                    waiting[record.name] = why
                else:
                    record.gpus = pick(record.resources, total.less(taken))
                    self._begin(kept, record)
        return waiting

    def _begin(self, kept: Kept, record: LocalRecord) -> None:
        # The deployer's own identity and ports are not its servers'; GPUs are given away one by one.
        outside = {name: value for name, value in os.environ.items() if name not in _OWN}
        gpus = {"CUDA_VISIBLE_DEVICES": ",".join(record.gpus)}
        environment = {**outside, **gpus, **record.environment, "GRPC_ENABLE_FORK_SUPPORT": "0"}
        with self._log(record.name).open("ab") as log:
            try:
                child = subprocess.Popen(
                    record.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                kept.end(record.name, f"{record.command[0]} cannot be started: {error.strerror}")
                return
        self._children[record.name] = child
        record.pid, record.started = child.pid, started_at(child.pid)
        kept.put(record)

    def _lives(self, record: LocalRecord) -> bool:
        child = self._children.get(record.name)
        if child is not None:
            return child.poll() is None
        return is_alive(record.pid, record.started)

    def _signal(self, record: LocalRecord, number: signal.Signals) -> None:
        """Signal a process that is certainly ours; SIGKILL goes to all that it has started."""
        if not self._lives(record):
            return
        with suppress(ProcessLookupError):
            if number is signal.SIGKILL:
                os.killpg(record.pid, number)
            else:
                os.kill(record.pid, number)

    def _how_it_ended(self, record: LocalRecord) -> str:
        child = self._children.pop(record.name, None)
        code = child.returncode if child is not None else None
        with suppress(OSError):
            last = _tail(self._log(record.name)).strip().splitlines()
            said = f": {last[-1][:200]}" if last and code != 0 else ""
            if code is None:
                return f"ended{said}"
            if code < 0:
                return f"killed by {signal.Signals(-code).name}"
            return f"exit code {code}{said}"
        return "ended"

    def _tidy(self, record: LocalRecord) -> None:
        """Remove a server's own directory: its name never comes back. Its log stays until the next few hundred."""
        if not self._work_dir:
            shutil.rmtree(self._home / "work" / record.name, ignore_errors=True)

    def _command(self, order: Order) -> tuple[str, ...]:
        """Return the command as it runs here: by this very installation, in a directory of the deployer's."""
        script = Path(sys.executable).with_name("nasmesh")
        first = (str(script),) if script.exists() else (sys.executable, "-m", "clients.cli.main")
        command = list(order.command)
        if not self._work_dir and "--work-dir" in command:
            command[command.index("--work-dir") + 1] = str(self._home / "work" / order.name)
        return (*first, *command[1:]) if command[0] == "nasmesh" else tuple(command)

    def _total(self, wanted: Resources) -> Share:
        """Return what may be given away in all; GPUs are looked for only where one is wanted, and until some are found.

        A driver that is not up yet when the host starts says nothing for a while.
        """
        if not self._gpus and (self._settings.devices or wanted.gpus):
            own = [Gpu(device.id, device.memory_bytes) for device in self._settings.devices]
            self._gpus = own or list_gpus()
        resources = Resources(
            cpus=self._settings.cpus or float(os.cpu_count() or 1),
            memory_bytes=self._settings.memory_bytes or host_memory_bytes(),
            custom={custom.name: custom.amount for custom in self._settings.custom},
        )
        return Share(resources, tuple(gpu.id for gpu in self._gpus), {g.id: g for g in self._gpus})

    def _log(self, name: str) -> Path:
        return self._home / "logs" / f"{name}.log"


def _tail(path: Path) -> str:
    """Return the end of a log, which may be larger than this host's memory."""
    with path.open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL))
        return log.read().decode(errors="replace")


def _faults(settings: deployer_pb2.LocalEngine) -> Iterator[Fault]:
    ids = [device.id for device in settings.devices]
    if not all(ids) or len(set(ids)) != len(ids):
        yield "local.devices", "each needs an id of its own"
    if settings.cpus < 0 or settings.memory_bytes < 0 or any(d.memory_bytes < 0 for d in settings.devices):
        yield "local", "what may be given away cannot be negative"
    if any(not custom.name or custom.amount <= 0 for custom in settings.custom):
        yield "local.custom", "each needs a name, and an amount above 0"
