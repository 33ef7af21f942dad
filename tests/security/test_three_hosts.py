"""The commands of docs/security.md, one after the other, as real processes; three hosts are three ports of this one."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nasmesh.client import Client, ClientAccess
from nasmesh.client.patience import Patience, call_patiently
from nasmesh.errors import Unavailable

DOCUMENT = Path("docs/security.md")
SERVE = "nasmesh serve "
LIST = "nasmesh search list --scheduler hub:7400"


def commands() -> list[str]:
    """Return the commands of the document in order."""
    blocks = re.findall(r"^```sh\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


class Hosts:
    """Runs commands in one directory; programs go on until the end."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.address = ""
        self._programs: list[subprocess.Popen[bytes]] = []
        kept = {name: value for name, value in os.environ.items() if not name.startswith("NASMESH_")}
        self._environment = {**kept, "NASMESH_HOME": str(directory / "home"), "PYTHONPATH": os.getcwd()}

    def start(self, line: str) -> None:
        """Start a program of `nasmesh serve` on a free port, and wait until it serves."""
        words = shlex.split(self._here(line))[1:]
        name = words[1]
        port_file = self.directory / f"{name}.port"
        if name == "scheduler":
            words[words.index("--listen") + 1] = "0.0.0.0:0"
        else:
            words += ["--listen", "127.0.0.1:0"]
        command = [sys.executable, "-m", "clients.cli.main", *words, "--port-file", str(port_file)]
        log = (self.directory / f"{name}.log").open("wb")
        program = subprocess.Popen(command, cwd=self.directory, env=self._environment, stdout=log, stderr=log)
        self._programs.append(program)

        def serves() -> str:
            if program.poll() is not None:
                pytest.fail(f"{line}: {(self.directory / f'{name}.log').read_text()[-500:]}")
            if not port_file.exists():
                raise Unavailable("NOT_YET", "no address yet")
            return port_file.read_text().strip()

        address = call_patiently(serves, Patience(60.0))
        if name == "scheduler":
            self.address = f"127.0.0.1:{address.rpartition(':')[2]}"

    def run(self, line: str) -> str:
        """Run a command and return what it prints; it must succeed."""
        done = self.try_(line)
        assert done.returncode == 0, f"{line}: {done.stderr}"
        return done.stdout

    def try_(self, line: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "clients.cli.main", *shlex.split(self._here(line))[1:]]
        return subprocess.run(
            words, cwd=self.directory, env=self._environment, capture_output=True, text=True, timeout=60, check=False
        )

    def stop(self) -> None:
        for program in reversed(self._programs):
            program.send_signal(signal.SIGTERM)
        for program in self._programs:
            program.wait(60)

    def _here(self, line: str) -> str:
        return line.replace("hub:7400", self.address)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    made = Hosts(tmp_path)
    yield made
    made.stop()


def test_every_command_of_the_three_hosts_works(hosts: Hosts) -> None:
    lines = commands()
    assert len(lines) == 15
    printed: dict[str, str] = {}
    for line in lines:
        if line.startswith("nasmesh agents"):
            everybody_is_there(hosts)
        if line.startswith(SERVE):
            hosts.start(line)
        else:
            printed[line] = hosts.run(line)
        if line.startswith("nasmesh token revoke"):
            refused = hosts.try_(
                "nasmesh search list --scheduler hub:7400 --ca-file certs/ca.crt --token-file alice.token"
            )
            assert (refused.returncode, "revoked" in refused.stderr) == (1, True)
    agents = next(text for line, text in printed.items() if line.startswith("nasmesh agents"))
    assert all(f"gpu1-{kind}" in agents for kind in ("generate", "train", "evaluate"))
    listed = next(text for line, text in printed.items() if line.startswith("nasmesh hosts"))
    assert "generate 1; train 1" in listed.replace("evaluate 1; ", "")
    anonymous = hosts.try_(f"{LIST} --ca-file certs/ca.crt")
    assert (anonymous.returncode, "--token-file" in anonymous.stderr) == (1, True)
    plain = hosts.try_(LIST)
    assert plain.returncode == 3
    hosts.run(f"{LIST} --ca-file certs/ca.crt --token-file root.token")


def everybody_is_there(hosts: Hosts) -> None:
    """Return when the three agents have connected."""
    access = ClientAccess(hosts.directory / "certs/ca.crt", token=hosts.directory / "root.token")
    with Client(hosts.address, access=access) as client:

        def ask() -> None:
            if sum(agent.connected for agent in client.agents()) < 3:
                raise Unavailable("NOT_YET", "agents are missing")

        call_patiently(ask, Patience(60.0))
