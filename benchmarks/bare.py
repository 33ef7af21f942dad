"""The floor under every figure: a gRPC server that decides nothing, unary and in streams, on the same library."""

import argparse
import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio

from nasmesh.rpc import options

UNARY = "/bare.Bare/Unary"
STREAM = "/bare.Bare/Stream"
TICKS = "/bare.Bare/Ticks"
# About as often as the search that `benchmarks.queries` watches changes, and messages of about that size.
TICK_S = 0.08
TICK_BYTES = 500


class Bare(grpc.GenericRpcHandler):
    """Answers with as many bytes as the request says in decimal."""

    def __init__(self) -> None:
        """Keep every answer for the next time."""
        self._answers: dict[bytes, bytes] = {}
        self._listening: set[asyncio.Queue[bytes]] = set()

    def service(self, details: Any) -> Any:
        """Return the method's handler; messages stay bytes."""
        if details.method == UNARY:
            return grpc.unary_unary_rpc_method_handler(self.unary)
        if details.method == STREAM:
            return grpc.stream_stream_rpc_method_handler(self.stream)
        if details.method == TICKS:
            return grpc.unary_stream_rpc_method_handler(self.ticks)
        return None

    async def unary(self, request: bytes, _: Any) -> bytes:
        """Answer one call."""
        return self._answer(request)

    async def stream(self, requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        """Answer each message of a stream."""
        async for request in requests:
            yield self._answer(request)

    async def ticks(self, _: bytes, __: Any) -> AsyncIterator[bytes]:
        """Tell one of many what time it was at each tick."""
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._listening.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._listening.discard(queue)

    async def tick(self) -> None:
        """Tick for all who listen, until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            message = f"{time.time():.6f}".ljust(TICK_BYTES).encode()
            for queue in self._listening:
                queue.put_nowait(message)

    def _answer(self, request: bytes) -> bytes:
        if request not in self._answers:
            self._answers[request] = bytes(int(request))
        return self._answers[request]


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--port-file", type=Path, required=True)
    flags = parser.parse_args()
    server = grpc.aio.server(options=options.server_options(options.Connections()))
    bare = Bare()
    server.add_generic_rpc_handlers((bare,))
    port = server.add_insecure_port(flags.listen)
    await server.start()
    part = flags.port_file.with_suffix(".part")
    part.write_text(f"127.0.0.1:{port}\n")
    os.replace(part, flags.port_file)
    await bare.tick()


if __name__ == "__main__":
    asyncio.run(main())
