"""One agent of a benchmark's load: a real Work stream over gRPC, and leases ahead by the rule of real agents."""

import asyncio
import socket
import time
from collections import deque
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeAlias

import grpc.aio

from benchmarks import noop
from nasmesh.agent.backoff import Backoff
from nasmesh.agent.pace import GATHER_S, Pace
from nasmesh.limits import LEASES_AHEAD
from nasmesh.rpc import options
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import dispatch_service_pb2_grpc as rpc

Call: TypeAlias = "grpc.aio.StreamStreamCall[pb.WorkRequest, pb.WorkResponse]"


def channel(address: str, *, own_connection: bool = True) -> grpc.aio.Channel:
    """Return a channel; with its own connection, as agents on different hosts have, or one that this process shares."""
    more = [("grpc.use_local_subchannel_pool", 1)] if own_connection else []
    return grpc.aio.insecure_channel(address, options=[*options.channel_options(address), *more])


class Reach:
    """Whether anything listens at an address, looked up at most every `AGAIN_S` for all agents of a process.

    A channel that is opened in vain costs this process milliseconds, which the scheduler on the same machine would be
    short of; agents elsewhere spend their own. The tries and the waits between them are those of agents all the same.
    """

    AGAIN_S = 0.02

    def __init__(self, address: str) -> None:
        """Look at HOST:PORT."""
        host, _, port = address.rpartition(":")
        self._where = (host, int(port))
        self._looked = 0.0
        self._found = False

    def is_open(self) -> bool:
        """Say whether a connection would be accepted."""
        if time.monotonic() - self._looked > self.AGAIN_S:
            with socket.socket() as probe:
                self._found = probe.connect_ex(self._where) == 0
            self._looked = time.monotonic()
        return self._found


@dataclass(slots=True)
class Manner:
    """How the agents of a process work. `mean_s` 0: work takes no time; else log-normal, really slept.

    `ahead`: leases wait at the agent for its slot, as many as nasmesh.agent.pace says. `tracing` notes when outcomes
    were sent and leases came, on the machine's monotonic clock, by kind of work and trial, and in `rounds` how long an
    agent waited from its message to the next lease.
    """

    outcomes: noop.Outcomes
    mean_s: float = 0.0
    sigma: float = 0.0
    ahead: bool = True
    dataset: str = noop.DATASET
    own_connection: bool = True
    flowing: bool = False
    tracing: bool = False
    sent: dict[str, float] = field(default_factory=dict)
    came: dict[str, float] = field(default_factory=dict)
    rounds: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Tally:
    """What an agent has done and what befell it; times in seconds, `asked_s` what its work should have slept."""

    done: int = 0
    busy_s: float = 0.0
    asked_s: float = 0.0
    streams: int = 0
    refusals: list[tuple[float, str]] = field(default_factory=list)


class LoadAgent:
    """Leases, works, says outcomes together with the wish for the next leases; comes back when its stream breaks."""

    def __init__(self, name: str, kinds: Sequence[noop.Kind], manner: Manner) -> None:
        """Work on these kinds, one task after the other, whatever kind it is."""
        self._hello = noop.hello(name, kinds, ahead=LEASES_AHEAD, dataset=manner.dataset)
        self._manner = manner
        self._random = Random(name)
        self._backoff = Backoff(seed=self._random.getrandbits(32))
        self._waiting: deque[pb.Lease] = deque()
        self._held = dict.fromkeys(kinds, 0)
        self._pace = Pace()
        self._unsaid = pb.WorkRequest()
        self._ended: dict[noop.Kind, None] = {}
        self._work: asyncio.Task[None] | None = None
        self._began = 0.0
        self._told = 0.0
        self._open = 0
        self._call: Call | None = None
        self._writing = asyncio.Lock()
        self.connected = asyncio.Event()
        self.tally = Tally()

    @property
    def is_busy(self) -> bool:
        """Whether anything is in hand or not acknowledged."""
        return self._open > 0 or self._work is not None

    def busy_s(self, now: float) -> float:
        """Return how long it has worked until now."""
        return self.tally.busy_s + (now - self._began if self._began else 0.0)

    async def live(self, address: str, reach: Reach) -> None:
        """Converse until cancelled, each time over a new channel, as agents do."""
        while True:
            while self.tally.streams and not reach.is_open():
                await asyncio.sleep(self._backoff.next_s())
            over = channel(address, own_connection=self._manner.own_connection)
            began = time.monotonic()
            try:
                await self._converse(over)
            except grpc.aio.AioRpcError as error:
                if not self.connected.is_set():
                    self.tally.refusals.append((began, f"{error.code().name}: {error.details()}"))
            self.connected.clear()
            await over.close()
            self._open = 0
            await asyncio.sleep(self._backoff.next_s())

    async def offer(self) -> None:
        """Say what every slot can take."""
        await self._say(pb.WorkRequest(report=pb.AgentReport(ready=[self._ready(kind) for kind in self._held])))

    async def _converse(self, over: grpc.aio.Channel) -> None:
        call: Call = rpc.DispatchServiceStub(over).Work()
        await call.write(pb.WorkRequest(hello=self._hello))
        welcome = await call.read()
        if welcome is grpc.aio.EOF:
            return
        self._call = call
        self._backoff.reset()
        self.tally.streams += 1
        self.connected.set()
        if self._manner.flowing:
            await self.offer()
        while isinstance(message := await call.read(), pb.WorkResponse):
            kind = message.WhichOneof("kind")
            if kind == "batch":
                self._acknowledged(len(message.batch.outcome_replies))
                if message.batch.leases:
                    await self._take(message.batch.leases)
            elif kind == "lease":
                await self._take([message.lease])
            elif kind == "outcome_reply":
                self._acknowledged(1)

    def _acknowledged(self, count: int) -> None:
        self._open -= count
        self.tally.done += count

    async def _take(self, leases: Sequence[pb.Lease]) -> None:
        if self._manner.tracing:
            now = time.monotonic()
            if self._told:
                self._manner.rounds.append(now - self._told)
                self._told = 0.0
            self._manner.came.update((f"{lease.WhichOneof('work')} {lease.trial}", now) for lease in leases)
        for lease in leases:
            self._held[_kind_of(lease)] += 1
            if self._manner.mean_s and not lease.HasField("generate"):
                self._waiting.append(lease)
            else:
                self._pace.ended(0.0)
                self._finish(lease)
        if self._waiting and self._work is None:
            self._work = asyncio.create_task(self._toil())
        await self._tell()

    async def _toil(self) -> None:
        """Sleep for each lease that waits; what was done is told meanwhile."""
        mean, sigma = self._manner.mean_s, self._manner.sigma
        telling = []
        while self._waiting:
            lease = self._waiting.popleft()
            asked = mean * self._random.lognormvariate(-sigma * sigma / 2, sigma)
            self._began = time.monotonic()
            await asyncio.sleep(asked)
            slept = time.monotonic() - self._began
            self._began = 0.0
            self.tally.busy_s += slept
            self.tally.asked_s += asked
            self._pace.ended(slept)
            self._finish(lease)
            # One that waits begins now; where there are more, the outcome may wait for others.
            patience = asyncio.sleep(GATHER_S) if len(self._waiting) > 1 else None
            telling.append(asyncio.create_task(self._tell(patience)))
        self._work = None
        await asyncio.gather(*telling)

    def _finish(self, lease: pb.Lease) -> None:
        kind = _kind_of(lease)
        self._held[kind] -= 1
        self._open += 1
        self._ended[kind] = None
        self._unsaid.report.outcomes.append(self._manner.outcomes.of(lease))
        if self._manner.tracing:
            call = lease.generate.request.call if lease.HasField("generate") else 0
            self._manner.sent[f"{lease.WhichOneof('work')} {lease.trial or call}"] = time.monotonic()

    async def _tell(self, patience: Awaitable[None] | None = None) -> None:
        """Say what was done since the last message, and what can be taken now."""
        if patience is not None:
            await patience
        async with self._writing:  # a stream has one writer at a time; what ends meanwhile goes with the next message
            if self._ended:
                request, self._unsaid = self._unsaid, pb.WorkRequest()
                if self._manner.flowing:
                    request.report.ready.extend(self._ready(kind) for kind in self._ended)
                self._ended.clear()
                self._told = time.monotonic()
                await self._write(request)

    def _ready(self, kind: noop.Kind) -> pb.AgentReady:
        """Kinds share the agent's time, and with it what should wait."""
        left = 1 - self._held[kind]
        ahead = self._pace.ahead(1) // len(self._held) if self._manner.ahead else 0
        return pb.AgentReady(kind=kind, free=max(0, left), ahead=max(0, ahead + min(0, left)))

    async def _say(self, request: pb.WorkRequest) -> None:
        async with self._writing:
            await self._write(request)

    async def _write(self, request: pb.WorkRequest) -> None:
        if self._call is not None and self.connected.is_set():
            await self._call.write(request)


def _kind_of(lease: pb.Lease) -> noop.Kind:
    work = lease.WhichOneof("work")
    return noop.TRAIN if work == "train" else noop.EVALUATE if work == "evaluate" else noop.GENERATE
