"""Turns exceptions into the Failure that a job or an attempt ends with, and Failures by the child's end into words."""

import signal

from nasmesh.errors import Conflict, Denied, Invalid, NasmeshError, NotFound, Stale, Unauthenticated
from nasmesh.v1 import search_pb2 as pb

UNCOUNTED_REASONS = frozenset({"STORE_DOWN", "DRAINING", "SERVER_UNREACHABLE", "NO_SLOT", "PORT_IN_USE"})
"""Faults of the surroundings: another attempt is made without using up one of the network's own."""

DEVICE_LOST = "DEVICE_LOST"
"""The accelerator answers no more; in the process that met this nothing will run on it again."""

# What is wrong with the work itself; anything else, an unknown fault of a server included, may pass.
_FINAL = (Invalid, NotFound, Conflict, Stale, Denied, Unauthenticated)

_TEXT = 500
_MOST_CAUSES = 16
OUT_OF_MEMORY = "CHILD_OUT_OF_MEMORY"
"""The job asked for more memory than it may have, or than there is."""

# What says it by a plain RuntimeError or in its last words: torch's allocator and its kernels, C++ below onnx and
# onnxruntime, the start of a thread, the C library.
_NO_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "bad_alloc",
    "bad allocation",
    "could not create a memory",
    "out_of_memory",
    "can't start new thread",
    "Thread creation failed",
    "Cannot allocate memory",
    "failed to map segment from shared object",
)


def failure_of(error: BaseException) -> pb.Failure:
    """Return how an exception ends the work: own errors keep their reason, memory faults have theirs."""
    if isinstance(error, NasmeshError):
        return failure(
            error.reason,
            error.message,
            retryable=not isinstance(error, _FINAL),
            counted=error.reason not in UNCOUNTED_REASONS,
        )
    said = _of_memory(error)
    if said is not None:
        return out_of_memory(said or "an allocation failed")
    return failure("JOB_FAILED", f"the work raised {type(error).__name__}: {error}", retryable=True)


def _of_memory(error: BaseException | None) -> str | None:
    """Return what is said of the memory that an exception came of, perhaps nothing; None where it was not memory.

    What is raised while that is told of (torch imports its compiler for the text, which needs memory too) came of it.
    """
    for _ in range(_MOST_CAUSES):
        if isinstance(error, MemoryError):
            return str(error)
        if error is None:
            break
        # torch's own out-of-memory error is recognised by name: this module must not import torch.
        if type(error).__name__ == "OutOfMemoryError" or _tells_of_memory(str(error)):
            return ""
        error = error.__cause__ or error.__context__
    return None


def _tells_of_memory(text: str) -> bool:
    return any(sign in text for sign in _NO_MEMORY)


def failure(reason: str, message: str, *, retryable: bool, counted: bool = True) -> pb.Failure:
    """Return a Failure with a text of bounded length."""
    return pb.Failure(reason=reason, message=message[:_TEXT], retryable=retryable, counted=counted)


def out_of_memory(what: str) -> pb.Failure:
    """Return the failure of a job that asked for more memory than it may have."""
    return failure(
        OUT_OF_MEMORY,
        f"out of memory: {what}; use a smaller network or batch, or a server with a higher memory limit",
        retryable=True,
    )


def crashed(returncode: int, stderr_tail: str, *, killed_for_memory: bool = False) -> pb.Failure:
    """Return the failure of a job whose process ended by itself, with the signal's name and its last words.

    `killed_for_memory`: whether the kernel has ended processes for want of memory meanwhile.
    """
    if returncode == -signal.SIGKILL and killed_for_memory:
        return out_of_memory("the kernel ended its process for want of memory")
    if returncode != -signal.SIGKILL and _tells_of_memory(stderr_tail):
        return out_of_memory(f"its process ended; last words: {stderr_tail[:200]}")
    if returncode < 0:
        how = f"was killed by {_signal_name(-returncode)}"
        if returncode == -signal.SIGKILL:
            how += " (by a person, or by the kernel for want of memory)"
    else:
        how = f"exited with {returncode}"
    words = f"; last words: {stderr_tail}" if stderr_tail else ""
    return failure("CHILD_CRASHED", f"the process of the job {how}{words}", retryable=True)


def timed_out(timeout_s: float) -> pb.Failure:
    """Return the failure of a job that used up its time."""
    return failure(
        "JOB_TIMED_OUT", f"the job was ended after {timeout_s:g} s; raise the server's job timeout", retryable=True
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
