"""What servers of a pool are: as one said when it was last there, else as far as the pool's own settings tell."""

import hashlib
import os
from pathlib import Path

from google.protobuf import json_format

from nasmesh.data import catalog
from nasmesh.logs import get_logger
from nasmesh.memory import parse_bytes
from nasmesh.v1 import deployer_pb2, job_pb2
from scheduler.deployers.rules import TRAIN, argument

_log = get_logger("deployer")


class Acquaintance:
    """One pool's, in a file. It is forgotten when the pool is another: what its servers are may have changed."""

    def __init__(self, directory: Path, pool: deployer_pb2.ServerPool) -> None:
        """Read what is known of a pool's servers; a file that cannot be read is none."""
        self._path = directory / f"{pool.name}.json"
        self._pool = _fingerprint(pool)
        self.server: job_pb2.Server | None = None
        """As one described itself; None: none has been seen since the pool is what it is."""
        self._declared = declared_by(pool)
        self._body = b""
        try:
            digest, _, text = self._path.read_text(encoding="utf-8").partition("\n")
            if digest == self._pool:
                self._keep(json_format.Parse(text, job_pb2.Server()))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, json_format.ParseError) as error:
            _log.warning("pool_memory_unreadable", path=str(self._path), error=str(error)[:200])

    @property
    def known(self) -> job_pb2.Server | None:
        """What is known of its servers; None: too little to tell others that there would be such a one."""
        return self.server if self.server is not None else self._declared

    def meet(self, server: job_pb2.Server) -> None:
        """Remember a server, if it says anything new."""
        plain = job_pb2.Server()
        plain.CopyFrom(server)
        plain.ClearField("process_id")
        plain.ClearField("gang_address")
        if plain.SerializeToString(deterministic=True) == self._body:
            return
        self._keep(plain)
        part = self._path.with_name(f".{self._path.name}.part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(f"{self._pool}\n{json_format.MessageToJson(plain)}\n", encoding="utf-8")
            os.replace(part, self._path)
        except OSError as error:  # it is known now; after a restart one server is started to know it again
            _log.warning("pool_memory_unwritable", path=str(self._path), error=str(error)[:200])

    def serves(self, *, generators: bool) -> frozenset[str] | None:
        """Return the names of what such a server has: generators or data sets; None where nobody knows, or any."""
        return None if self.server is None else served_by(self.server, generators=generators)

    def _keep(self, server: job_pb2.Server) -> None:
        self.server = server
        self._body = server.SerializeToString(deterministic=True)


def served_by(server: job_pb2.Server, *, generators: bool) -> frozenset[str] | None:
    """Return the names of what a server has: generators or data sets; None for any."""
    if generators:
        return frozenset(generator.name for generator in server.generators)
    return frozenset(d.name for d in server.datasets if d.available) if server.datasets else None


def declared_by(pool: deployer_pb2.ServerPool) -> job_pb2.Server | None:
    """Return what a pool's settings tell of its servers: train servers' data (`serves`), and memory (`--memory`).

    None where they do not say which data: a server that names none would be taken to have any.
    """
    if pool.kind != TRAIN or not pool.serves:
        return None
    server = job_pb2.Server(slots=pool.slots)
    for name in pool.serves:
        info = catalog.DATASETS.get(name.removeprefix("datasets/"))
        if info is not None:
            server.datasets.append(catalog.message(info, available=True))
        else:
            server.datasets.add(name=name, available=True)
    size = argument(pool, "--memory")
    if size is not None:
        server.devices.add(job_memory_bytes=parse_bytes(size))
    return server


def _fingerprint(pool: deployer_pb2.ServerPool) -> str:
    """Return a digest of what decides on what its servers are; bounds and times do not."""
    parts = deployer_pb2.ServerPool()
    parts.CopyFrom(pool)
    for field in (
        "min_servers",
        "max_servers",
        "cool_down",
        "start_timeout",
        "stop_grace",
        "max_servers_per_owner",
        "owner_limits",
    ):
        parts.ClearField(field)
    return hashlib.sha256(parts.SerializeToString(deterministic=True)).hexdigest()
