"""A real Slurm cluster on loopback: munged, slurmctld and slurmd as plain processes, one node with pretended GPUs.

The programs are Debian's, unpacked by scripts/tools.sh. The GPUs are /dev/null and /dev/zero: to Slurm a GPU is a
device file that it gives to one job at a time.
"""

import getpass
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2] / ".tools" / "slurm"
_START_S = 60.0
_STOP_S = 15.0
_POLL_S = 0.05
_GPUS = ("/dev/null", "/dev/zero")
CPUS, MEMORY_MIB, GPUS = 4, 4096, len(_GPUS)

_CONF = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
AuthType=auth/munge
AuthInfo=socket={home}/munge.sock,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser={user}
SlurmdUser={user}
PluginDir={plugins}
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
MailProg=/bin/true
SchedulerParameters=batch_sched_delay=0
ReturnToService=1
KillWait=2
MessageTimeout=3
GresTypes=gpu
Licenses=seat:2
NodeName=localhost NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:a100:{gpus} Feature=fast State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=60 DefaultTime=30 State=UP
PartitionName=closed Nodes=ALL State=DOWN
"""


class Slurm:
    """A running cluster; `environment` is what its commands need, for os.environ."""

    def __init__(self, home: Path) -> None:
        self.home = home
        libraries = [_ROOT / "usr/lib/x86_64-linux-gnu", _ROOT / "lib/x86_64-linux-gnu", _plugins()]
        self.environment = {
            "SLURM_CONF": str(home / "slurm.conf"),
            "LD_LIBRARY_PATH": ":".join(str(path) for path in libraries),
            "PATH": f"{_ROOT / 'usr/bin'}:{os.environ['PATH']}",
        }
        self._controller: subprocess.Popen[bytes] | None = None

    def run(self, *command: str) -> str:
        """Run one of Slurm's commands and return what it printed."""
        env = {**os.environ, **self.environment}
        return subprocess.run(command, env=env, check=True, capture_output=True, text=True, timeout=30).stdout.strip()

    def node(self, state: str) -> None:
        """Tell the cluster that its node is DOWN or may RESUME."""
        self.run("scontrol", "update", "NodeName=localhost", f"State={state}", "Reason=test")

    def stop_controller(self) -> None:
        """Take the controller away; jobs run on."""
        assert self._controller is not None
        _end(self._controller)
        self._controller = None

    def start_controller(self, *flags: str) -> None:
        """Start the controller, with flags ("-c" forgets all jobs), and wait until it answers."""
        self._controller = self._spawn("slurmctld", "-D", "-f", self.environment["SLURM_CONF"], *flags)
        self._until("sinfo --noheader --format=%T", lambda said: bool(said))

    def start_node(self) -> subprocess.Popen[bytes]:
        """Start the node and wait until jobs may run on it."""
        stepd = str(_ROOT / "usr/sbin/slurmstepd")
        node = self._spawn("slurmd", "-D", "-N", "localhost", "-f", self.environment["SLURM_CONF"], "-d", stepd)
        self._until("sinfo --noheader --partition=main --format=%T", lambda said: said == "idle")
        return node

    def start_munge(self) -> subprocess.Popen[bytes]:
        """Start the daemon that vouches for who sends what."""
        key = self.home / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        files = {"socket": "munge.sock", "key-file": key.name, "pid-file": "munged.pid", "log-file": "munged.log"}
        paths = [f"--{flag}={self.home / name}" for flag, name in {**files, "seed-file": "munged.seed"}.items()]
        daemon = self._spawn("munged", "--foreground", "--force", "--num-threads=2", *paths)
        self._until("munge --no-input --socket=" + str(self.home / "munge.sock"), lambda said: "MUNGE" in said)
        return daemon

    def _spawn(self, program: str, *flags: str) -> subprocess.Popen[bytes]:
        env = {**os.environ, **self.environment}
        with (self.home / f"{program}.out").open("ab") as output:
            return subprocess.Popen(
                [_ROOT / "usr/sbin" / program, *flags], env=env, stdout=output, stderr=output, start_new_session=True
            )

    def _until(self, command: str, holds) -> None:  # type: ignore[no-untyped-def]
        until, said = time.monotonic() + _START_S, ""
        while time.monotonic() < until:
            try:
                said = self.run(*command.split())
            except subprocess.CalledProcessError as error:
                said = error.stderr
            else:
                if holds(said):
                    return
            time.sleep(_POLL_S)
        raise AssertionError(f"{command}: {said}; see {self.home}")


@contextmanager
def slurm(home: Path) -> Iterator[Slurm]:
    """Run a cluster below a directory; skips the test, with the reason, where its programs are missing."""
    if not (_ROOT / "usr/sbin/slurmd").exists():
        pytest.skip("no Slurm in .tools/slurm: scripts/tools.sh unpacks Debian's")
    for name in ("state", "spool"):
        (home / name).mkdir(parents=True)
    home.chmod(0o755)
    ctld_port, slurmd_port = _free_ports(2)
    (home / "slurm.conf").write_text(
        _CONF.format(
            home=home,
            user=getpass.getuser(),
            plugins=_plugins(),
            ctld_port=ctld_port,
            slurmd_port=slurmd_port,
            cpus=CPUS,
            memory=MEMORY_MIB,
            gpus=GPUS,
        )
    )
    lines = [f"Name=gpu Type=a100 File={path}" for path in _GPUS]
    (home / "gres.conf").write_text("\n".join(["AutoDetect=off", *lines]) + "\n")
    cluster = Slurm(home)
    with ExitStack() as ends:
        ends.callback(_end, cluster.start_munge())
        ends.callback(lambda: cluster.stop_controller() if cluster._controller else None)
        cluster.start_controller()
        ends.callback(_end, cluster.start_node())
        ends.callback(lambda: cluster.run("scancel", f"--user={os.getuid()}") if cluster._controller else None)
        yield cluster


def _plugins() -> Path:
    return _ROOT / "usr/lib/x86_64-linux-gnu/slurm-wlm"


def _free_ports(count: int) -> Sequence[int]:
    """Return ports that nobody has now; Slurm's daemons take none of their own choice."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_STOP_S)
