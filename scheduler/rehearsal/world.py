"""A mesh in virtual time: the real engine and desk on a journal in memory; agents are entries in a calendar.

Time stands still while the real generator is asked; what that costs in virtual time is the model's to say.
"""

import hashlib
import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from nasmesh import metrics, spaces
from nasmesh.clock import ManualClock
from nasmesh.errors import Invalid, NasmeshError
from nasmesh.store.keys import ObjectKind, object_ref
from nasmesh.training_rules import MOST_PROCESSES
from nasmesh.v1 import architecture_pb2, dataset_pb2, job_pb2, search_pb2
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import scheduler_service_pb2 as api
from scheduler.agents import AgentEntry
from scheduler.desk import Desk
from scheduler.domain import OPEN_SEARCHES, SearchRun
from scheduler.early_stopping import total_steps
from scheduler.engine import Engine
from scheduler.journal.memory import MemoryJournal
from scheduler.machine import early
from scheduler.rehearsal.data import NOTHING_ADDED, Added, Data, known
from scheduler.rehearsal.model import Model, readings, share_of
from scheduler.rehearsal.usage import Usage
from scheduler.searches import Searches

# Virtual agents never vanish, so no lease need ever end, and none beats.
LEASE_S = 1e9
SEARCH = "rehearsal"
# What a second of virtual time may not hold without any end: a search that never ends is a fault here, not patience.
_MOST_S = 100 * 365 * 86400.0
_KINDS = (search_pb2.TASK_KIND_GENERATE, search_pb2.TASK_KIND_TRAIN, search_pb2.TASK_KIND_EVALUATE)

Ask = Callable[[pb.Lease], pb.AttemptOutcome]


@dataclass(slots=True)
class VirtualAgent:
    """An agent with slots of one kind; a Session that hears what the scheduler sends."""

    name: str
    kind: search_pb2.TaskKind.ValueType
    slots: int
    entry: AgentEntry | None = None
    inbox: list[pb.WorkResponse] = field(default_factory=list)
    working: dict[str, float] = field(default_factory=dict)

    def send(self, message: pb.WorkResponse) -> None:
        """Take a message."""
        self.inbox.append(message)

    def close(self, error: NasmeshError) -> None:
        """Fail: virtual agents do nothing wrong."""
        raise error


class World:
    """One rehearsal of one search with a number of hosts; a host has one slot for training and one for scoring."""

    def __init__(
        self,
        hosts: int,
        ask: Ask,
        server: job_pb2.Server,
        model: Model,
        *,
        generators: int = 1,
        added: Added = NOTHING_ADDED,
    ) -> None:
        """Connect the agents at time 0; `ask` works on generate leases with a real generator that `server` offers.

        `added`: the data sets that are there besides the built-in ones.
        """
        self.clock = ManualClock(monotonic=0.0)
        self.engine = Engine(MemoryJournal(), self.clock, lease_s=LEASE_S)
        self.engine.recover()
        self.engine.state.datasets.update(added)
        self.desk, self.searches = Desk(self.engine), Searches(self.engine)
        self.usage = Usage(hosts)
        self.asked = 0
        self._ask, self._model, self._server = ask, model, server
        self._calendar: list[tuple[float, int, VirtualAgent, pb.AttemptOutcome]] = []
        self._noted = 0
        self._agents = [VirtualAgent("agents/generate", _KINDS[0], generators)]
        for number in range(1, hosts + 1):
            self._agents += [VirtualAgent(f"agents/{kind}-{number}", value, 1) for kind, value in _DEVICES]

    @property
    def run(self) -> SearchRun:
        """The search."""
        return self.engine.state.searches[SEARCH]

    def rehearse(self, spec: search_pb2.SearchSpec, told: Callable[[int], None] = lambda _: None) -> None:
        """Run a search to its end; `told` hears how many trials have ended. Raises what CreateSearch raises."""
        self._step([partial(self._connect, agent, spec.data.dataset) for agent in self._agents])
        self._step([partial(self.searches.create, api.CreateSearchRequest(search_id=SEARCH, spec=spec))])
        while self.run.state in OPEN_SEARCHES:
            self._next()
            told(len(self.run.results))

    @property
    def _data(self) -> Data:
        return known(self.run.spec.data, self.engine.state.datasets)

    # --- one moment after the other ------------------------------------------------------------------------------

    def _next(self) -> None:
        """Go to the next moment at which something happens, and do all that happens then."""
        at = self._calendar[0][0] if self._calendar else _MOST_S
        at = min(at, self.engine.next_deadline())
        if at >= _MOST_S:
            why = self.engine.work.lacking(self.engine.state, self.run) or self.run.stop_reason
            raise Invalid("REHEARSAL_STUCK", f"nothing happens any more: {self.run.state.name}, {why}")
        now = self.clock.monotonic()
        self.usage.pass_time(max(0.0, at - now), self.run, self.engine.state)
        self.clock.advance(max(0.0, at - now))
        commands: list[Callable[[], object]] = []
        while self._calendar and self._calendar[0][0] <= at:
            _, _, agent, outcome = heapq.heappop(self._calendar)
            if agent.working.pop(outcome.token.task, None) is not None and agent.entry is not None:
                commands += [partial(self.desk.outcome, agent.entry, outcome), partial(self._ready, agent)]
        self._step(commands)

    def _step(self, commands: list[Callable[[], object]]) -> None:
        for result in self.engine.execute(commands):
            if isinstance(result, Exception):
                raise result
        for agent in self._agents:
            if agent.inbox:
                messages, agent.inbox = agent.inbox, []
                for message in messages:
                    self._hear(agent, message)

    def _connect(self, agent: VirtualAgent, dataset: str) -> None:
        # It takes as many tasks at once as it says below; a training may be over several processes all the same.
        slots = max(agent.slots, MOST_PROCESSES)
        hello = pb.AgentHello(agent=agent.name, slots=[pb.AgentSlots(kind=agent.kind, slots=slots)])
        if agent.kind == search_pb2.TASK_KIND_GENERATE:
            hello.server.CopyFrom(self._server)
        else:
            hello.server.datasets.append(dataset_pb2.Dataset(name=dataset, available=True))
            if agent.kind == search_pb2.TASK_KIND_TRAIN:
                hello.server.gang_address = f"{agent.name.partition('/')[2]}.rehearsal:1"
        agent.entry = self.desk.hello(agent, hello)
        self._ready(agent)

    def _ready(self, agent: VirtualAgent) -> None:
        if agent.entry is not None:
            free = agent.slots - len(agent.working)
            self.desk.ready(agent.entry, pb.AgentReady(kind=agent.kind, free=free))

    def _hear(self, agent: VirtualAgent, message: pb.WorkResponse) -> None:
        if message.HasField("lease"):
            self._begin(agent, message.lease)
        elif message.HasField("cancel") and agent.working.pop(message.cancel.token.task, None) is not None:
            released = pb.AttemptOutcome(token=message.cancel.token, released=pb.AttemptReleased())
            self._note(agent, 0.0, released)

    def _begin(self, agent: VirtualAgent, lease: pb.Lease) -> None:
        if agent.kind == search_pb2.TASK_KIND_GENERATE:
            outcome = self._ask(lease)
            self.asked += 1
            seconds = self._model.generate_duration_s(len(outcome.generate.trials))
        else:
            trial = self.run.trials[int(lease.trial.rpartition("/")[2]) - 1]
            if lease.train.gang.rank:  # it stops with rank 0, when it is told
                agent.working[lease.token.task] = _MOST_S
                return
            if lease.HasField("train"):
                outcome, seconds = self._train(trial, lease.train.until_step, max(1, lease.train.gang.size))
            elif lease.evaluate.untrained:
                outcome, seconds = self._profile(trial)
            else:
                outcome, seconds = self._score(trial)
        outcome.token.CopyFrom(lease.token)
        self._note(agent, seconds, outcome)

    def _note(self, agent: VirtualAgent, seconds: float, outcome: pb.AttemptOutcome) -> None:
        """Write an end of work into the calendar; of two at one moment the one noted first comes first."""
        self._noted += 1
        at = self.clock.monotonic() + seconds
        agent.working[outcome.token.task] = at
        heapq.heappush(self._calendar, (at, self._noted, agent, outcome))

    # --- modelled work -------------------------------------------------------------------------------------------

    def _train(self, trial: search_pb2.Trial, until_step: int, servers: int) -> tuple[pb.AttemptOutcome, float]:
        """Train; servers of a gang share what grows with the samples, and what they tell each other takes no time."""
        spec = self.run.spec
        until = until_step or total_steps(trial.train, spec.early_stopping.train_samples)
        share = share_of(spec, trial, until) - (share_of(spec, trial, trial.steps) if trial.rungs else 0.0)
        seconds = self._model.train_duration_s(trial, self._data, spec.seed, share=share / servers)
        seconds = min(seconds, trial.train.max_time_s or seconds)
        outcome = pb.AttemptOutcome()
        outcome.train.steps = until if spec.HasField("early_stopping") else 0
        outcome.train.device_time_s = seconds * servers
        # Nobody reads these objects: weights exist in no rehearsal.
        outcome.train.checkpoint.CopyFrom(object_ref(ObjectKind.CHECKPOINT, trial.name.encode()))
        outcome.train.data_digest = hashlib.sha256(spec.data.SerializeToString(deterministic=True)).hexdigest()
        outcome.train.measurements.extend(readings(trial, self._scales(trial), spec.seed))
        return outcome, seconds

    def _profile(self, trial: search_pb2.Trial) -> tuple[pb.AttemptOutcome, float]:
        """Measure what training does not change; that takes as long as the fixed part of a scoring."""
        outcome = pb.AttemptOutcome()
        outcome.evaluate.device_time_s = self._model.evaluate_s
        for bound in early.bounds(self.run.spec):
            outcome.evaluate.measurements.add(metric=bound.metric, value=self._model.measure(bound.metric, 0.0, trial))
        return outcome, self._model.evaluate_s

    def _score(self, trial: search_pb2.Trial) -> tuple[pb.AttemptOutcome, float]:
        spec = self.run.spec
        seconds = self._model.evaluate_duration_s(trial, self._data, spec.seed)
        accuracy = self._model.score(trial, self._data, spec.seed, share=share_of(spec, trial, trial.steps))
        outcome = pb.AttemptOutcome()
        outcome.evaluate.device_time_s = seconds
        asked = (o.metric for o in spec.objectives if not metrics.is_proxy(o.metric, spec.evaluate))
        wanted = dict.fromkeys(["accuracy", *asked, *(c.metric for c in spec.constraints)])
        splits = dict.fromkeys(filter(None, (trial.evaluate.further_split, trial.evaluate.split)))
        for split, metric in itertools.product(splits, wanted):
            outcome.evaluate.measurements.add(
                metric=metric, value=self._model.measure(metric, accuracy, trial), split=split
            )
        return outcome, seconds

    def _scales(self, trial: search_pb2.Trial) -> dict[str, list[str]]:
        """Return the names of trainable scales by block, where a plan asks for them."""
        if not trial.instrumentation.probes or not trial.HasField("choices"):
            return {}
        info = self._data.seen
        built = spaces.build(
            self.run.spec.space,
            trial.choices,
            input_dims=info.sample_dims,
            classes=info.classes,
            preprocessing=architecture_pb2.Preprocessing(),
        )
        return {
            block.id: [f"{block.id}.scale.{edge.source}" for edge in block.inputs if edge.HasField("scale")]
            for block in built.blocks
        }


_DEVICES = (("train", search_pb2.TASK_KIND_TRAIN), ("evaluate", search_pb2.TASK_KIND_EVALUATE))
