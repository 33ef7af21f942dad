"""The agent that tests speak by: it can always be cancelled."""

import asyncio

import pytest

from nasmesh.v1 import dispatch_service_pb2 as pb
from tests.builders.scheduler_server import scripted


class Line:
    """A stream on which one message comes when the test says so."""

    def __init__(self) -> None:
        self.message: asyncio.Future[pb.WorkResponse] = asyncio.get_running_loop().create_future()

    async def read(self) -> pb.WorkResponse:
        return await self.message

    def cancel(self) -> None:
        self.message.cancel()


def test_agent_when_cancelled_as_a_message_comes_then_it_ends() -> None:
    """It went on instead, once in some thousand tests on a busy machine, and who had cancelled it waited for ever."""

    async def body() -> None:
        async with scripted("127.0.0.1:1") as agent:
            agent.call.cancel()
            line = Line()
            agent.call = line  # type: ignore[assignment]
            hearing = asyncio.create_task(agent.hear("welcome"))
            await asyncio.sleep(0)  # it waits for the message
            line.message.set_result(pb.WorkResponse(welcome=pb.Welcome()))
            hearing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await hearing

    asyncio.run(body())
