"""The call that the current thread of a threaded server is answering, for code that waits on its caller's behalf."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class ActiveCall(Protocol):
    """What is needed of gRPC's context."""

    def is_active(self) -> bool:
        """Say whether the caller still waits."""
        ...


_CURRENT: ContextVar[ActiveCall | None] = ContextVar("nasmesh_call", default=None)


def caller_waits() -> bool:
    """Say whether somebody still waits for what this thread does; True outside any call.

    A Watch that blocks for minutes asks now and then, so that callers who hung up do not hold its thread.
    """
    call = _CURRENT.get()
    return call is None or call.is_active()


@contextmanager
def entered(call: ActiveCall) -> Iterator[None]:
    """Make `call` the current one within the block. Interceptors use it.

    Set and put back by value, not by token: a stream that is closed early ends in another context than it began in.
    """
    before = _CURRENT.get()
    _CURRENT.set(call)
    try:
        yield
    finally:
        _CURRENT.set(before)
