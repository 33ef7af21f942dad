"""Runs a test body in an event loop and expects refusals of a real scheduler."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from nasmesh.errors import NasmeshError
from nasmesh.rpc.channel import errors_from_rpc
from nasmesh.v1 import scheduler_service_pb2 as pb
from nasmesh.v1 import search_pb2

SUCCEEDED = search_pb2.SEARCH_STATE_SUCCEEDED


def go(body: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(body, 60))


async def refused(call: Any, kind: type[NasmeshError]) -> Any:
    """Return the error that a call is refused with."""
    with pytest.raises(kind) as caught, errors_from_rpc():
        await call
    return caught.value


async def ended_by_polling(stub: Any, name: str) -> search_pb2.Search:
    while True:
        search = (await stub.GetSearch(pb.GetSearchRequest(name=name))).search
        if search.end_time.seconds:
            return search  # type: ignore[no-any-return]
        await asyncio.sleep(0)
