"""Hosts that are really separate, on one machine: each has a network, a name, processes and a directory of its own.

A host is a set of Linux namespaces, held by one process and gone with it. Hosts meet at a bridge, in a namespace of its
own: nothing of this machine's own network is touched. Only root may do this; `missing` says what is not there.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

import psutil

from tests.e2e.mesh import ROOT, kill_all

NFT = ROOT / ".tools" / "bin" / "nft"
NETWORK = "10.77.0"
Direction = Literal["in", "out", "both"]
_READY_S = 20
_COMMAND_S = 30
_LOOK_S = 0.01

# Arguments: the host's name, its directory, where it sees that, where all of them are, the file with everybody's names.
_BOOT = """set -e
hostname "$1"
mount --bind "$2" "$3"
mount -t tmpfs -o size=64k nobody "$4"
mount --bind "$5" /etc/hosts
trap "" CHLD
echo ready
exec sleep 86400
"""

# What a GPU host lets in: answers to what it asked.
_OUTBOUND_ONLY = """table inet guard {
  counter refused { }
  chain input {
    type filter hook input priority 0; policy drop;
    iif "lo" accept
    ct state established,related accept
    counter name refused drop
  }
}
"""


def missing() -> str:
    """Return why there can be no hosts here; empty where there can."""
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    for tool in ("ip", "unshare", "nsenter", "mount"):
        if shutil.which(tool) is None:
            return f"there is no {tool}; on Debian: apt-get install iproute2 util-linux"
    if nft() is None:
        return "there is no nft; run scripts/tools.sh"
    return ""


def nft() -> str | None:
    """Return the command for firewall rules: this machine's, or the one that scripts/tools.sh brought."""
    return shutil.which("nft") or (str(NFT) if NFT.exists() else None)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Namespaces:
    """One set of namespaces, as long as its first process lives."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start the first process by a command that says "ready" when it has made itself at home."""
        kinds = ["--net", "--uts", "--pid", "--mount", "--mount-proc", "--fork", "--kill-child=KILL"]
        self._outer = subprocess.Popen(
            ["unshare", *kinds, "--", *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        assert self._outer.stdout is not None
        said = self._outer.stdout.readline()
        if said != "ready\n":
            self._outer.kill()
            raise AssertionError(f"no namespaces: exit code {self._outer.wait(_READY_S)}")
        self.first = psutil.Process(self._outer.pid).children()[0]

    def enter(self, *command: str, whole: bool = True) -> list[str]:
        """Return the command line that runs a command in here; not `whole`: in its network only, with our files."""
        kinds = ["-n", "-u", "-p", "-m", f"--wd={ROOT}"] if whole else ["-n"]
        return ["nsenter", "-t", str(self.first.pid), *kinds, "--", *command]

    def network(self, *command: str, feed: str | None = None) -> str:
        """Run a command on its network and return what it prints; it must succeed."""
        done = subprocess.run(
            self.enter(*command, whole=False), input=feed, capture_output=True, text=True, timeout=_COMMAND_S
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
        return done.stdout

    def end(self) -> None:
        """Kill its first process, and the kernel every other one with it."""
        self._outer.kill()  # which takes the first along
        self._outer.wait(_READY_S)
        # It is a zombie once all others in here have ended; whoever inherited it takes its time to look.
        until = time.monotonic() + _READY_S
        while _runs(self.first) and time.monotonic() < until:
            time.sleep(_LOOK_S)
        if self._outer.stdout is not None:
            self._outer.stdout.close()


class Host:
    """One machine: `files` is its directory seen from here, `home` the same seen from itself."""

    def __init__(self, network: "Network", name: str, address: str) -> None:
        """Start it and plug it in; use Network.add."""
        self.name = name
        self.address = address
        self.home = network.directory / "mine"
        self.files = network.directory / "hosts" / name
        self.files.mkdir(parents=True, exist_ok=True)
        places = (self.files, self.home, network.directory / "hosts", network.names)
        self.spaces = Namespaces(["sh", "-c", _BOOT, "boot", name, *map(str, places)])
        self.running = True
        self.is_guarded = False

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment of its programs: none of our variables but its own."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("NASMESH_")}
        fixed = {"NASMESH_HOME": str(self.home), "GRPC_ENABLE_FORK_SUPPORT": "0", "OMP_NUM_THREADS": "1"}
        return {**kept, **fixed, "COLUMNS": "200", **(extra or {})}

    def popen(
        self, command: Sequence[str], *, log: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> "Program":
        """Start a program; what it says goes to a log, or it is spoken with by its `stdin` and `stdout`."""
        out = log.open("ab") if log is not None else None
        try:
            process = subprocess.Popen(
                self.spaces.enter(*command),
                stdin=subprocess.PIPE if out is None else subprocess.DEVNULL,
                stdout=subprocess.PIPE if out is None else out,
                stderr=None if out is None else subprocess.STDOUT,
                env=self.environment(environment),
                start_new_session=True,
                text=out is None,
            )
        finally:
            if out is not None:
                out.close()
        return Program(process)

    def run(
        self, command: Sequence[str], *, environment: Mapping[str, str] | None = None, timeout_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.spaces.enter(*command),
            stdin=subprocess.DEVNULL,
            env=self.environment(environment),
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    # --- its firewall -----------------------------------------------------------------------------------------------

    def outbound_only(self) -> None:
        """Drop whatever dials in; answers to what it dials itself come through."""
        self._rules(_OUTBOUND_ONLY)
        self.is_guarded = True

    def refused(self) -> int:
        """Return how many packets `outbound_only` has dropped."""
        return self._dropped("guard", "refused")

    def cut(self, other: "Host", direction: Direction = "both") -> None:
        """Drop every packet from another host ("in"), to it ("out"), or both, until `heal`."""
        drops = {"in": f"ip saddr {other.address}", "out": f"ip daddr {other.address}"}
        chains = [
            f"chain {name} {{ type filter hook {hook} priority -10; {drops[way]} counter name cut drop\n}}\n"
            for way, name, hook in (("in", "arriving", "input"), ("out", "leaving", "output"))
            if direction in (way, "both")
        ]
        self._rules(f"table inet cut {{ counter cut {{ }}\n {' '.join(chains)}\n}}")

    def heal(self) -> int:
        """Take back every `cut`; returns how many packets were dropped."""
        dropped = self._dropped("cut", "cut") if "table inet cut" in self._nft("list", "tables") else 0
        self._rules("table inet cut { }\ndelete table inet cut\n")
        return dropped

    def unplug(self) -> None:
        """Take the cable out, for good."""
        self.spaces.network("ip", "link", "set", "eth0", "down")

    def _dropped(self, table: str, counter: str) -> int:
        found = self._nft("list", "counter", "inet", table, counter).split()
        return int(found[found.index("packets") + 1])

    def _nft(self, *words: str) -> str:
        return self.spaces.network(str(nft()), *words)

    def _rules(self, text: str) -> None:
        self.spaces.network(str(nft()), "-f", "-", feed=text)

    def kill(self) -> None:
        """End it as a power cut would: everything at once, and nobody hears of it."""
        if self.running:
            self.running = False
            self.unplug()
            self.spaces.end()


class Program:
    """A program on a host. The process here only waits for the one over there."""

    def __init__(self, process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
        """Hold a started one."""
        self.process = process

    def inner(self) -> psutil.Process:
        """Return the program itself."""
        return psutil.Process(self.process.pid).children()[0]

    def kill9(self) -> None:
        """Kill it and what it has started."""
        if self.process.poll() is None:
            inner = self.inner()
            kill_all([inner, *inner.children(recursive=True)])
        self.process.wait(_READY_S)

    def terminate(self, timeout_s: float = 30) -> int:
        """Ask it to end, and return its exit code."""
        self.inner().terminate()
        return self.process.wait(timeout_s)


class Network:
    """A bridge and the hosts at it; a context manager. Whatever was started is gone at its end."""

    def __init__(self, directory: Path) -> None:
        """Keep the hosts' files below a directory."""
        self.directory = directory
        self.names = directory / "names"
        self.hosts: dict[str, Host] = {}
        self._switch: Namespaces | None = None

    def __enter__(self) -> "Network":
        """Start the bridge."""
        (self.directory / "hosts").mkdir(parents=True, exist_ok=True)
        (self.directory / "mine").mkdir(exist_ok=True)
        self.names.write_text("127.0.0.1 localhost\n")
        self._switch = Namespaces(["sh", "-c", 'trap "" CHLD; echo ready; exec sleep 86400'])
        self._switch.network("ip", "link", "add", "bridge", "type", "bridge")
        self._switch.network("ip", "link", "set", "bridge", "up")
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        """End all hosts and the bridge."""
        for host in self.hosts.values():
            if host.running:
                host.spaces.end()
                host.running = False
        if self._switch is not None:
            self._switch.end()

    def add(self, name: str) -> Host:
        """Start a host and plug it in; the others know its name from now on."""
        assert self._switch is not None
        assert name not in self.hosts
        number = len(self.hosts) + 1
        address = f"{NETWORK}.{number}"
        with self.names.open("a") as names:  # the same file for all: it must not be replaced
            names.write(f"{address} {name}\n")
        host = Host(self, name, address)
        self.hosts[name] = host
        port, peer = f"port{number}", ["peer", "name", "eth0", "netns", str(host.spaces.first.pid)]
        self._switch.network("ip", "link", "add", port, "type", "veth", *peer)
        self._switch.network("ip", "link", "set", port, "master", "bridge", "up")
        for command in (f"addr add {address}/24 dev eth0", "link set eth0 up", "link set lo up"):
            host.spaces.network("ip", *command.split())
        return host
