"""Servers as actors of a Ray cluster: one named, detached actor a server, which keeps the server as its child.

Ray places them by processors, GPUs, memory and resources of the cluster's own. A server that no node has room for
waits, also for a node that does not exist yet, as clusters grow.
"""

import importlib.util
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nasmesh.clock import Clock, SystemClock
from nasmesh.errors import Invalid, Unavailable
from nasmesh.settings import parse_address
from nasmesh.v1 import deployer_pb2 as pb
from scheduler.deployers.base import ENGINE_DOWN, Fault, Order, Resources, Site, Standing, State, refuse
from scheduler.deployers.engines.started import Started
from scheduler.deployers.orders import resources_of

DEFAULT_NAMESPACE = "nasmesh"
_BRIDGE = "scheduler.deployers.engines.ray_bridge"
_TYPE = "accelerator_type:"
_CONNECT_S = 60.0
"""For the first answer: loading Ray and connecting take some seconds where all is well."""
_ANSWER_S = 20.0
_LATE_S = 10.0
"""An actor that has not ended its server so long after the grace does not work any more."""
_END_S = 5.0
_KNOCK_S = 3.0
_CHUNK = 2**16


class RayEngine:
    """Starts and stops servers on a Ray cluster, by a child process that has Ray in it."""

    kind_name = "ray"

    def __init__(self, pool: pb.ServerPool, site: Site, *, clock: Clock | None = None) -> None:
        """Check the pool's settings; raises Invalid (CONFIG_INVALID) with every field that is wrong."""
        refuse(_faults(pool))
        self._prefix = f"{site.deployer}/{pool.name}/"
        self._wanted = _ray_resources(resources_of(pool.resources))
        self._started = Started(site.home / "ray" / "started" / pool.name)
        self._clock = clock or SystemClock()
        self._bridge = _Connection(pool.ray, site.home / "ray" / f"{pool.name}.log", self._clock)
        self._ends: dict[str, float] = {}
        self._told: set[str] = set()

    def start(self, order: Order) -> None:
        """Have a server's actor made, once by name; raises Unavailable (ENGINE_DOWN). What fits nowhere waits."""
        if order.name in self._started.notes():
            return
        self._bridge.ask(
            do="start",
            name=self._prefix + order.name,
            command=list(order.command),
            # Ray leaves a server that reserves no GPU those of the whole node.
            environment={**({} if order.resources.gpus else {"CUDA_VISIBLE_DEVICES": ""}), **order.environment},
            wanted=_ray_resources(order.resources),
        )
        self._started.add(order.name, "")

    def stop(self, name: str, grace_s: float) -> None:
        """Have a server stopped by its actor; one that waits is taken back at once."""
        if name not in self._ends:
            self._bridge.ask(do="stop", name=self._prefix + name, grace_s=grace_s)
            self._ends[name] = self._clock.monotonic() + grace_s + _LATE_S

    def standings(self) -> Sequence[Standing]:
        """Return how the pool's servers stand, and end actors that do not end their server."""
        answer = self._bridge.ask(do="list", prefix=self._prefix, wanted=self._wanted)
        known = {
            name[len(self._prefix) :]: Standing(name[len(self._prefix) :], State(state), reason)
            for name, (state, reason) in answer.items()
        }
        notes = self._started.notes()
        for name in sorted(set(notes) - set(known)):
            if name in self._told:
                self._told.discard(name)
                self._started.forget(name)
            else:
                known[name] = Standing(name, State.ENDED, "Ray knows it no more")
        for name, standing in known.items():
            if standing.state is State.ENDED:
                self._told.add(name)
                self._ends.pop(name, None)
            elif name not in notes:
                self._started.add(name, "")
        for name in [name for name, until in self._ends.items() if self._clock.monotonic() >= until]:
            self._bridge.ask(do="kill", name=self._prefix + name)
            del self._ends[name]
        return [known[name] for name in sorted(known)]

    def close(self) -> None:
        """End the connection; actors live on."""
        self._bridge.close()


class _Connection:
    """A child process that has Ray loaded; started when it is needed, and again after it ended or was too slow."""

    def __init__(self, settings: pb.RayEngine, log: Path, clock: Clock) -> None:
        self._address = settings.address
        self._namespace = settings.namespace or DEFAULT_NAMESPACE
        self._log = log
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, **request: object) -> Any:
        """Return the answer to one request; raises Unavailable (ENGINE_DOWN)."""
        limit_s = _ANSWER_S if self._process else _CONNECT_S
        process = self._process or self._begin()
        assert process.stdin is not None
        with suppress(OSError):  # it ended: what it last said says why
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        line = self._read_line(process, limit_s)
        if line is None:
            process.kill()
            self.close()
            raise Unavailable(ENGINE_DOWN, f"Ray at {self._where()} did not answer within {limit_s:.0f} s")
        if not line:
            self.close()
            raise Unavailable(ENGINE_DOWN, f"the connection to Ray at {self._where()} ended; see {self._log}")
        answer: Mapping[str, Any] = json.loads(line)
        if "down" in answer:
            self.close()
            raise Unavailable(ENGINE_DOWN, f"Ray at {self._where()}: {answer['down']}")
        return answer["ok"]

    def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(OSError):  # what could not be sent is lost with it
            process.stdin.close()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def _begin(self) -> subprocess.Popen[bytes]:
        if importlib.util.find_spec("ray") is None:
            raise Unavailable(ENGINE_DOWN, "Ray is not installed where the deployer runs: pip install 'nasmesh[ray]'")
        self._knock()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        # Ray's reports to its makers are off; what this process says to a cluster is between the two.
        env = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _BRIDGE, self._address, self._namespace],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=env,
                start_new_session=True,  # Ctrl-C is for the deployer, which then closes this
            )
        return self._process

    def _knock(self) -> None:
        """Raise Unavailable (ENGINE_DOWN) at once where nobody listens; Ray itself takes a minute to notice."""
        try:
            place = parse_address(self._address.removeprefix("ray://"))
        except Invalid:
            return  # one of Ray's own words, or nothing
        try:
            socket.create_connection(place, _KNOCK_S).close()
        except OSError as error:
            text = f"nobody listens at {self._address}: {error.strerror or error}"
            raise Unavailable(ENGINE_DOWN, f"{text}; ray.address is HOST:PORT of the cluster's head") from None

    def _read_line(self, process: subprocess.Popen[bytes], limit_s: float) -> bytes | None:
        """Return one line, b"" where the process ended without one, None where it took too long."""
        assert process.stdout is not None
        descriptor, line = process.stdout.fileno(), b""
        until = self._clock.monotonic() + limit_s
        while not line.endswith(b"\n"):
            left = until - self._clock.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                return None
            chunk = os.read(descriptor, _CHUNK)
            if not chunk:
                return b""
            line += chunk
        return line

    def _where(self) -> str:
        return self._address or "the address that it finds by itself"


def _faults(pool: pb.ServerPool) -> Iterator[Fault]:
    if any(character in pool.ray.address for character in " \n\0@"):
        yield "ray.address", "give HOST:PORT of the cluster's head, ray://HOST:PORT, or nothing"
    if "/" in pool.ray.namespace or len(pool.ray.namespace) > 64:
        yield "ray.namespace", "at most 64 characters, without /"
    custom = [resource.name for resource in pool.resources.custom]
    if pool.resources.gpu_memory_bytes > 0 and not any(name.startswith(_TYPE) for name in custom):
        text = f"Ray does not place by it; name the GPU as well, as a custom resource {_TYPE}A100 of 0.001"
        yield "resources.gpu_memory_bytes", text
    for number, name in enumerate(custom):
        if name in ("CPU", "GPU", "memory", "object_store_memory"):
            yield f"resources.custom.{number}", f"{name} has a field of its own"


def _ray_resources(wanted: Resources) -> dict[str, float]:
    """Return an order's resources under Ray's names; what is not reserved is left out."""
    named = {"CPU": wanted.cpus, "GPU": wanted.gpus, "memory": wanted.memory_bytes, **wanted.custom}
    return {name: amount for name, amount in named.items() if amount}
