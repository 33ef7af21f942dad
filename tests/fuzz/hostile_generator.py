"""A generator that attacks whoever runs it, by the name that its search carries. Runs in the sandbox, imports nothing.

An attack that returns says "held" and why, or "breached" and what it got; others end in another way that the test
expects of them.
"""

# ruff: noqa: T201, ARG001, SIM115

import base64
import ctypes
import json
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import threading

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x10000000, 0x20000000, 0x40000000
PTRACE_ATTACH = 16
FOREVER = threading.Event()


class BreachError(Exception):
    """The attack got what it wanted."""


def must_fail(what, errors=OSError):
    """Run something that the sandbox must refuse."""
    try:
        got = what()
    except errors as error:
        return f"{type(error).__name__}: {error}"
    raise BreachError(repr(got)[:200])


def libc(name, *arguments):
    """Call into libc; raises OSError where it says no."""
    if getattr(LIBC, name)(*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def read(path):
    with open(path, "rb") as file:
        return file.read(64)


# --- memory, processes, disk, time ---------------------------------------------------------------


def memory_private(asked):
    kept = []
    while True:
        kept.append(bytearray(os.urandom(1 << 20)) * 8)


def memory_shared(asked):
    kept = []
    while True:
        kept.append(mmap.mmap(-1, 16 << 20))
        kept[-1].write(b"x" * (16 << 20))


def memory_files(asked):
    kept = []
    while True:
        kept.append(os.memfd_create("hidden"))
        os.write(kept[-1], b"x" * (16 << 20))


def memory_family(asked):
    for _ in range(30):
        if os.fork() == 0:
            kept = bytearray(os.urandom(1 << 20)) * 40
            FOREVER.wait()
            del kept
    FOREVER.wait()


def memory_segments(asked):
    LIBC.shmget.restype = ctypes.c_int
    return must_fail(lambda: libc("shmget", 0, ctypes.c_size_t(64 << 20), 0o1600))


def disk_many_files(asked):
    written = 0
    try:
        for number in range(10_000):
            with open(f"/sandbox/{number}", "wb") as file:
                written += file.write(b"x" * (1 << 20))
    except OSError as error:
        if written <= 64 << 20:
            return f"{written} bytes, then {error}"
    raise BreachError(f"{written} bytes")


def disk_large_file(asked):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    file = os.open("/sandbox/large", os.O_CREAT | os.O_RDWR)
    return must_fail(lambda: os.ftruncate(file, 1 << 40))


def disk_inodes(asked):
    return must_fail(lambda: [os.close(os.open(f"/tmp/{n}", os.O_CREAT | os.O_RDWR)) for n in range(100_000)])


def processor_spin(asked):
    while True:
        pass


def processor_threads(asked):
    for _ in range(20):
        threading.Thread(target=processor_spin, args=(asked,)).start()


def fork_bomb(asked):
    while True:
        try:
            os.fork()
        except OSError:
            continue


def thread_bomb(asked):
    start = threading.Thread.start
    return must_fail(
        lambda: [start(threading.Thread(target=FOREVER.wait, daemon=True)) for _ in range(5000)],
        (OSError, RuntimeError),
    )


def sleep_long(asked):
    FOREVER.wait()


def sleep_deaf(asked):
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            continue
    FOREVER.wait()


def stop_self(asked):
    os.kill(os.getpid(), signal.SIGSTOP)
    FOREVER.wait()


def close_output_and_stay(asked):
    for number in (0, 1, 2):
        os.close(number)
    FOREVER.wait()


def raise_limits(asked):
    most = resource.RLIM_INFINITY
    for what in (resource.RLIMIT_DATA, resource.RLIMIT_NPROC, resource.RLIMIT_CPU, resource.RLIMIT_AS):
        must_fail(lambda what=what: resource.setrlimit(what, (most, most)), (OSError, ValueError))
    return must_fail(lambda: os.nice(-15))


def network_host(asked):
    return must_fail(lambda: socket.create_connection(("127.0.0.1", int(asked["port"])), 1))


def network_abstract(asked):
    client = socket.socket(socket.AF_UNIX)
    return must_fail(lambda: client.connect("\0" + asked["abstract"]))


def network_raw(asked):
    must_fail(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
    return must_fail(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))


def secret_private(asked):
    return must_fail(lambda: read(asked["private"]))


def secret_public(asked):
    return must_fail(lambda: read(asked["public"]))


def secret_system(asked):
    for path in ("/etc/shadow", "/etc/passwd", "/etc/hostname", "/root/.profile", "/root/.bashrc", "/proc/1/mem"):
        must_fail(lambda path=path: read(path))
    for path in ("/home", "/var", "/run", "/sys", "/boot", "/root/.ssh"):
        must_fail(lambda path=path: os.listdir(path))
    return "no accounts, no logs, no homes"


def secret_by_link(asked):
    os.symlink(asked["public"], "/sandbox/link")
    must_fail(lambda: read("/sandbox/link"))
    return must_fail(lambda: read("/sandbox/../../.." + asked["public"]))


def secret_by_proc(asked):
    for path in ("/proc/1/environ", "/proc/1/mem", "/proc/kcore", "/proc/1/root" + asked["public"], "/dev/mem"):
        must_fail(lambda path=path: read(path))
    return must_fail(lambda: os.listdir("/proc/1/fd"))


def secret_in_environment(asked):
    if any(asked["word"] in f"{name}={value}" for name, value in os.environ.items()):
        raise BreachError("the environment")
    return f"{len(os.environ)} variables"


def open_descriptors(asked):
    held = []
    for number in range(3, 4096):
        try:
            held.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            continue
    if held:
        raise BreachError(str(held))
    return "standard input, output and error, no others"


def write_outside(asked):
    places = ["/usr/bin/x", "/etc/x", "/x", "/program/x", "/dev/x", "/dev/shm/x", "/var/tmp/x", asked["folder"] + "/x"]
    for place in places:
        must_fail(lambda place=place: open(place, "w"))
    must_fail(lambda: os.chmod(sys.argv[0], 0o777))
    return must_fail(lambda: open(sys.argv[0], "a"))


# --- privileges, other processes ----------------------------------------------------------------------


def become_root(asked):
    must_fail(lambda: os.setuid(0))
    must_fail(lambda: os.setgroups([0]))
    return must_fail(lambda: os.setresuid(0, 0, 0))


def become_root_by_file(asked):
    for command in (["su", "-c", "id -u"], ["mount", "-t", "tmpfs", "x", "/sandbox"], ["newgrp", "root"]):
        try:
            done = subprocess.run(command, capture_output=True, timeout=1, stdin=subprocess.DEVNULL)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            raise BreachError(f"{command} {done.stdout!r}")
    return "no file lends rights"


def use_root_calls(asked):
    must_fail(lambda: libc("mount", b"none", b"/sandbox", b"tmpfs", 0, None))
    must_fail(lambda: libc("umount2", b"/proc", 2))
    must_fail(lambda: os.mknod("/sandbox/disk", 0o600 | 0o060000, os.makedev(8, 0)))
    must_fail(lambda: socket.sethostname("mine"))
    return must_fail(lambda: os.chroot("/sandbox"))


def unshare_again(asked):
    must_fail(lambda: libc("unshare", CLONE_NEWNET | CLONE_NEWNS))
    return must_fail(lambda: libc("unshare", CLONE_NEWUSER))


def unshare_and_look(asked):
    must_fail(lambda: libc("unshare", CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS))
    must_fail(lambda: libc("mount", b"proc", b"/sandbox", b"proc", 0, None))
    seen = [name for name in os.listdir("/proc") if name.isdigit()]
    if asked["server"] in seen:
        raise BreachError(str(seen))
    return str(seen)


def trace_others(asked):
    for process in (1, os.getppid(), int(asked["server"])):
        must_fail(lambda process=process: libc("ptrace", PTRACE_ATTACH, process, None, None))
    return "nobody may be traced"


def signal_parent(asked):
    must_fail(lambda: os.kill(os.getppid(), signal.SIGKILL))
    return must_fail(lambda: os.kill(int(asked["server"]), signal.SIGKILL))


def signal_everybody(asked):
    for process in range(1, 40_000):
        if process == os.getpid():
            continue
        try:
            os.kill(process, signal.SIGKILL)
        except OSError:
            continue
        raise BreachError(f"killed {process}")
    os.kill(-1, signal.SIGKILL)  # says that all is well even where it may not touch anybody
    return "nobody else can be reached"


def outlive_by_daemon(asked):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in (0, 1, 2):
                os.close(number)
            LIBC.prctl(1, 0, 0, 0, 0)  # no signal when the parent dies
            FOREVER.wait()
        os._exit(0)
    return "left a daemon behind"


def outlive_with_pipes(asked):
    if os.fork() == 0:
        os.setsid()
        FOREVER.wait()
    return "left a reader of the pipes behind"


def output_huge(asked):
    block = b"x" * (1 << 20)
    for _ in range(100):
        sys.stdout.buffer.write(block)


def output_endless(asked):
    while True:
        print("more", flush=True)


def output_garbage(asked):
    sys.stdout.buffer.write(os.urandom(10_000))
    sys.stdout.flush()
    os._exit(0)


def output_deep(asked):
    print('{"note":' + "[" * 200_000)
    sys.stdout.flush()
    os._exit(0)


def output_none(asked):
    os._exit(0)


def output_to_terminal(asked):
    sys.stderr.write("\x1b]0;title\x07\x1b[2J forged line\n" * 3)
    sys.stderr.flush()
    os._exit(3)


def errors_flood(asked):
    while True:
        os.write(2, b"x" * (1 << 16))


def too_many_proposals(asked):
    print(json.dumps({"proposals": [{"choices": {"values": {"a": "b"}}}] * 1001}))
    sys.stdout.flush()
    os._exit(0)


def too_much_state(asked):
    print(json.dumps({"state": base64.b64encode(bytes(2 << 20)).decode()}))
    sys.stdout.flush()
    os._exit(0)


def crash(asked):
    os.kill(os.getpid(), signal.SIGSEGV)


def main():
    if sys.argv[1] == "describe":
        print(json.dumps({"name": "generators/hostile", "version": "1"}))
        return
    request = json.load(sys.stdin)
    attack = request["search"].removeprefix("searches/").replace("-", "_")
    try:
        note = "held: " + str(globals()[attack](request.get("settings", {}))) if attack != "none" else "at work"
    except BreachError as breach:
        note = f"breached: {breach}"
    print(json.dumps({"note": note[:500]}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
