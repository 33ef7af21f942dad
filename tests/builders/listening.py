"""Starts a server of either kind on an address and stops it."""

import asyncio

from nasmesh.rpc.server import serve_aio, serve_threads


def start_on(listen: str, kind: str, *, insecure: bool = False) -> None:
    """Start and stop a server."""
    if kind == "threads":
        serve_threads([], listen, workers=1, insecure=insecure).stop(0)
        return

    async def run() -> None:
        await (await serve_aio([], listen, insecure=insecure)).stop(0)

    asyncio.run(run())
