"""How the C library keeps memory for a training's process. Imports no torch, and calls nothing of the C library.

All of it is asked for by the environment: GNU's library reads it, and any other (musl, macOS's, jemalloc and the like
put before it) passes it over. What it says changes no result.
"""

from collections.abc import Mapping
from pathlib import Path

_KEEPING = {
    # Each heap that the C library opens for a thread sets 64 MiB of addresses aside, which jobs are bounded by.
    "MALLOC_ARENA_MAX": "2",
    # By itself it gives a step's tensors back to the kernel and has the next step's filled with zeros, page by page:
    # a tenth of a small convolutional network's step. What is kept goes back before the next job (nasmesh.jobs.bounds).
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
}
_TUNABLES = "GLIBC_TUNABLES"
# Huge pages where the machine allows them: another tenth, of looking up where small ones are.
_HUGE = "glibc.malloc.hugetlb"
_HUGE_BYTES = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
# The heap then grows by whole huge pages. On ARM with small pages of 64 KiB one has 512 MiB, beyond what jobs may hold.
_MOST_HUGE_BYTES = 2 << 20


def heap_environment(given: Mapping[str, str], huge_page: Path = _HUGE_BYTES) -> dict[str, str]:
    """Return what is added to the environment of a process before it starts; what is `given` in it stays as it is."""
    added = {name: value for name, value in _KEEPING.items() if name not in given}
    tunables = given.get(_TUNABLES, "")
    if _HUGE not in tunables and _page_bytes(huge_page) <= _MOST_HUGE_BYTES:
        added[_TUNABLES] = ":".join(filter(None, (tunables, f"{_HUGE}=1")))
    return added


def _page_bytes(file: Path) -> float:
    """Return the size of a huge page; without end where there are none, or nothing tells."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return float("inf")
