"""Agents and a client of a real scheduler that outlast its deaths, do toy work, and note all that they see."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import dispatch_service_pb2_grpc as dispatch_rpc
from nasmesh.v1 import scheduler_service_pb2 as api
from nasmesh.v1 import scheduler_service_pb2_grpc as rpc
from nasmesh.v1 import search_pb2
from tests.builders import scheduling as make
from tests.sim.history import (
    Acknowledged,
    Answered,
    Leased,
    Listed,
    ListedSearch,
    Observation,
    Stopped,
    Watched,
    Welcomed,
)

AWAY = (grpc.RpcError, asyncio.InvalidStateError)
SLOTS = 2
_PAUSE_S = 0.05
# Each try dials anew: gRPC's own pauses between tries are made for schedulers that stay away for longer.
_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)
# Task, attempt and epoch.
Key = tuple[str, int, int]


def dial(address: str) -> grpc.aio.Channel:
    """Return a channel of its own to a scheduler that may be away; of several addresses to the one that may lead."""
    several = address.split(",")
    return grpc.aio.insecure_channel(several[_LEADER.number % len(several)], options=_OPTIONS)


class _Leader:
    """Which of several schedulers everybody tries; the next one once somebody has found it away for a pause."""

    def __init__(self) -> None:
        self.number = 0
        self._since = 0.0

    def is_away(self) -> None:
        now = time.monotonic()
        if now - self._since > _PAUSE_S:
            self.number, self._since = self.number + 1, now


_LEADER = _Leader()


async def again() -> None:
    """Wait before the next try at a scheduler that is away."""
    _LEADER.is_away()
    await asyncio.sleep(_PAUSE_S)


class Meetings:
    """Where those who train one network together find each other, as their servers would over the network."""

    def __init__(self) -> None:
        """Know of no gang."""
        self._there: dict[Key, set[int]] = {}
        self._complete: dict[Key, asyncio.Event] = {}

    def arrive(self, lease: pb.Lease) -> asyncio.Event:
        """Come to a meeting; returns what tells when all are there."""
        key, gang = _key(lease.token), lease.train.gang
        there = self._there.setdefault(key, set())
        there.add(gang.rank)
        complete = self._complete.setdefault(key, asyncio.Event())
        if len(there) == gang.size:
            complete.set()
        return complete


class Agent:
    """A light agent: remembers what it holds and what was not acknowledged, and says so when it comes back."""

    def __init__(self, address: str, name: str, history: list[Observation], meetings: Meetings) -> None:
        self._address = address
        self._name = name
        self._history = history
        self._meetings = meetings
        self._outcomes: dict[Key, pb.AttemptOutcome] = {}
        self._places: dict[Key, pb.Lease] = {}
        self._leading: dict[Key, asyncio.Task[None]] = {}
        self._writing = asyncio.Lock()
        self._epoch = 0

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            with contextlib.suppress(*AWAY):
                async with dial(self._address) as channel:
                    try:
                        await self._converse(dispatch_rpc.DispatchServiceStub(channel).Work())
                    finally:
                        for key in list(self._leading):
                            self._leading.pop(key).cancel()
            await again()

    async def _converse(self, call: Any) -> None:
        hello = make.make_hello(self._name, slots=SLOTS)
        hello.epoch = self._epoch
        hello.server.gang_address = f"{self._name}.example:7500"
        held = [*self._outcomes.values(), *self._places.values()]
        hello.held.extend(one.token for one in held)
        await call.write(pb.WorkRequest(hello=hello))
        while (message := await call.read()) is not grpc.aio.EOF:
            kind = message.WhichOneof("kind")
            if kind == "welcome":
                await self._welcomed(call, message.welcome)
            elif kind == "lease":
                await self._work(call, message.lease)
            elif kind == "outcome_reply":
                self._answered(message.outcome_reply)
                await self._offer(call)
            elif kind == "cancel" and not message.cancel.checkpoint:
                self._history.append(Stopped(self._name, message.cancel.token.task, message.cancel.token.attempt))
                if self._leave(_key(message.cancel.token)):
                    await self._offer(call)

    async def _welcomed(self, call: Any, welcome: pb.Welcome) -> None:
        self._epoch = max(self._epoch, welcome.epoch)
        for token in welcome.superseded:
            self._outcomes.pop(_key(token), None)
            self._leave(_key(token))
        held = tuple((task, attempt) for task, attempt, _ in (*self._outcomes, *self._places))
        self._history.append(Welcomed(self._name, welcome.epoch, SLOTS, held))
        for outcome in self._outcomes.values():
            await self._say(call, outcome=outcome)
        for lease in self._places.values():
            self._take_place(call, lease)
        await self._offer(call)

    async def _offer(self, call: Any) -> None:
        for kind in make.ALL_KINDS:
            await self._say(call, ready=pb.AgentReady(kind=search_pb2.TaskKind.ValueType(kind), free=SLOTS))

    async def _say(self, call: Any, **kind: Any) -> None:
        async with self._writing:  # of a stream one message is written at a time
            await call.write(pb.WorkRequest(**kind))

    async def _work(self, call: Any, lease: pb.Lease) -> None:
        token, gang = lease.token, lease.train.gang
        place = (gang.rank, gang.size, gang.rendezvous) if gang.size else ()
        self._history.append(Leased(self._name, token.task, token.attempt, token.epoch, *place))
        if not gang.size:
            await self._end(call, toy_outcome(lease))
        elif gives_place_back(lease):
            await self._end(call, pb.AttemptOutcome(token=token, released=pb.AttemptReleased()))
        else:
            self._places[_key(token)] = lease
            self._take_place(call, lease)

    def _take_place(self, call: Any, lease: pb.Lease) -> None:
        """Join a gang; rank 0 ends its training once all are there, and the others wait for word."""
        complete = self._meetings.arrive(lease)
        if not lease.train.gang.rank:
            self._leading[_key(lease.token)] = asyncio.create_task(self._lead(call, lease, complete))

    async def _lead(self, call: Any, lease: pb.Lease, complete: asyncio.Event) -> None:
        await complete.wait()
        if self._places.pop(_key(lease.token), None) is not None:
            with contextlib.suppress(*AWAY):
                await self._end(call, toy_outcome(lease))

    async def _end(self, call: Any, outcome: pb.AttemptOutcome) -> None:
        self._outcomes[_key(outcome.token)] = outcome
        await self._say(call, outcome=outcome)

    def _leave(self, key: Key) -> bool:
        """Give up a place in a gang; returns whether there was one."""
        return self._places.pop(key, None) is not None

    def _answered(self, reply: pb.OutcomeReply) -> None:
        token = reply.token
        outcome = self._outcomes.pop(_key(token), None)
        if reply.disposition == pb.OUTCOME_DISPOSITION_RECORDED:
            done = outcome is None or not outcome.HasField("released")
            self._history.append(Acknowledged(self._name, token.task, token.attempt, token.epoch, done=done))
        else:
            self._history.append(Stopped(self._name, token.task, token.attempt))


def gives_place_back(lease: pb.Lease) -> bool:
    """Say whether one of a gang leaves it before it has begun; once, and of some trials only."""
    number = int(lease.trial.rpartition("/")[2])
    return bool(lease.train.gang.rank) and lease.token.attempt == 1 and number % 3 == 0


def toy_outcome(lease: pb.Lease) -> pb.AttemptOutcome:
    """Return what a lease always gives, with the attempt that gave it."""
    outcome = make.make_outcome(lease)
    if outcome.HasField("train"):
        outcome.train.environment["attempt"] = str(lease.token.attempt)
    elif outcome.HasField("evaluate"):
        outcome.evaluate.environment["attempt"] = str(lease.token.attempt)
    else:
        outcome.generate.next_call.in_flight_below = 4
    return outcome


def _key(token: pb.AttemptToken) -> Key:
    return token.task, token.attempt, token.epoch


class Client:
    """A client that asks until it is answered, asks the same once more, and watches on from where it was."""

    def __init__(self, address: str, history: list[Observation]) -> None:
        self._address = address
        self.history = history

    async def ask(self, method: str, request: Any) -> Any:
        """Return the answer to a call, repeated while the scheduler is away."""
        while True:
            with contextlib.suppress(*AWAY):
                async with dial(self._address) as channel:
                    return await getattr(rpc.SchedulerServiceStub(channel), method)(request, timeout=10)
            await again()

    async def create(self, name: str, spec: search_pb2.SearchSpec) -> None:
        """Create a search, twice by the same request id."""
        request = api.CreateSearchRequest(search_id=name, spec=spec, request_id=f"create-{name}")
        for _ in range(2):
            reply = await self.ask("CreateSearch", request)
            self.history.append(Answered(request.request_id, _digest(request), _digest(reply)))

    async def follow(self, watcher: str, name: str) -> None:
        """Watch a search to its end, across restarts, and note every change that is still kept."""
        last = 0
        while True:
            with contextlib.suppress(*AWAY), _forgotten(watcher) as forgotten:
                async with dial(self._address) as channel:
                    request = api.WatchSearchRequest(name=f"searches/{name}", after_sequence=last)
                    async for change in rpc.SchedulerServiceStub(channel).WatchSearch(request):
                        if change.WhichOneof("change") == "progress":
                            continue
                        last = change.sequence
                        self._note(watcher, f"searches/{name}", change)
                    return
            if forgotten:
                return
            await again()

    def _note(self, watcher: str, search: str, change: api.WatchSearchResponse) -> None:
        if change.HasField("trial"):
            seen = Watched(watcher, search, change.sequence, change.trial.number, change.trial.outcome)
        else:
            seen = Watched(watcher, search, change.sequence, 0, change.search.state)
        self.history.append(seen)

    async def read(self, name: str) -> list[search_pb2.Trial]:
        """Read a search at the end, note what is there, and return its trials."""
        parent = f"searches/{name}"
        search = (await self.ask("GetSearch", api.GetSearchRequest(name=parent))).search
        self.history.append(ListedSearch(parent, search.state, search.sequence))
        trials: list[search_pb2.Trial] = []
        token = ""
        while True:
            page = await self.ask("ListTrials", api.ListTrialsRequest(parent=parent, page_size=50, page_token=token))
            trials.extend(page.trials)
            token = page.next_page_token
            if not token:
                break
        for trial in trials:
            one = (await self.ask("GetTrial", api.GetTrialRequest(name=trial.name))).trial
            assert one == trial
            self.history.append(_listed(parent, trial))
        return trials


@contextlib.contextmanager
def _forgotten(watcher: str) -> Iterator[list[bool]]:
    """Note where a late watcher is told that what happened so long ago is not kept: trials are read in any case."""
    found: list[bool] = []
    try:
        yield found
    except grpc.RpcError as error:
        if watcher == "late" and error.code() is grpc.StatusCode.OUT_OF_RANGE:
            found.append(True)
        raise


def _listed(search: str, trial: search_pb2.Trial) -> Listed:
    scores = sum(found.metric == "accuracy" for found in trial.measurements)
    by = {kind: trial.environment.get(f"{kind}.attempt", "") for kind in ("train", "evaluate")}
    return Listed(
        search, trial.number, trial.outcome, scores, by["train"], by["evaluate"], trial.reused_from, len(trial.rungs)
    )


def _digest(message: Any) -> str:
    return hashlib.sha256(message.SerializeToString(deterministic=True)).hexdigest()[:16]


def check_results(trials: list[search_pb2.Trial]) -> None:
    """Check that trials came out as they always do, whoever was killed meanwhile; one that was reused as its source."""
    assert [trial.number for trial in trials] == list(range(1, len(trials) + 1))
    for trial in trials:
        scored = search_pb2.TRIAL_OUTCOME_STOPPED if trial.rungs else search_pb2.TRIAL_OUTCOME_SUCCEEDED
        assert trial.outcome in (scored, search_pb2.TRIAL_OUTCOME_SUCCEEDED), trial
        name = trial.reused_from or trial.name
        text = f"{name} {trial.train.seed}"
        if trial.outcome == search_pb2.TRIAL_OUTCOME_STOPPED:
            text += f" until {trial.rungs[-1].step}"
        assert trial.checkpoint == make.make_ref(text, "checkpoints")
        assert trial.model == make.make_ref(f"{text} model", "checkpoints")
        (score,) = (found.value for found in trial.measurements if found.metric == "accuracy")
        assert score == (int(name.rpartition("/")[2]) * 37 % 100) / 100


@asynccontextmanager
async def working(address: str, history: list[Observation], *, agents: int = 3) -> AsyncIterator[None]:
    """Have agents at work during a block."""
    meetings = Meetings()
    running = [asyncio.create_task(Agent(address, f"a{number}", history, meetings).run()) for number in range(agents)]
    try:
        yield
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
