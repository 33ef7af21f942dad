"""What servers of a pool said of themselves when one was last there: known again after the deployer's restart."""

import hashlib
import os
from pathlib import Path

from google.protobuf import json_format

from nasmesh.logs import get_logger
from nasmesh.v1 import deployer_pb2, job_pb2

_log = get_logger("deployer")


class Acquaintance:
    """One pool's, in a file. It is forgotten when the pool is another: what its servers are may have changed."""

    def __init__(self, directory: Path, pool: deployer_pb2.ServerPool) -> None:
        """Read what is known of a pool's servers; a file that cannot be read is none."""
        self._path = directory / f"{pool.name}.json"
        self._pool = _fingerprint(pool)
        self.server: job_pb2.Server | None = None
        self._body = b""
        try:
            digest, _, text = self._path.read_text(encoding="utf-8").partition("\n")
            if digest == self._pool:
                self._keep(json_format.Parse(text, job_pb2.Server()))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, json_format.ParseError) as error:
            _log.warning("pool_memory_unreadable", path=str(self._path), error=str(error)[:200])

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
