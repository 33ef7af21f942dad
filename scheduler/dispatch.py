"""The Work stream: reads what an agent says, writes what the desk answers. One reader and one writer a stream."""

# ruff: noqa: N802, ARG002 - names and signatures are the contract's

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, TypeAlias
from urllib.parse import unquote
from weakref import WeakValueDictionary

from nasmesh.errors import Busy, Invalid, NasmeshError
from nasmesh.logs import get_logger
from nasmesh.rpc.identity import current_identity
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import dispatch_service_pb2_grpc as rpc
from scheduler.agents import AgentEntry
from scheduler.batches import gather
from scheduler.core import Core
from scheduler.desk import Desk
from scheduler.ownership import check_agent_name
from scheduler.turns import Line

# Messages of one agent that wait for a commit; a reader that is further ahead waits.
IN_HAND = 256
# Messages that wait for an agent that does not read; beyond it the stream is given up, leases outlive it.
OUTBOX = 20_000

# By name of the agent: one that comes back is heard after what it said on the stream that it has lost.
Lines: TypeAlias = "WeakValueDictionary[str, Line]"

_log = get_logger("dispatch")


class Outbox:
    """What waits to be written to one agent; the Session that the engine sees."""

    __slots__ = ("_error", "_messages", "_over", "_waiter", "accepts_batches")

    def __init__(self) -> None:
        """Start empty, for an agent that takes single messages."""
        self.accepts_batches = False
        self._messages: deque[pb.WorkResponse] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._error: NasmeshError | None = None
        self._over = False

    def send(self, message: pb.WorkResponse) -> None:
        """Queue a message."""
        if len(self._messages) >= OUTBOX:
            self.close(Busy("AGENT_SLOW", "too many messages wait for this agent; reconnect"))
            return
        self._messages.append(message)
        self._wake()

    def close(self, error: NasmeshError) -> None:
        """End the stream with an error, after what is queued."""
        self._error = self._error or error
        self.finish()

    def finish(self) -> None:
        """End the stream after what is queued."""
        self._over = True
        self._wake()

    async def next(self) -> pb.WorkResponse | bytes | None:
        """Wait for the next message and return it, perhaps encoded; None at the end.

        Raises the error that ended the stream.
        """
        while not self._messages:
            if self._error is not None:
                raise self._error
            if self._over:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return gather(self._messages) if self.accepts_batches else self._messages.popleft()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class DispatchServicer(rpc.DispatchServiceServicer):
    """Serves agents."""

    def __init__(self, core: Core, desk: Desk) -> None:
        """Serve from a core and its desk."""
        self._core = core
        self._desk = desk
        self._lines: Lines = WeakValueDictionary()

    async def Work(self, request_iterator: AsyncIterator[pb.WorkRequest], context: Any) -> AsyncIterator[Any]:
        """Converse with one agent."""
        outbox = Outbox()
        conversation = _Conversation(self._core, self._desk, outbox, self._lines, peer_address(context.peer()))
        reader = asyncio.create_task(conversation.read(request_iterator))
        try:
            while (message := await outbox.next()) is not None:
                yield message
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader

    async def GetAttempt(self, request: pb.GetAttemptRequest, context: Any) -> pb.GetAttemptResponse:
        """Return one attempt."""
        ask = partial(self._desk.attempt, request.task, request.attempt, caller=current_identity())
        attempt = await self._core.submit(ask)
        return pb.GetAttemptResponse(attempt=attempt)


class _Conversation:
    """One agent's messages on their way to the core: counted, so that a reader that runs ahead waits."""

    __slots__ = ("_address", "_core", "_desk", "_gate", "_in_hand", "_line", "_lines", "_outbox")

    def __init__(self, core: Core, desk: Desk, outbox: Outbox, lines: Lines, address: str) -> None:
        self._address = address
        self._lines = lines
        self._line = Line()
        self._core = core
        self._desk = desk
        self._outbox = outbox
        self._in_hand = 0
        self._gate: asyncio.Future[None] | None = None

    async def read(self, requests: AsyncIterator[pb.WorkRequest]) -> None:
        """Turn messages into commands until the stream ends; faults end the conversation with their error."""
        entry: AgentEntry | None = None
        outbox, tell, done = self._outbox, self._core.tell, self._done
        try:
            entry = await self._greet(requests)
            outbox.accepts_batches = entry.accepts_batches
            async for request in requests:
                if self._in_hand >= IN_HAND:
                    self._gate = asyncio.get_running_loop().create_future()
                    await self._gate
                self._in_hand += 1
                # A report is as much work as the outcomes in it. What a generator proposed is not counted, though it is
                # more: all others live on it, and would run dry while it waits for its turn behind them.
                work = max(1, len(request.report.outcomes))
                tell(_command(self._desk, entry, request), done, work, self._line)
            outbox.finish()
        except NasmeshError as error:
            outbox.close(error)
        finally:
            if entry is not None:
                self._core.post(partial(self._desk.gone, entry, outbox), line=self._line)

    async def _greet(self, requests: AsyncIterator[pb.WorkRequest]) -> AgentEntry:
        first = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("kind") != "hello":
            raise Invalid("HELLO_MISSING", "the first message of a Work stream must be hello", field="hello")
        check_agent_name(current_identity(), first.hello.agent)
        self._line = self._lines.setdefault(first.hello.agent, self._line)
        greeting = partial(self._desk.hello, self._outbox, first.hello, self._address)
        return await self._core.submit(greeting, line=self._line)

    def _done(self, result: object) -> None:
        self._in_hand -= 1
        if self._gate is not None and not self._gate.done():
            self._gate.set_result(None)
        if isinstance(result, NasmeshError):
            self._outbox.close(result)
        elif isinstance(result, Exception):
            _log.error("message_refused", error=f"{type(result).__name__}: {result}", exc_info=result)
            self._outbox.close(Invalid("MESSAGE_REFUSED", "the message could not be taken; see the scheduler's log"))


def peer_address(peer: str) -> str:
    """Return the IP address in gRPC's name of a caller, "ipv4:10.0.0.3:4711"; empty where there is none in it."""
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else ""


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
