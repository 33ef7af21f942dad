"""Processors of one's own while something is timed: no other timing on this machine uses them meanwhile."""

import contextlib
import os
import socket
from collections.abc import Iterator

# Names in Linux's abstract namespace: bound by one process at a time, free again when it ends, however it ends.
_NAME = "\0nasmesh.timing.cpu{}"


@contextlib.contextmanager
def pinned(count: int) -> Iterator[tuple[int, ...]]:
    """Run this thread, and threads that it starts, on `count` processors that no other timing holds; yields them.

    Yields none, and moves nothing, where that many are not to be had or the system cannot do it.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield ()
        return
    before = os.sched_getaffinity(0)
    with contextlib.ExitStack() as stack:
        held = _claim(count, sorted(before), stack)
        if len(held) < count:
            yield ()
            return
        try:
            os.sched_setaffinity(0, held)
        except OSError:
            yield ()
            return
        try:
            yield held
        finally:
            os.sched_setaffinity(0, before)


def _claim(count: int, processors: list[int], stack: contextlib.ExitStack) -> tuple[int, ...]:
    held: list[int] = []
    # The last first: the system itself, and most programs, begin with the first.
    for processor in reversed(processors):
        if len(held) == count:
            break
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        stack.callback(claim.close)
        try:
            claim.bind(_NAME.format(processor))
        except OSError:
            continue
        held.append(processor)
    return tuple(held)
