"""A machine whose first process is systemd: namespaces of its own over this machine's files, none of which it changes.

What it writes goes to memory and is gone with it. Only root may do this; `missing` says what is not there.
"""

import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.builders.netns import Namespaces
from tests.builders.netns import missing as no_namespaces
from tests.e2e.mesh import ROOT

INIT = next((path for path in map(Path, ("/usr/lib/systemd/systemd", "/lib/systemd/systemd")) if path.exists()), None)
"""Debian's and Fedora's place of it, and that of those who keep their programs elsewhere."""
CHECKOUT, PYTHON = "/opt/checkout", "/opt/python"
_STARTED_S = 60.0
_COMMAND_S = 120.0
_LOOK_S = 0.1

# Arguments: its directory here, the checkout, Python's prefix, a folder that both see, systemd. In a group of processes
# of its own, which is then the root of all that it sees.
_BOOT = """set -e
root=$1/root; mkdir -p $root $1/groups
mount -t cgroup2 groups $1/groups
mkdir -p $1/groups/nasmesh-$$
echo $$ > $1/groups/nasmesh-$$/cgroup.procs
echo $$ > $1/group
exec unshare --cgroup --ipc -- sh -c "$6" boot "$@"
"""
_BOOT_WITHIN = """set -e
root=$1/root; mkdir -p $1/memory
mount -t tmpfs -o size=512m memory $1/memory
mkdir $1/memory/upper $1/memory/work
mount -t overlay -o lowerdir=/,upperdir=$1/memory/upper,workdir=$1/memory/work overlay $root
# Kernel settings are everybody's: they can be read here, and services of this machine that would change them stay out.
mount -t proc proc $root/proc
mount --bind $root/proc/sys $root/proc/sys
mount -o remount,bind,ro $root/proc/sys
mount -t sysfs -o ro sysfs $root/sys
for wanted in $root/usr/lib/systemd/system/*.target.wants/* $root/etc/systemd/system/*.target.wants/*; do
  ln -sf /dev/null $root/etc/systemd/system/${wanted##*/}
done
mount -t cgroup2 groups $root/sys/fs/cgroup
mount -t tmpfs run $root/run
mount -t tmpfs -o mode=1777 tmp $root/tmp
mount -t tmpfs -o mode=755 dev $root/dev
for name in null zero full random urandom tty; do
  touch $root/dev/$name; mount --bind /dev/$name $root/dev/$name
done
mkdir $root/dev/shm $root/dev/pts
mount -t tmpfs -o mode=1777 shm $root/dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts $root/dev/pts
ln -s pts/ptmx $root/dev/ptmx
mkdir -p $root/opt/checkout $root/opt/python $root$4
mount --bind $2 $root/opt/checkout
mount --bind $3 $root/opt/python
mount --bind $4 $root$4
: > $root/etc/machine-id
printf '[Unit]\nDescription=A machine of tests\nAllowIsolate=yes\n' > $root/etc/systemd/system/tests.target
ip link set lo up
hostname tests
echo ready
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot $root $5 --system --unit=tests.target \
  --show-status=false >/dev/null 2>&1
"""


def missing() -> str:
    """Return why there can be no such machine here; empty where there can."""
    if INIT is None or shutil.which("systemctl") is None:
        return "there is no systemd; on Debian: apt-get install systemd"
    return no_namespaces()


class Machine:
    """One machine; a context manager. `shared` is a folder that both see at one path; all else is its own."""

    def __init__(self, directory: Path) -> None:
        """Keep what it needs below a directory."""
        self._directory = directory / "machine"
        self.shared = directory / "shared"
        self._spaces: Namespaces | None = None

    def __enter__(self) -> "Machine":
        """Start it, and wait until it is up."""
        self._directory.mkdir(parents=True)
        self.shared.mkdir()
        words = [self._directory, ROOT, sys.base_prefix, self.shared, INIT, _BOOT_WITHIN]
        self._spaces = Namespaces(["sh", "-c", _BOOT, "boot", *map(str, words)])
        try:
            self.until(["systemctl", "is-system-running"], {"running", "degraded"})
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        """End it with all that runs there."""
        self._end()

    def _end(self) -> None:
        if self._spaces is not None:
            self._spaces.end()
        # Its groups are this machine's: they are left behind empty, and are not files that one could just remove.
        group = (self._directory / "group").read_text().strip()
        groups = self._directory / "groups"
        script = 'mount -t cgroup2 groups "$1" && find "$1/nasmesh-$2" -depth -type d -exec rmdir {} +'
        subprocess.run(["unshare", "--mount", "sh", "-c", script, "groups", str(groups), group], check=True)

    def enter(self) -> list[str]:
        """Return what a command line begins with that runs in it."""
        assert self._spaces is not None
        return ["nsenter", "-t", str(self._spaces.first.pid), "-n", "-u", "-p", "-m", "-i", "-C", "-r", "-w", "--"]

    def ask(self, command: Sequence[str], *, timeout_s: float = _COMMAND_S) -> subprocess.CompletedProcess[str]:
        """Run a command in it as root, to its end."""
        kept = {"PATH": f"{PYTHON}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
        return subprocess.run(
            [*self.enter(), *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={**kept, "COLUMNS": "200"},
        )

    def run(self, line: str, *, timeout_s: float = _COMMAND_S) -> str:
        """Run a line of a page in the checkout, and return what it prints; it must succeed."""
        done = self.ask(["sh", "-c", f"cd {CHECKOUT} && {line}"], timeout_s=timeout_s)
        assert done.returncode == 0, f"{line}: {done.stderr}{done.stdout}"
        return done.stdout

    def write(self, path: str, text: str, *, mode: str = "644") -> None:
        """Write a file of root's."""
        self.ask(["mkdir", "-p", str(Path(path).parent)])
        done = subprocess.run(
            [*self.enter(), "tee", path], input=text, stdout=subprocess.DEVNULL, text=True, check=False
        )
        assert done.returncode == 0, path
        self.run(f"chmod {mode} {path}")

    def until(self, command: Sequence[str], answers: set[str], *, within_s: float = _STARTED_S) -> None:
        """Ask until a command says one of these."""
        ends, said = time.monotonic() + within_s, ""
        while time.monotonic() < ends:
            done = self.ask(command)
            said = done.stdout.strip()
            if said in answers:
                return
            time.sleep(_LOOK_S)
        raise AssertionError(f"{shlex.join(command)} says {said!r}, not one of {sorted(answers)}: {done.stderr}")

    def shown(self, unit: str, name: str) -> str:
        """Return what systemd says of a property of a unit."""
        return self.run(f"systemctl show --property={name} --value {unit}").strip()

    def install_python(self) -> None:
        """Have this interpreter find its libraries where units, which see nobody's home, run it; python3 is that."""
        self.write("/etc/ld.so.conf.d/python.conf", f"{PYTHON}/lib\n")
        self.run("ldconfig")

    def install_nasmesh(self, environment: str) -> None:
        """Have an environment find the packages of ours, and nasmesh, as pip would have installed them."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        here = f"{environment}/lib/{version}/site-packages"
        packages = f"{CHECKOUT}/.venv/lib/{version}/site-packages"
        assert (ROOT / ".venv" / "lib" / version).is_dir(), "these tests run in the checkout's own environment"
        self.write(f"{here}/checkout.pth", f"{packages}\n{CHECKOUT}\n")
        script = f"#!{environment}/bin/python3\nfrom clients.cli.main import main\nmain()\n"
        self.write(f"{environment}/bin/nasmesh", script, mode="755")
