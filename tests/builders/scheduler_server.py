"""A scheduler on a real port with agents that answer by a script, for contract tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc

from nasmesh.rpc.channel import open_aio_channel
from nasmesh.store.base import ObjectStore
from nasmesh.store.memory import MemoryStore
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import dispatch_service_pb2_grpc as dispatch_rpc
from nasmesh.v1 import scheduler_service_pb2 as api
from nasmesh.v1 import scheduler_service_pb2_grpc as rpc
from nasmesh.v1 import search_pb2
from scheduler.program import Options, Scheduler, start
from tests.builders import scheduling as make

Script = Callable[[pb.Lease], pb.AttemptOutcome | None]
WAIT_S = 10.0
CONNECT_S = 60.0


@asynccontextmanager
async def running(journal: Path | None = None, store: ObjectStore | None = None) -> AsyncIterator[Scheduler]:
    url = f"sqlite:{journal}" if journal else "memory:"
    scheduler = await start(Options("127.0.0.1:0", url, "memory:"), store=store or MemoryStore())
    try:
        yield scheduler
    finally:
        await scheduler.stop(0)


@asynccontextmanager
async def client(address: str) -> AsyncIterator[rpc.SchedulerServiceAsyncStub]:
    async with open_aio_channel(address) as channel:
        yield rpc.SchedulerServiceStub(channel)


class ScriptedAgent:
    """Speaks the Work stream by hand: `say` sends, `hear` returns the next message of a kind."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.call = dispatch_rpc.DispatchServiceStub(channel).Work()

    async def say(self, **kind: object) -> None:
        try:
            await self.call.write(pb.WorkRequest(**kind))  # type: ignore[arg-type]
        except asyncio.InvalidStateError:
            # gRPC's word for a stream that ended before the write: reading it raises how it ended, if with an error.
            await self.call.read()
            raise

    async def read(self) -> pb.WorkResponse:
        """Return the next message, of any kind."""
        # Not wait_for: on Python 3.11 it swallows a cancellation that comes together with the message, and whoever
        # cancelled this agent would wait for it for ever.
        async with asyncio.timeout(WAIT_S):
            message = await self.call.read()
        assert isinstance(message, pb.WorkResponse), "the stream ended"
        return message

    async def hear(self, kind: str) -> pb.WorkResponse:
        while (message := await self.read()).WhichOneof("kind") != kind:
            pass
        return message

    async def greet(self, hello: pb.AgentHello) -> pb.Welcome:
        await self.say(hello=hello)
        return (await self.hear("welcome")).welcome

    async def want(self, kind: int, free: int = 1) -> None:
        await self.say(ready=pb.AgentReady(kind=search_pb2.TaskKind.ValueType(kind), free=free))

    async def want_all(self, free: int = 2) -> None:
        for kind in make.ALL_KINDS:
            await self.want(kind, free)

    async def finish(self, outcome: pb.AttemptOutcome) -> int:
        await self.say(outcome=outcome)
        return (await self.hear("outcome_reply")).outcome_reply.disposition


@asynccontextmanager
async def scripted(address: str) -> AsyncIterator[ScriptedAgent]:
    async with open_aio_channel(address) as channel:
        agent = ScriptedAgent(channel)
        try:
            yield agent
        finally:
            agent.call.cancel()


async def work(address: str, name: str = "worker", script: Script = make.make_outcome, *, slots: int = 2) -> None:
    """Work for a scheduler until cancelled; a script that returns nothing keeps the lease for ever."""
    async with open_aio_channel(address) as channel:
        agent = ScriptedAgent(channel)
        await agent.greet(make.make_hello(name, slots=slots))
        await agent.want_all(slots)
        while True:
            message = await agent.call.read()
            if message is grpc.aio.EOF:
                return
            if message.WhichOneof("kind") == "lease":
                outcome = script(message.lease)
                if outcome is not None:
                    await agent.say(outcome=outcome)
                    await agent.want_all(slots)


@asynccontextmanager
async def working(address: str, script: Script = make.make_outcome) -> AsyncIterator[None]:
    task = asyncio.create_task(work(address, script=script))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, grpc.RpcError):
            await task


async def has_generator(stub: rpc.SchedulerServiceAsyncStub) -> None:
    """Return when an agent has told of its generator."""
    async with asyncio.timeout(CONNECT_S):
        while not (await stub.ListGenerators(api.ListGeneratorsRequest())).generators:
            await asyncio.sleep(0)


async def create(stub: rpc.SchedulerServiceAsyncStub, spec: search_pb2.SearchSpec, **more: object) -> search_pb2.Search:
    await has_generator(stub)
    request = api.CreateSearchRequest(spec=spec, **more)  # type: ignore[arg-type]
    return (await stub.CreateSearch(request)).search


async def ended(stub: rpc.SchedulerServiceAsyncStub, name: str) -> search_pb2.Search:
    """Return a search once it has ended."""
    async for _ in stub.WatchSearch(api.WatchSearchRequest(name=name)):
        pass
    return (await stub.GetSearch(api.GetSearchRequest(name=name))).search


async def trials_of(stub: rpc.SchedulerServiceAsyncStub, name: str) -> list[search_pb2.Trial]:
    return list((await stub.ListTrials(api.ListTrialsRequest(parent=name))).trials)
