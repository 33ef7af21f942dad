"""What this machine is, for people and for the identity of measurements. Imports no engine."""

import functools
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


def threads_per_slot(slots: int) -> int:
    """Return how many threads each of `slots` jobs may use so that together they fill the machine."""
    return max(1, cpu_count() // slots)


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
