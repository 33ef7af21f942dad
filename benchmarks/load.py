"""A process full of agents for benchmarks; it obeys orders on its standard input: `benchmarks.processes.Worker`."""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks import noop
from benchmarks.load_agent import LoadAgent, Manner, Reach
from nasmesh.rpc.open_files import raise_open_files

SETTLE_S = 20.0
# Agents that connect at the same time.
AT_ONCE = 64


class Load:
    """The agents of this process. Each method is an order: the names of its arguments are those of the JSON object."""

    def __init__(self) -> None:
        """Have none."""
        self._manner = Manner(noop.Outcomes(in_flight_below=0))
        self._agents: list[LoadAgent] = []
        self._lives: list[asyncio.Task[None]] = []

    async def behave(self, *, in_flight_below: int = 0, at_most: int = 0, **manner: Any) -> dict[str, Any]:
        """Set how agents work from now on, with the fields of Manner; slots and connections before they connect."""
        self._manner.outcomes = noop.Outcomes(in_flight_below=in_flight_below, at_most=at_most)
        for name, value in manner.items():
            setattr(self._manner, name, value)
        return {}

    async def connect(self, *, address: str, agents: list[tuple[str, list[noop.Kind]]]) -> dict[str, Any]:
        """Open the streams of agents with a name and kinds of work each."""
        gate = asyncio.Semaphore(AT_ONCE)
        reach = Reach(address)

        async def begin(name: str, kinds: list[noop.Kind]) -> None:
            async with gate:
                agent = LoadAgent(name, kinds, self._manner)
                self._agents.append(agent)
                self._lives.append(asyncio.create_task(agent.live(address, reach)))
                await agent.connected.wait()

        await asyncio.gather(*(begin(name, kinds) for name, kinds in agents))
        return {"agents": len(self._agents)}

    async def flow(self, *, on: bool, first: int | None = None) -> dict[str, Any]:
        """Take work from now on, or finish what is in hand and take no more; only the `first` so many agents begin."""
        self._manner.flowing = on
        if on:
            for agent in self._agents[:first]:
                await agent.offer()
        else:
            await self._settle()
        return {}

    async def run(self, *, seconds: float, warm_up_s: float = 0.5) -> dict[str, Any]:
        """Work for some seconds after a warm-up; returns what was acknowledged and worked within them."""
        await self.flow(on=True)
        await asyncio.sleep(warm_up_s)
        result = await self.watch(seconds=seconds)
        await self.flow(on=False)
        return result

    async def watch(self, *, seconds: float) -> dict[str, Any]:
        """Return what is done in some seconds."""
        start, spent, before = time.monotonic(), time.process_time(), self._totals(time.monotonic())
        await asyncio.sleep(seconds)
        end = time.monotonic()
        after = self._totals(end)
        done, busy_s, asked_s, streams = (late - early for early, late in zip(before, after, strict=True))
        return {
            "tasks": done,
            "seconds": end - start,
            "busy_s": busy_s,
            "asked_s": asked_s,
            "streams": streams,
            "processor_s": time.process_time() - spent,
        }

    async def take_trace(self) -> dict[str, Any]:
        """Return and forget when outcomes were sent and leases came, and what each agent waited between them."""
        sent, came, rounds = self._manner.sent, self._manner.came, self._manner.rounds
        self._manner.sent, self._manner.came, self._manner.rounds = {}, {}, []
        return {"sent": sent, "came": came, "rounds": rounds}

    async def connected(self, *, since: float, timeout_s: float) -> dict[str, Any]:
        """Wait until every agent has a stream; returns refusals since a moment on the monotonic clock, by cause."""

        async def all_of_them() -> None:
            for agent in self._agents:
                await agent.connected.wait()

        try:
            await asyncio.wait_for(all_of_them(), timeout_s)
        except TimeoutError:
            away = sum(not agent.connected.is_set() for agent in self._agents)
        else:
            away = 0
        refusals: dict[str, int] = {}
        for agent in self._agents:
            for at, why in agent.tally.refusals:
                if at >= since:
                    refusals[why] = refusals.get(why, 0) + 1
        return {"at": time.monotonic(), "away": away, "refusals": refusals}

    def _totals(self, now: float) -> tuple[float, ...]:
        tallies = [agent.tally for agent in self._agents]
        busy_s = sum(agent.busy_s(now) for agent in self._agents)
        return (
            sum(tally.done for tally in tallies),
            busy_s,
            sum(tally.asked_s for tally in tallies),
            sum(tally.streams for tally in tallies),
        )

    async def _settle(self) -> None:
        until = time.monotonic() + SETTLE_S
        while any(agent.is_busy for agent in self._agents) and time.monotonic() < until:
            await asyncio.sleep(0.01)


async def obey(load: object) -> None:
    """Carry out the orders on standard input until it ends; the method is named by "do"."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        method: Callable[..., Awaitable[dict[str, Any]]] = getattr(load, order.pop("do"))
        print(json.dumps(await method(**order)), flush=True)


if __name__ == "__main__":
    raise_open_files()
    asyncio.run(obey(Load()))
