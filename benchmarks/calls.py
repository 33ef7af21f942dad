"""A process of clients for benchmarks: unary calls and echoes of bytes, and watchers; it obeys orders on its input."""

import asyncio
import time
from typing import Any

from benchmarks.bare import STREAM, TICKS
from benchmarks.load import obey
from benchmarks.load_agent import channel
from nasmesh.v1 import scheduler_service_pb2 as api
from nasmesh.v1 import scheduler_service_pb2_grpc as rpc


class Calls:
    """The clients of this process. Each method is an order: the names of its arguments are those of the JSON object."""

    def __init__(self) -> None:
        """Watch nothing."""
        self._watches: list[asyncio.Task[None]] = []
        self._late_s: list[float] = []

    async def size(self, *, address: str, method: str, request: str) -> dict[str, Any]:
        """Return how many bytes a call answers with."""
        async with channel(address) as over:
            method_of: Any = over.unary_unary(method)
            return {"bytes": len(await method_of(bytes.fromhex(request)))}

    async def unary(self, *, address: str, method: str, request: str, seconds: float, clients: int) -> dict[str, Any]:
        """Return calls a second and their times, of clients with a connection each and one call at a time."""
        end, took = time.monotonic() + seconds, []

        async def call() -> None:
            async with channel(address) as over:
                method_of: Any = over.unary_unary(method)
                body = bytes.fromhex(request)
                await method_of(body)
                while (began := time.monotonic()) < end:
                    await method_of(body)
                    took.append(time.monotonic() - began)

        await asyncio.gather(*(call() for _ in range(clients)))
        return {"per_s": len(took) / seconds, "seconds": took}

    async def stream(self, *, address: str, request: str, seconds: float, clients: int) -> dict[str, Any]:
        """Return echoes a second of clients with a connection and a stream each, one message at a time."""
        end, counts = time.monotonic() + seconds, [0] * clients

        async def echo(number: int) -> None:
            async with channel(address) as over:
                call: Any = over.stream_stream(STREAM)()
                while time.monotonic() < end:
                    await call.write(bytes.fromhex(request))
                    await call.read()
                    counts[number] += 1
                await call.done_writing()

        await asyncio.gather(*(echo(number) for number in range(clients)))
        return {"per_s": sum(counts) / seconds}

    async def watch(self, *, address: str, search: str, clients: int) -> dict[str, Any]:
        """Watch a search from now on, with a connection each."""
        known = asyncio.Event()

        async def follow() -> None:
            async with channel(address) as over:
                stub = rpc.SchedulerServiceStub(over)
                last = (await stub.GetSearch(api.GetSearchRequest(name=search))).search.sequence
                request = api.WatchSearchRequest(name=search, after_sequence=last, accepts_batches=True)
                async for message in stub.WatchSearch(request):
                    now = time.time()
                    changes = message.batch.changes or (message,)
                    self._late_s += [now - change.time.ToMicroseconds() / 1e6 for change in changes]
                    known.set()

        self._watches = [asyncio.create_task(follow()) for _ in range(clients)]
        await known.wait()
        return {}

    async def listen(self, *, address: str, clients: int) -> dict[str, Any]:
        """Listen to the ticks of a server that does nothing else, with a connection each, instead of watching."""
        known = asyncio.Event()

        async def follow() -> None:
            async with channel(address) as over:
                ticks: Any = over.unary_stream(TICKS)
                async for tick in ticks(b""):
                    self._late_s.append(time.time() - float(tick))
                    known.set()

        self._watches = [asyncio.create_task(follow()) for _ in range(clients)]
        await known.wait()
        return {}

    async def turn_away(self) -> dict[str, Any]:
        """Watch and listen no more."""
        for task in self._watches:
            task.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        return {}

    async def watched(self, *, seconds: float) -> dict[str, Any]:
        """Return how late the changes of some seconds came."""
        self._late_s.clear()
        await asyncio.sleep(seconds)
        if any(task.done() for task in self._watches):
            raise RuntimeError("a watch has ended")
        return {"seconds": list(self._late_s)}


if __name__ == "__main__":
    asyncio.run(obey(Calls()))
