"""deploy/compose.yaml without Docker: its scripts make access and keys, its commands run as processes, a search ends.

Names of services become ports of this machine and /access each service's own folder; nothing else is changed.
"""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.builders import deployments, postgres_server, s3_servers
from tests.builders.deployments import DEPLOY, ROOT, Command
from tests.builders.postgres_server import PostgresServer
from tests.builders.s3_servers import Certificate, S3Server
from tests.e2e.mesh import await_port_file, clean_environment
from tests.e2e.specs import TINY

PROGRAMS = ("scheduler", "generate", "train", "evaluate")
NASMESH = (sys.executable, "-m", "clients.cli.main")
pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", autouse=True)
def servers() -> None:
    why = s3_servers.absent("minio") or postgres_server.absent()
    if why:
        assert os.environ.get("CI") != "true", why
        pytest.skip(why)


class Composed:
    """The services of compose.yaml as processes below one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.access = directory / "access"
        self.project = deployments.compose("compose.yaml")
        self.places: dict[str, str] = {}
        """What stands here for a service's address."""
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        (directory / "bin").mkdir()
        shim = directory / "bin" / "nasmesh"
        shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m clients.cli.main "$@"\n')
        shim.chmod(0o755)

    def here(self, text: str, access: Path) -> str:
        """Return a word of compose.yaml as this machine has it."""
        for there, place in self.places.items():
            text = text.replace(there, place)
        return text.replace("/access", str(access)).replace("0.0.0.0:", "127.0.0.1:")

    def environment(self, service: str, given: Mapping[str, str], access: Path) -> dict[str, str]:
        home = self.directory / service
        own = {name: self.here(value, access) for name, value in given.items()}
        paths = {"PYTHONPATH": str(ROOT), "PATH": f"{self.directory / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        return clean_environment(home) | {"NASMESH_HOME": str(home)} | own | paths

    def script(self, service: str, *arguments: str) -> None:
        """Run the script that is a service's entry point, as it is, on this machine's folders."""
        found: dict[str, Any] = self.project["services"][service]
        program = DEPLOY / "compose" / f"{service}.sh"
        assert found["entrypoint"][:2] == ["sh", f"/{service}.sh"]
        assert len(found["entrypoint"]) == 2 + len(arguments)
        environment = self.environment(service, found.get("environment") or {}, self.access)
        done = subprocess.run(
            ["sh", str(program), *arguments], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self, found: Command) -> str:
        """Start one of our programs on free ports and return where it serves."""
        name = found.program
        port_file = self.directory / f"{name}.port"
        words = [self.here(word, self.access / name) for word in found.words]
        words = [word.rpartition(":")[0] + ":0" if word.startswith("--metrics=") else word for word in words]
        words = [word for word in words if not word.startswith("--listen=")]
        with (self.directory / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen(
                [*NASMESH, *words, "--listen=127.0.0.1:0", f"--port-file={port_file}"],
                env=self.environment(name, found.environment, self.access / name),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return await_port_file(self.running[name], port_file)

    def nasmesh(self, service: str, *words: str, timeout_s: float = 240.0) -> str:
        """Run a command with the environment and the folder of a service, and return what it prints."""
        folder = self.access / ("client" if service == "cli" else service)
        given = self.project["services"][service]["environment"]
        environment = self.environment(f"{service}-command", given, folder)
        command = [*NASMESH, *(self.here(word, folder) for word in words)]
        done = subprocess.run(
            command, env=environment, cwd=self.directory, capture_output=True, text=True, timeout=timeout_s
        )
        assert done.returncode == 0, f"nasmesh {' '.join(words)}: {done.stderr}\n{self.logs()}"
        return done.stdout

    def logs(self) -> str:
        return "\n".join(
            f"--- {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.directory.glob("*.log"))
        )

    def stop(self) -> dict[str, int]:
        """End every program as `docker compose stop` would, and return their exit codes."""
        for program in self.running.values():
            program.terminate()
        return {name: program.wait(60) for name, program in self.running.items()}

    def close(self) -> None:
        for program in self.running.values():
            if program.poll() is None:
                program.kill()
                program.wait()


@pytest.fixture
def composed(tmp_path: Path) -> Iterator[Composed]:
    with ExitStack() as stack:
        found = Composed(tmp_path)
        stack.callback(found.close)
        found.script("access", str(found.access))
        minio = object_store(found)
        stack.callback(minio.kill)
        database = postgres(found)
        stack.callback(database.stop)
        found.places |= {"minio:9000": minio.endpoint, "postgres:5432": f"127.0.0.1:{database.port}"}
        found.places["sslmode=verify-full"] = "sslmode=disable"
        found.script("bucket", str(found.access), str(DEPLOY / "s3"))
        yield found


def object_store(found: Composed) -> S3Server:
    """Start MinIO with the certificate, the name and the password that access.sh made for it."""
    made = found.access / "minio"
    tls = Certificate(made / "public.crt", made / "private.key", found.access / "client" / "ca.crt")
    server = S3Server("minio", found.directory / "minio", tls=tls)
    server.access_key, server.secret_key = (made / "user").read_text(), (made / "password").read_text()
    server.start()
    return server


def postgres(found: Composed) -> PostgresServer:
    """Start PostgreSQL with the password that access.sh made for it; the build that tests have knows no TLS."""
    made, server = found.access / "postgres", PostgresServer(found.directory / "postgres")
    server.make()
    server.start()
    with server.connect() as database:
        database.execute("CREATE DATABASE nasmesh")
        database.execute(f"ALTER USER nasmesh PASSWORD '{(made / 'password').read_text()}'")
    passfile = found.access / "scheduler" / "passfile"
    passfile.write_text(passfile.read_text().replace("postgres:5432", f"127.0.0.1:{server.port}"))
    return server


@pytest.mark.timeout(900)
def test_the_mesh_of_compose_when_a_search_is_created_then_it_succeeds(composed: Composed) -> None:
    commands = {found.program: found for found in deployments.compose_commands(composed.project) if found.program}
    probes = {c.where.split()[1]: c for c in deployments.compose_commands(composed.project) if c.words[0] == "health"}
    assert set(commands) == set(PROGRAMS) == set(probes)
    for name in PROGRAMS:
        composed.places[f"{name}:7400"] = address = composed.start(commands[name])
        assert "SERVING" in composed.nasmesh(
            name, *(address if ":740" in word else word for word in probes[name].words)
        )
    (composed.directory / "tiny.yaml").write_text(TINY)
    # The CLI has no key of the object store: it reads what it needs through the scheduler.
    told = composed.nasmesh("cli", "search", "create", "-f", "tiny.yaml", "--id", "tiny", "--wait", "--json")
    assert json.loads(told.splitlines()[-1])["state"] == "SEARCH_STATE_SUCCEEDED", told
    agents = {agent["name"] for agent in json.loads(composed.nasmesh("cli", "agents", "--json"))}
    assert agents == {"agents/mesh-generate", "agents/mesh-train", "agents/mesh-evaluate"}
    check_access_made_again(composed)
    assert len(json.loads(composed.nasmesh("cli", "agents", "--json"))) == 3  # with the new certificate
    assert composed.stop() == dict.fromkeys(PROGRAMS, 0)
    log = "".join(path.read_text() for path in composed.directory.glob("*.log"))
    assert '"level": "error"' not in log
    for name in ("minio", "postgres"):
        assert (composed.access / name / "password").read_text() not in log, "a secret is in a log"


def check_access_made_again(found: Composed) -> None:
    """Assert that what access.sh made is nobody else's and stays, but for certificates, when it runs again."""
    for path in found.access.rglob("*"):
        assert not path.lstat().st_mode & (stat.S_IRWXG | stat.S_IRWXO), path
        if os.geteuid() == 0 and path.is_dir():
            owner = {"authority": 0, "minio": 0, "postgres": 999}.get(path.relative_to(found.access).parts[0], 10001)
            assert path.lstat().st_uid in (owner, 0 if path.name == "roles" else owner), path
    kept = ["client/token", "minio/password", "postgres/password", "store/owner.keys", "authority/ca.crt"]
    before = {name: (found.access / name).read_text() for name in kept}
    certificate = (found.access / "scheduler" / "tls.crt").read_text()
    found.script("access", str(found.access))
    assert {name: (found.access / name).read_text() for name in kept} == before
    assert (found.access / "scheduler" / "tls.crt").read_text() != certificate
