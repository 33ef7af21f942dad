"""The Work stream: reads what an agent says, writes what the desk answers. One reader and one writer a stream."""

# ruff: noqa: N802, ARG002 - names and signatures are the contract's

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from nasmesh.errors import Busy, Invalid, NasmeshError
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import dispatch_service_pb2_grpc as rpc
from scheduler.agents import AgentEntry
from scheduler.core import Core
from scheduler.desk import Desk

# Messages of one agent that wait for a commit; a reader that is further ahead waits.
IN_HAND = 256
# Messages that wait for an agent that does not read; beyond it the stream is given up, leases outlive it.
OUTBOX = 20_000


class Outbox:
    """What waits to be written to one agent; the Session that the engine sees."""

    def __init__(self) -> None:
        """Start empty."""
        self._messages: deque[pb.WorkResponse] = deque()
        self._wake = asyncio.Event()
        self._error: NasmeshError | None = None
        self._over = False

    def send(self, message: pb.WorkResponse) -> None:
        """Queue a message."""
        if len(self._messages) >= OUTBOX:
            self.close(Busy("AGENT_SLOW", "too many messages wait for this agent; reconnect"))
            return
        self._messages.append(message)
        self._wake.set()

    def close(self, error: NasmeshError) -> None:
        """End the stream with an error, after what is queued."""
        self._error = self._error or error
        self.finish()

    def finish(self) -> None:
        """End the stream after what is queued."""
        self._over = True
        self._wake.set()

    async def messages(self) -> AsyncIterator[pb.WorkResponse]:
        """Yield what is sent until the end; raises the error that ended the stream."""
        while True:
            while self._messages:
                yield self._messages.popleft()
            if self._error is not None:
                raise self._error
            if self._over:
                return
            self._wake.clear()
            await self._wake.wait()


class DispatchServicer(rpc.DispatchServiceServicer):
    """Serves agents."""

    def __init__(self, core: Core, desk: Desk) -> None:
        """Serve from a core and its desk."""
        self._core = core
        self._desk = desk

    async def Work(
        self, request_iterator: AsyncIterator[pb.WorkRequest], context: Any
    ) -> AsyncIterator[pb.WorkResponse]:
        """Converse with one agent."""
        outbox = Outbox()
        reader = asyncio.create_task(_read(self._core, self._desk, request_iterator, outbox))
        try:
            async for message in outbox.messages():
                yield message
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader

    async def GetAttempt(self, request: pb.GetAttemptRequest, context: Any) -> pb.GetAttemptResponse:
        """Return one attempt."""
        attempt = await self._core.submit(partial(self._desk.attempt, request.task, request.attempt))
        return pb.GetAttemptResponse(attempt=attempt)


async def _read(core: Core, desk: Desk, requests: AsyncIterator[pb.WorkRequest], outbox: Outbox) -> None:
    """Turn an agent's messages into commands until its stream ends; faults end the conversation with their error."""
    entry: AgentEntry | None = None
    try:
        entry = await _greet(core, desk, requests, outbox)
        gate = asyncio.Semaphore(IN_HAND)
        async for request in requests:
            await gate.acquire()
            future = asyncio.ensure_future(core.submit(_command(desk, entry, request)))
            future.add_done_callback(partial(_done, gate, outbox))
        outbox.finish()
    except NasmeshError as error:
        outbox.close(error)
    finally:
        if entry is not None:
            core.post(partial(desk.gone, entry, outbox))


async def _greet(core: Core, desk: Desk, requests: AsyncIterator[pb.WorkRequest], outbox: Outbox) -> AgentEntry:
    first = await anext(aiter(requests), None)
    if first is None or first.WhichOneof("kind") != "hello":
        raise Invalid("HELLO_MISSING", "the first message of a Work stream must be hello", field="hello")
    return await core.submit(partial(desk.hello, outbox, first.hello))


def _command(desk: Desk, entry: AgentEntry, request: pb.WorkRequest) -> Callable[[], None]:
    kind = request.WhichOneof("kind")
    if kind == "report":
        return partial(desk.report, entry, request.report)
    if kind == "outcome":
        return partial(desk.outcome, entry, request.outcome)
    if kind == "heartbeat":
        return partial(desk.heartbeat, entry, request.heartbeat)
    if kind == "ready":
        return partial(desk.ready, entry, request.ready)
    if kind == "draining":
        return partial(desk.draining, entry)
    raise Invalid("FIELD_INVALID", f"a Work stream takes no {kind or 'empty message'} here", field="kind")


def _done(gate: asyncio.Semaphore, outbox: Outbox, future: "asyncio.Future[None]") -> None:
    gate.release()
    if not future.cancelled():
        error = future.exception()
        if isinstance(error, NasmeshError):
            outbox.close(error)
        elif error is not None:
            outbox.close(Invalid("MESSAGE_REFUSED", "the message could not be taken; see the scheduler's log"))
