"""How a program that we did not write is shut in: the command that starts it, and what must be there for that.

unshare gives it a network, process, mount, host-name and IPC space of its own, all empty; its root is a fresh
file system in memory that shows the system's programs, read-only, and nothing of this machine besides; setpriv makes it
an unused user who can gain no privileges; prlimit bounds each of its processes. A shell of root is the first process
of its space: when that ends, for whatever reason, the kernel ends everything else in it.
"""

import itertools
import os
import pwd
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nasmesh.errors import Unavailable
from nasmesh.limits import MIB

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
TOOLS = ("unshare", "setpriv", "prlimit", "mount", "umount", "pivot_root", "nice", "timeout", "mkdir", "sh")
"""Commands of util-linux and of every system."""

READY = b"\x06"
"""What the shell writes before the program starts: without it, the space could not be made."""

PROGRAM_PLACE = "/program"
WORK_PLACE = "/sandbox"
# Users that no distribution gives out: those that systemd keeps for services without a user of their own.
_USERS = range(61184, 65520)
_SPARE_S = 5.0
_turn = itertools.count(os.getpid())

# $1: root to be, $2: fstab, $3: bytes of its file system, $4: user, $5: directories, $6: empty files to mount over.
# The program's root is not that of its space: a program whose root was changed may make no user space of its own (nor,
# with that, any other), where it would be root to much of the kernel that is otherwise out of its reach.
# The last line is not the program's: a shell that executes its last command in its own place would make the program
# the first process of the space, and that one could let others outlive it.
_SCRIPT = r"""
set -eu
root=$1 table=$2 size=$3 user=$4 folders=$5 files=$6
shift 6
mount -t tmpfs -o "size=$size,nr_inodes=8192,mode=755,nosuid,nodev" sandbox "$root"
cd "$root"
IFS='
'
mkdir -p $folders old inner
for file in $files; do : > "$file"; done
chown "$user:$user" sandbox tmp
chmod 700 sandbox tmp
mount -a -T "$table"
pivot_root . old
cd /
umount -l /old
rmdir /old
mount --rbind / /inner
echo 0 > /proc/sys/kernel/shmall
echo 1000 > /proc/self/oom_score_adj
printf '\006'
set +e
unshare --root=/inner --wd=/sandbox -- "$@"
exit $?
"""


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What one run of a program may use, all its processes together unless it says "each"."""

    memory_bytes: int = 512 * MIB
    """Memory; also the most private memory that each process may map."""
    time_s: float = 60.0
    """Time by the clock on the wall; the processor time of each process is bounded by the same number."""
    processes: int = 64
    """Processes and threads."""
    files: int = 128
    """Open files of each process."""
    disk_bytes: int = 64 * MIB
    """Files, all in memory; gone when the run ends."""
    output_bytes: int = 64 * MIB
    """What it may write to standard output, and to standard error."""


def require_tools() -> None:
    """Raise Unavailable (SANDBOX_UNAVAILABLE) unless this process is root on a Linux with util-linux."""
    missing = [tool for tool in TOOLS if shutil.which(tool, path=PATH) is None]
    if missing:
        raise unavailable(f"{', '.join(missing)} missing; install util-linux and coreutils")
    if os.geteuid() != 0:
        raise unavailable("only root may shut a program in; start this server as root, best in a container of its own")


def unavailable(why: str) -> Unavailable:
    """Return the refusal to run a program that cannot be shut in."""
    return Unavailable(
        "SANDBOX_UNAVAILABLE", f"the program is not run, since it cannot be shut in here: {why}", field="program"
    )


def free_user() -> int:
    """Return a user id that has no name here; the next call returns another, so that runs share no limits."""
    for _ in _USERS:
        user = _USERS[next(_turn) % len(_USERS)]
        try:
            pwd.getpwuid(user)
        except KeyError:
            return user
    raise unavailable(f"every user id from {_USERS.start} to {_USERS.stop - 1} has a name")


@dataclass(frozen=True, slots=True)
class Mount:
    """A file or directory of this machine that the program sees, read-only, at `place` (absolute)."""

    source: Path
    place: str


def system_mounts(exposed: Sequence[Path]) -> list[Mount]:
    """Return the system's programs and libraries, and what is exposed besides, each at its own place."""
    wanted = [Path(name) for name in ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache")]
    wanted += [Path("/etc/alternatives"), *(Path("/dev") / name for name in ("null", "zero", "full", "urandom"))]
    return [Mount(path, str(path)) for path in (*wanted, *exposed) if path.exists()]


def confined(
    arguments: Sequence[str], *, base: Path, mounts: Sequence[Mount], user: int, limits: SandboxLimits
) -> list[str]:
    """Return the command that runs `arguments` shut in; `base` is an empty directory of the caller."""
    root, table = base / "root", base / "fstab"
    root.mkdir()
    lines = [_fstab_line(mount, root) for mount in mounts]
    lines.append(f"proc {_escaped(root)}/proc proc nosuid,nodev,noexec,hidepid=invisible 0 0")
    table.write_text("\n".join(lines) + "\n")
    folders = ["sandbox", "tmp", "proc", *(_inside(mount.place) for mount in mounts if mount.source.is_dir())]
    files = [_inside(mount.place) for mount in mounts if not mount.source.is_dir()]
    folders += [str(Path(name).parent) for name in files]
    return [
        *("unshare", "--net", "--pid", "--mount", "--ipc", "--uts", "--fork", "--kill-child=SIGKILL"),
        *("--propagation", "private", "--", "sh", "-c", _SCRIPT, "sandbox"),
        *(str(root), str(table), str(limits.disk_bytes), str(user), "\n".join(folders), "\n".join(files)),
        # Should this server be killed, nobody else would look at the clock.
        *("timeout", "--signal=KILL", str(limits.time_s + _SPARE_S), "nice", "-n", "10"),
        *_bounded(limits),
        *("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs"),
        *("--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--pdeathsig=KILL", "--"),
        *arguments,
    ]


def _bounded(limits: SandboxLimits) -> list[str]:
    seconds = max(1, int(limits.time_s) + 1)
    bounds = {
        "data": limits.memory_bytes,
        # Runtimes such as Go's and Java's reserve far more addresses than they use.
        "as": 16 * limits.memory_bytes,
        "cpu": seconds,
        "nproc": limits.processes,
        "nofile": limits.files,
        "fsize": limits.disk_bytes,
        "core": 0,
        "memlock": 0,
        "msgqueue": 0,
    }
    return ["prlimit", *(f"--{name}={number}" for name, number in bounds.items()), "--"]


def _fstab_line(mount: Mount, root: Path) -> str:
    # Devices are the four harmless ones; what is exposed may hold programs, none of which can gain privileges.
    kind = "nosuid" if mount.place.startswith("/dev/") else "nosuid,nodev"
    return f"{_escaped(mount.source)} {_escaped(root)}{_escaped(mount.place)} none bind,ro,{kind} 0 0"


def _inside(place: str) -> str:
    return place.lstrip("/")


def _escaped(path: Path | str) -> str:
    return "".join(f"\\{ord(char):03o}" if char in " \t\n\\#" else char for char in str(path))
