"""A scheduler that waits for its turn: another leads, on the same journal, until it ends or is cut off.

Meanwhile health says NOT_SERVING, and every call is refused as UNAVAILABLE (STANDBY), so that agents and clients with
several addresses go on to the next.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, runtime_checkable

import grpc.aio

from nasmesh.errors import NasmeshError, Stale, Unavailable
from nasmesh.logs import get_logger
from nasmesh.rpc.interceptors import aio_refuse
from nasmesh.rpc.wrapping import Handler, with_behavior
from scheduler.core import Core

LOOK_S = 0.5
"""How often a waiting scheduler tries to take the journal over: a part of the time in which nobody leads."""

# What passes by itself: another leads; and, with a database, nobody can for want of it.
_LEADS = frozenset(("JOURNAL_LOCKED",))
_AWAY = _LEADS | {"JOURNAL_IO", "LEADERSHIP_LOST"}
_OURS = "/nasmesh."

_log = get_logger("standby")


@runtime_checkable
class Led(Protocol):
    """A journal whose leadership can be lost while nothing is written."""

    def on_loss(self, tell: Callable[[Stale], object]) -> None:
        """Have `tell` called, from any thread, when it is."""
        ...


class Turn(grpc.aio.ServerInterceptor):
    """Refuses the calls of our services until `come` is set."""

    def __init__(self) -> None:
        """Refuse."""
        self.come = False

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Handler | None]], details: Any
    ) -> Handler | None:
        """Return the method's handler, or one that refuses."""
        handler = await continuation(details)
        if self.come or handler is None or not details.method.startswith(_OURS):
            return handler
        return with_behavior(handler, _refuse)


async def _refuse(_request: Any, context: Any) -> None:
    await aio_refuse(context, Unavailable("STANDBY", "this scheduler stands by; another leads: try its address"))


async def take_turn(core: Core, journal: str) -> None:
    """Return once the scheduler leads and has read the journal back; raises what does not pass by itself."""
    told = ""
    passes = _AWAY if isinstance(core.engine.journal, Led) else _LEADS
    while True:
        try:
            await core.recover()
            return
        except (Unavailable, Stale) as error:
            if error.reason not in passes:
                raise
            told = _tell(told, error, journal)
        await asyncio.sleep(LOOK_S)


def _tell(told: str, error: NasmeshError, journal: str) -> str:
    """Log why it waits where that has changed; returns the reason."""
    if error.reason != told:
        _log.info("standing_by", journal=journal, reason=error.reason, text=error.message)
    return error.reason
