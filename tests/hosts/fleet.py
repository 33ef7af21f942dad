"""The hosts of one mesh: scheduler, object store, perhaps a database, servers of each kind, and somebody's laptop.

Everybody shows a certificate and a token; servers' hosts drop whatever dials in. Each host has its own files and sees
no others: what it was given was copied to it, as a person would by scp.
"""

import io
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from types import TracebackType

from clients.cli.main import command
from nasmesh.limits import KEEPALIVE_S, KEEPALIVE_TIMEOUT_S
from tests.builders import netns, postgres_server
from tests.builders.netns import Host, Network, Program
from tests.builders.postgres_server import PostgresServer
from tests.builders.s3_servers import Certificate, S3Server, absent
from tests.hosts.desk_calls import Desk

PYTHON = sys.executable
PORT = 7400
BUCKET = "mesh"
MODULES = {"generate": "generate_svc", "train": "train_svc", "evaluate": "evaluate_svc"}
_START_S = 90.0
_LOOK_S = 0.02
_LOST_LOOK_S = 0.2
_SLACK_S = 30.0
_LOG_CHARS = 4000


def missing() -> str:
    """Return why there can be no mesh on hosts of its own here; empty where there can."""
    return netns.missing() or (absent("minio") and absent("weed")) or postgres_server.absent()


def agent_name(host: str, kind: str) -> str:
    """Return the agent of a host's server."""
    return f"agents/{host}-{kind}"


class Fleet:
    """A mesh on hosts of its own; a context manager. `tell` hears in a line what is done."""

    def __init__(
        self,
        directory: Path,
        *,
        lease_s: float,
        database: bool,
        store: str = "",
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Plan a mesh whose files lie below a directory; `store`: "minio" or "weed" [the first that is here]."""
        self.network = Network(directory)
        self.lease_s = lease_s
        self.tell = tell
        self.office = directory / "hosts" / "office"
        self.programs: dict[str, Program] = {}
        self.store: S3Server | None = None
        self.database: PostgresServer | None = None
        self._wants_database = database
        self._store_kind = store or ("weed" if absent("minio") else "minio")

    def __enter__(self) -> "Fleet":
        """Start hub, store, database and desk."""
        self.network.__enter__()
        try:
            self._begin()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        """End everything."""
        self._end()

    def __getitem__(self, name: str) -> Host:
        """Return a host."""
        return self.network.hosts[name]

    def _begin(self) -> None:
        for name in ("hub", "store", *(["database"] if self._wants_database else []), "desk"):
            self.network.add(name)
        self.office.mkdir(exist_ok=True)
        certs = ("--dir", self._at("certs"))
        self.operator("certs", "init", *certs, "--host", "hub")
        self.operator("certs", "issue", *certs, "--role", "server", "--name", "store", "--host", "store")
        self._start_store()
        if self._wants_database:
            self._start_database()
        self.credentials("desk", scope="admin")
        self.give("hub", self.office / "certs/server-scheduler.crt", self.office / "certs/server-scheduler.key")
        self.start_scheduler()
        self.desk = Desk(self["desk"], f"hub:{PORT}")

    def _end(self) -> None:
        self.network.__exit__(None, None, None)
        if self.store is not None:
            self.store.kill()
        if self.database is not None:
            self.database.stop(signal.SIGQUIT)  # at once: whoever was connected is gone without a word

    # --- who may call -----------------------------------------------------------------------------------------------

    def operator(self, *words: str) -> None:
        """Run `nasmesh WORDS`, of those that talk to nobody, with the operator's files."""
        self.tell(f"office$ nasmesh {shlex.join(words).replace(f'{self.office}/', '')}")
        with redirect_stdout(io.StringIO()):
            command()(list(words), prog_name="nasmesh", standalone_mode=False)

    def credentials(self, name: str, *, scope: str = "agent") -> None:
        """Make a host's certificate, and its token with the authority in it, and copy them there."""
        role = "agent" if scope == "agent" else "admin"
        self.operator("certs", "issue", "--dir", self._at("certs"), "--role", role, "--name", name)
        made = ("--tokens", self._at("tokens.json"), "--name", name, "--scope", scope, "--ca", self._at("certs/ca.crt"))
        self.operator("token", "create", *made, "--out", self._at(f"{name}.token"))
        self.give(name, self.office / f"{name}.token", self.office / "certs/ca.crt")
        for kind in ("crt", "key"):
            self.give(name, self.office / f"certs/{role}-{name}.{kind}", named=f"{name}.{kind}")

    def _give_keys(self, name: str, role: str) -> None:
        """Copy the object store's key of a role to a host, where the store has one for each."""
        assert self.store is not None
        own = self["hub"].files / "keys" / f"{role}.keys"
        self.give(name, own if own.exists() else self.store.credentials, named="store.keys")

    def give(self, host: str, *files: Path, named: str = "") -> None:
        """Copy files to a host."""
        for file in files:
            shutil.copy(file, self[host].files / (named or file.name))

    def _at(self, name: str) -> str:
        return str(self.office / name)

    # --- what runs where --------------------------------------------------------------------------------------------

    def _start_store(self) -> None:
        host, certs = self["store"], self.office / "certs"
        pair = Certificate(certs / "server-store.crt", certs / "server-store.key", certs / "ca.crt")
        prefix = host.spaces.enter(whole=False)
        self.store = S3Server(self._store_kind, host.files / "s3", host=host.address, prefix=prefix, tls=pair)
        self.store.start()
        self.give("hub", self.store.credentials, named="store.keys")
        self.give("hub", certs / "ca.crt")
        words = ["admin", "bucket", "init"]
        if self._store_kind == "minio":  # others make keys in ways of their own; then all have the owner's
            words += ["--keys", f"{self['hub'].home}/keys"]
        self._told("hub", "nasmesh", *words)
        made = self["hub"].run([PYTHON, "-m", "clients.cli.main", *words], environment=self.environment("hub"))
        assert made.returncode == 0, made.stderr
        self._give_keys("hub", "scheduler")

    def _start_database(self) -> None:
        host = self["database"]
        prefix = host.spaces.enter(whole=False)
        self.database = PostgresServer(host.files / "postgres", host=host.address, prefix=prefix)
        self.database.make()
        self.database.start()
        self.give("hub", self.database.passfile)

    @property
    def store_url(self) -> str:
        """The object store as every host names it."""
        assert self.store is not None
        port = self.store.endpoint.rpartition(":")[2]
        return f"s3://{BUCKET}?endpoint=store:{port}&ca={self['hub'].home}/ca.crt"

    @property
    def journal_url(self) -> str:
        """The scheduler's journal."""
        home = self["hub"].home
        if self.database is None:
            return f"sqlite:{home}/journal.db"
        where = f"nasmesh@database:{self.database.port}/postgres"
        return f"postgresql://{where}?sslmode=disable&passfile={home}/passfile"

    def environment(self, name: str) -> dict[str, str]:
        """Return what every program of a host is told."""
        home = self[name].home
        return {"NASMESH_STORE": self.store_url, "NASMESH_STORE_CREDENTIALS": f"{home}/store.keys"}

    def start_scheduler(self) -> None:
        """Start the scheduler where it is gone, and wait until it serves."""
        hub = self["hub"]
        ready = hub.files / "port"
        ready.unlink(missing_ok=True)
        shutil.copy(self.office / "tokens.json", hub.files)
        access = ["--tls-cert", f"{hub.home}/server-scheduler.crt", "--tls-key", f"{hub.home}/server-scheduler.key"]
        access += ["--tls-ca", f"{hub.home}/ca.crt", "--tokens", f"{hub.home}/tokens.json"]
        flags = ["--listen", f"0.0.0.0:{PORT}", "--journal", self.journal_url, "--port-file", f"{hub.home}/port"]
        self._start("hub", "scheduler", ["tests.hosts.short_leases", str(self.lease_s), *flags, *access])
        self._await("hub", "scheduler", ready.exists)

    def add(self, name: str, kind: str) -> None:
        """Add a host that runs one server, behind a firewall that lets nothing in; `await_agent` waits for it."""
        host = self.network.add(name)
        host.outbound_only()
        self.credentials(name)
        self._give_keys(name, kind)
        shutil.copy(self.office / "tokens.json", self["hub"].files)
        self.start_server(name, kind)

    def start_server(self, name: str, kind: str) -> None:
        """Start a host's server: one command."""
        home = self[name].home
        flags = ["--scheduler", f"hub:{PORT}", "--token-file", f"{home}/{name}.token"]
        flags += ["--cert-file", f"{home}/{name}.crt", "--key-file", f"{home}/{name}.key"]
        flags += ["--name", agent_name(name, kind).removeprefix("agents/"), "--label", f"room={name[-1]}"]
        self._told(name, "nasmesh", "serve", kind, *flags)
        self._start(name, kind, [MODULES[kind], *flags])

    def await_agent(self, name: str, kind: str) -> None:
        """Return when a host's server has been welcomed by the scheduler."""
        log = self.log(name, kind)
        self._await(name, kind, lambda: "scheduler_found" in log.read_text(errors="replace"))

    def await_lost(self, name: str, kind: str) -> None:
        """Return when the scheduler has found that the stream of a dead host's server is over, which takes its time.

        A dead host ends no stream. The scheduler does, once what it sent there, a ping at the latest, had no answer.
        """
        until = time.monotonic() + KEEPALIVE_S + KEEPALIVE_TIMEOUT_S + _SLACK_S
        while self.desk.agents()[agent_name(name, kind)].get("connected"):
            assert time.monotonic() < until, f"{name} is dead, and its stream still taken for open"
            threading.Event().wait(_LOST_LOOK_S)

    def kill9(self, name: str, program: str) -> None:
        """Kill a program."""
        self.programs.pop(f"{name}/{program}").kill9()

    def _told(self, name: str, *words: str) -> None:
        self.tell(f"{name}$ {shlex.join(words)}".replace(f"{self[name].home}/", ""))

    def log(self, name: str, program: str) -> Path:
        """Return where a program writes."""
        return self[name].files / f"{program}.log"

    def logs(self) -> str:
        """Return the ends of all logs."""
        found = sorted((self.network.directory / "hosts").glob("*/*.log"))
        return "\n".join(
            f"--- {log.parent.name}/{log.name}\n{log.read_text(errors='replace')[-_LOG_CHARS:]}" for log in found
        )

    def _start(self, name: str, program: str, module: list[str]) -> None:
        key = f"{name}/{program}"
        environment = self.environment(name)
        self.programs[key] = self[name].popen(
            [PYTHON, "-m", *module], log=self.log(name, program), environment=environment
        )

    def _await(self, name: str, program: str, is_there: Callable[[], bool]) -> None:
        running = self.programs[f"{name}/{program}"]
        until = time.monotonic() + _START_S
        while not is_there():
            over = running.process.poll() is not None or time.monotonic() > until
            assert not over, f"{name}/{program} does not serve: {self.log(name, program).read_text()[-3000:]}"
            threading.Event().wait(_LOOK_S)
