"""The call that the current thread of a threaded server is answering, for code that waits on its caller's behalf."""

from typing import Protocol

from nasmesh.scoped import Scoped


class ActiveCall(Protocol):
    """What is needed of gRPC's context."""

    def is_active(self) -> bool:
        """Say whether the caller still waits."""
        ...


CALL: Scoped[ActiveCall | None] = Scoped("nasmesh_call", None)
"""The call that this thread answers. Interceptors set it."""


def caller_waits() -> bool:
    """Say whether somebody still waits for what this thread does; True outside any call.

    A Watch that blocks for minutes asks now and then, so that callers who hung up do not hold its thread.
    """
    call = CALL.get()
    return call is None or call.is_active()
