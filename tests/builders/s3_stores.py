"""Buckets of real S3 servers for tests: a new one each time, its store, and a way behind the store's back."""

import io
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from minio import Minio

from nasmesh.clock import Clock, new_id
from nasmesh.store.s3 import S3Store
from nasmesh.store.s3_calls import Calls, Patience
from nasmesh.store.s3_place import Keys, parse_place
from nasmesh.v1 import object_pb2 as pb
from tests.builders.s3_proxy import Proxy, proxy_before
from tests.builders.s3_servers import S3Server, s3_server


class Servers:
    """One server of each kind that is asked for, and one proxy before each, for a module's tests."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._servers: dict[str, S3Server] = {}
        self._proxies: dict[str, Proxy] = {}

    def server(self, kind: str) -> S3Server:
        """Return the server of a kind, "weed" or "minio"; skips the test where there is none."""
        if kind not in self._servers:
            self._servers[kind] = self._stack.enter_context(s3_server(kind, self._directory / kind))
        return self._servers[kind]

    def proxy(self, kind: str) -> Proxy:
        """Return the proxy before it."""
        if kind not in self._proxies:
            self._proxies[kind] = self._stack.enter_context(proxy_before(self.server(kind).endpoint))
        return self._proxies[kind]


def servers_below(directory: Path) -> Iterator[Servers]:
    """Run servers for the length of a fixture."""
    with ExitStack() as stack:
        yield Servers(directory, stack)


def raw_client(server: S3Server) -> Minio:
    """Return the bare client of a server, as its owner."""
    return Minio(server.endpoint, server.access_key, server.secret_key, secure=False, region="us-east-1")


@dataclass(frozen=True, slots=True)
class Bucket:
    """A new bucket."""

    server: S3Server
    raw: Minio
    name: str

    def store(
        self,
        *,
        endpoint: str = "",
        patience: Patience | None = None,
        clock: Clock | None = None,
        part_bytes: int = 16 * 1024 * 1024,
    ) -> S3Store:
        """Return its store; `endpoint`: of a proxy before the server."""
        place = parse_place(self.server.url(self.name, endpoint=endpoint))
        calls = Calls(place, Keys(self.server.credentials), patience=patience, clock=clock)
        return S3Store(calls, part_bytes=part_bytes)

    def overwrite(self, ref: pb.ObjectRef, content: bytes) -> None:
        """Change an object's bytes behind the store's back."""
        self.raw.put_object(self.name, ref.key, io.BytesIO(content), len(content))


def new_bucket(server: S3Server) -> Bucket:
    """Make a bucket that nobody else has."""
    name = f"test-{new_id()[:16]}"
    raw = raw_client(server)
    raw.make_bucket(name)
    return Bucket(server, raw, name)
