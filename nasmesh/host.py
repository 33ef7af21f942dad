"""What this machine is, for people and for the identity of measurements. Imports no engine."""

import functools
import math
import os
import shutil
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from nasmesh import __version__
from nasmesh.v1 import dataset_pb2
from nasmesh.v1 import job_pb2 as pb


@functools.cache
def cpu_model() -> str:
    """Return the processor's model name; "unknown" where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def cpu_count() -> int:
    """Return the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_QUOTAS = (Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))
"""Where Linux says how much processor time a container has in how much time: version 2 in one file, 1 in two."""


def granted_cpus(quotas: Sequence[Path] = _QUOTAS) -> int:
    """Return how many processors' time this process may use: those there are, or a container's quota, rounded up.

    With as many threads as a large host has processors, a container of two is stopped most of the time.
    """
    for path in quotas:
        try:
            words = path.read_text().split()
            if len(words) < 2:
                words += path.with_name("cpu.cfs_period_us").read_text().split()
            quota_us, period_us = int(words[0]), int(words[1])
        except (OSError, ValueError, IndexError):  # "max": no limit
            continue
        if quota_us > 0 and period_us > 0:
            return max(1, min(cpu_count(), math.ceil(quota_us / period_us)))
    return cpu_count()


def thread_environment(slots: int) -> dict[str, str]:
    """Return the environment in which each of `slots` jobs has its part of the processors and leaves others theirs.

    By itself OpenMP keeps a thread turning while it waits for another; where other programs have the processors, the
    one that it waits for does not run meanwhile, and a training's step took up to 27 times as long as with short waits.
    """
    return {
        "OMP_NUM_THREADS": str(max(1, granted_cpus() // slots)),
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "1000",  # GNU's: some microseconds, enough from one operator's end to the next one's begin
    }


def package_version(name: str) -> str:
    """Return an installed package's version without importing it; "absent" where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def describe_server(engine: str, *, slots: int, datasets: Sequence[dataset_pb2.Dataset]) -> pb.Server:
    """Return what a server of this machine says of itself; `engine` as "name version"."""
    return pb.Server(
        engine=engine,
        version=__version__,
        devices=devices(),
        slots=slots,
        datasets=datasets,
        process_id=os.getpid(),
    )


@functools.cache
def devices() -> tuple[pb.Device, ...]:
    """Return the processor and every NVIDIA GPU that nvidia-smi lists."""
    return (pb.Device(id="cpu", model=cpu_model(), memory_bytes=_memory_bytes()), *_gpus())


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


_GROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def usable_memory_bytes(limits: Sequence[Path] = _GROUP_LIMITS) -> int:
    """Return the memory that programs here may fill: the machine's, or less where a container bounds them."""
    bounds = [_memory_bytes()]
    for file in limits:
        try:
            bounds.append(int(file.read_text()))
        except (OSError, ValueError):  # "max", or another kind of system
            continue
    return min(bounds)


def compute_device() -> pb.Device:
    """Return the device that jobs compute on: the first GPU that is visible to this process, else the processor."""
    cpu, *gpus = devices()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not gpus:
        return gpus[0] if gpus else cpu
    first = visible.split(",")[0].strip()
    if first.isdigit():
        return next((gpu for gpu in gpus if gpu.id == f"cuda:{first}"), cpu)
    # "GPU-…" and "MIG-…" name one whose figures only its driver tells; "" and "-1" hide them all.
    return gpus[0] if first and first != "-1" else cpu


def killed_for_memory(counters: Path = Path("/proc/vmstat")) -> int:
    """Return how many processes this machine's kernel has ended for want of memory; 0 where it does not tell."""
    try:
        lines = counters.read_text().splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
    except (OSError, ValueError, IndexError):
        return 0


def _gpus() -> list[pb.Device]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=index,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        listing = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
        rows = [[part.strip() for part in line.split(",")] for line in listing.splitlines()]
        return [pb.Device(id=f"cuda:{i}", model=name, memory_bytes=int(mib) << 20) for i, name, mib in rows]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []  # a driver without devices fails in many ways; then there is nothing to compute on
