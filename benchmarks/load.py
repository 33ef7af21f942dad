"""A process full of agents for benchmarks: real Work streams over gRPC, one message in and one out for each task.

It obeys `benchmarks.processes.Worker`: {"do": "connect", ...} opens streams, {"do": "run", "seconds": s} lets them take
work for a while, and answers what was done. Work does nothing and takes no time.
"""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import grpc.aio

from benchmarks import noop
from nasmesh.rpc import options
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import dispatch_service_pb2_grpc as rpc

SETTLE_S = 20.0


def channel(address: str, *, own_connection: bool = True) -> grpc.aio.Channel:
    """Return a channel; with its own connection, as agents on different hosts have, or one that this process shares."""
    more = [("grpc.use_local_subchannel_pool", 1)] if own_connection else []
    return grpc.aio.insecure_channel(address, options=[*options.channel_options(address), *more])


class LoadAgent:
    """One agent in a closed loop: a lease, its outcome together with the wish for the next."""

    def __init__(self, name: str, kinds: Sequence[noop.Kind], outcomes: noop.Outcomes) -> None:
        """Take one lease at a time of each kind."""
        self._hello = noop.hello(name, kinds)
        self._kinds = kinds
        self._outcomes = outcomes
        self._open = 0
        self.done = 0
        self.flowing = False

    @property
    def busy(self) -> bool:
        """Whether an outcome has not been acknowledged."""
        return self._open > 0

    async def connect(self, over: grpc.aio.Channel) -> None:
        """Open the stream and wait for the welcome."""
        self._call = rpc.DispatchServiceStub(over).Work()
        await self._call.write(pb.WorkRequest(hello=self._hello))
        first = await self._call.read()
        if first is grpc.aio.EOF or not first.HasField("welcome"):
            raise RuntimeError(f"no welcome but {first}")

    async def offer(self) -> None:
        """Say that every slot is free."""
        report = pb.AgentReport(ready=[pb.AgentReady(kind=kind, free=1) for kind in self._kinds])
        await self._call.write(pb.WorkRequest(report=report))

    async def work(self) -> None:
        """Work until the stream ends."""
        while (message := await self._call.read()) is not grpc.aio.EOF:
            kind = message.WhichOneof("kind")
            if kind == "batch":
                self._acknowledged(len(message.batch.outcome_replies))
                if message.batch.leases:
                    await self._finish(message.batch.leases)
            elif kind == "lease":
                await self._finish([message.lease])
            elif kind == "outcome_reply":
                self._acknowledged(1)

    def _acknowledged(self, count: int) -> None:
        self._open -= count
        self.done += count

    async def _finish(self, leases: Sequence[pb.Lease]) -> None:
        request = pb.WorkRequest()
        for lease in leases:
            outcome = self._outcomes.of(lease)
            request.report.outcomes.append(outcome)
            if self.flowing:
                request.report.ready.add(kind=_kind_of(lease), free=1)
        self._open += len(leases)
        await self._call.write(request)


def _kind_of(lease: pb.Lease) -> noop.Kind:
    work = lease.WhichOneof("work")
    return noop.TRAIN if work == "train" else noop.EVALUATE if work == "evaluate" else noop.GENERATE


class Load:
    """The agents of this process."""

    def __init__(self) -> None:
        """Have none."""
        self._agents: list[LoadAgent] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def connect(self, order: dict[str, Any]) -> dict[str, Any]:
        """Open the streams of {"agents": [[name, [kind, ...]], ...]} to {"address"}."""
        outcomes = noop.Outcomes(in_flight_below=order.get("in_flight_below", 0))
        for name, kinds in order["agents"]:
            agent = LoadAgent(name, kinds, outcomes)
            await agent.connect(channel(order["address"], own_connection=order.get("own_connections", True)))
            self._agents.append(agent)
            self._tasks.append(asyncio.create_task(agent.work()))
        return {"agents": len(self._agents)}

    async def run(self, order: dict[str, Any]) -> dict[str, Any]:
        """Work for some seconds after a second of warm-up; returns outcomes acknowledged within them."""
        self._check()
        for agent in self._agents:
            agent.flowing = True
            await agent.offer()
        await asyncio.sleep(order.get("warm_up_s", 0.5))
        start, before = time.perf_counter(), sum(agent.done for agent in self._agents)
        spent = time.process_time()
        await asyncio.sleep(order["seconds"])
        seconds, done = time.perf_counter() - start, sum(agent.done for agent in self._agents) - before
        spent = time.process_time() - spent
        for agent in self._agents:
            agent.flowing = False
        until = time.perf_counter() + SETTLE_S
        while any(agent.busy for agent in self._agents) and time.perf_counter() < until:
            self._check()
            await asyncio.sleep(0.01)
        return {"tasks": done, "seconds": seconds, "processor_s": spent}

    def _check(self) -> None:
        for task in self._tasks:
            if task.done():
                task.result()
                raise RuntimeError("a stream has ended")


async def obey(load: Any) -> None:
    """Carry out the orders on standard input until it ends; the method is named by "do"."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        print(json.dumps(await getattr(load, order.pop("do"))(order)), flush=True)


async def main() -> None:
    """Obey."""
    await obey(Load())


if __name__ == "__main__":
    asyncio.run(main())
