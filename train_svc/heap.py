"""How the C library keeps memory for a training's process. Imports no torch."""

HEAP_ENVIRONMENT = {
    # Each heap that the C library opens for a thread sets 64 MiB of addresses aside, which jobs are bounded by.
    "MALLOC_ARENA_MAX": "2",
    # By itself it gives a step's tensors back to the kernel and has the next step's filled with zeros, page by page:
    # a tenth of a small convolutional network's step. What is kept goes back before the next job (nasmesh.jobs.bounds).
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    # Pages of 2 MiB where the machine allows them: another tenth, of looking up where small ones are.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""Set in the environment of a process before it starts; changes no result."""
