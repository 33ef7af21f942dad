"""Bounds what a job may hold, by its process's address space: an allocation beyond it fails there and then.

Without that the first to notice would be the machine, which ends some process or other, perhaps not this one.
"""

import contextlib
import ctypes
import gc
import resource
from collections.abc import Iterator
from pathlib import Path

from nasmesh.host import cpu_count
from nasmesh.limits import MIB

# Address space that is reserved and never filled: stacks of threads that start during the job, and the heaps that the C
# library sets aside for them.
_RESERVED = 192 * MIB
_RESERVED_EACH = 16 * MIB


def has_gpu() -> bool:
    """Say whether this machine has an NVIDIA driver: that maps far more than it uses, so addresses bound nothing."""
    return Path("/dev/nvidiactl").exists()


@contextlib.contextmanager
def bounded(memory_bytes: int) -> Iterator[None]:
    """Let this process grow by so much inside, and no more; 0: no bound. What earlier jobs left is given back first."""
    if memory_bytes <= 0:
        yield
        return
    give_back()
    if has_gpu():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = _address_space() + memory_bytes + _RESERVED + _RESERVED_EACH * cpu_count()
    bound = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_AS, (bound, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def settle() -> None:
    """Take what a fresh process has imported out of every later search for garbage."""
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Return memory that nothing uses to the machine."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # not the GNU C library
        ctypes.CDLL(None).malloc_trim(0)


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()
