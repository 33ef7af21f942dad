"""Starts a server of either kind on an address and stops it."""

import asyncio

from nasmesh.rpc.server import Door, serve_aio, serve_threads


def start_on(listen: str, kind: str, *, insecure: bool = False, door: Door | None = None) -> None:
    """Start and stop a server."""
    door = door or Door(insecure=insecure)
    if kind == "threads":
        serve_threads([], listen, workers=1, door=door).stop(0)
        return

    async def run() -> None:
        await (await serve_aio([], listen, door=door)).stop(0)

    asyncio.run(run())
