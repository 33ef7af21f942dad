"""Health that means it: NOT_SERVING while work waits for a commit that does not come, and SERVING again by itself."""

import asyncio
from contextlib import suppress

from nasmesh import limits
from nasmesh.clock import Clock
from nasmesh.logs import get_logger
from nasmesh.rpc.server import RunningAioServer
from scheduler.activity import Activity

_log = get_logger("health")

LOOK_S = 1.0
"""How often health is looked at; a balancer asks every few seconds."""


class Health:
    """Keeps a server's health in step with its scheduler's, from `begin` to `end`."""

    def __init__(
        self, server: RunningAioServer, activity: Activity, clock: Clock, *, stuck_s: float = limits.COMMIT_STUCK_S
    ) -> None:
        """Say NOT_SERVING after work has waited `stuck_s` seconds for a commit."""
        self._server = server
        self._activity = activity
        self._clock = clock
        self._stuck_s = stuck_s
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Say SERVING, and look from now on."""
        await self._say(True)
        self._task = asyncio.create_task(self._watch())

    async def end(self) -> None:
        """Say NOT_SERVING, for good: the scheduler stops."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        with suppress(Exception):  # a port that is gone already
            await self._say(False)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(min(LOOK_S, self._stuck_s / 4))
            stuck_s = self._activity.stuck_s(self._clock.monotonic())
            if (stuck_s < self._stuck_s) != self._activity.serving:
                await self._say(not self._activity.serving)
                tell = _log.warning if self._activity.serving else _log.error
                tell("health_changed", serving=self._activity.serving, commit_waits_s=round(stuck_s, 1))

    async def _say(self, serving: bool) -> None:
        self._activity.serving = serving
        await self._server.set_serving(serving)
