"""The promises, checked while a life goes on: after every durable batch on what it touched, and fully at every end.

A second state is kept from the journal's bytes alone, event by event. Whatever the scheduler believes must equal it
(I11), and the invariants of scheduler/invariants.py are checked on it; what only a witness can know is checked here:
what was told to anybody (I1, I10), how long an agent was silent before it was given up (I7), objects (I9).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from google.protobuf.message import Message

from nasmesh.errors import NasmeshError
from nasmesh.store.keys import ObjectKind
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import object_pb2, search_pb2
from scheduler import invariants, lease_invariants
from scheduler.domain import OPEN_TASKS, SearchState, State, Task, TaskState
from scheduler.facts import AttemptLeased, AttemptLost, CheckpointReported, Event, NeedUnmet, OutcomeReported
from scheduler.invariants import InvariantError
from scheduler.journal import codec
from scheduler.machine import apply, reuse
from scheduler.wishes import SearchDeleted
from tests.sim.placing import Placing

if TYPE_CHECKING:
    from scheduler.engine import Engine
    from tests.sim.journal import JournalDisk
    from tests.sim.store import FaultStore

AGENT_SAID_SO = frozenset({"AGENT_FORGOT"})


@dataclass(slots=True)
class Checks:
    """A witness of one life. `as_created`: nobody changes searches in it."""

    store: "FaultStore"
    lease_s: float
    as_created: bool = False
    shadow: State = field(default_factory=State)
    fed: int = 0
    ended: dict[str, TaskState] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    recorded: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    leased: dict[tuple[str, int, str], None] = field(default_factory=dict)
    answers: dict[str, tuple[bytes, Message]] = field(default_factory=dict)
    stopped: dict[tuple[str, int], None] = field(default_factory=dict)
    heard: dict[tuple[str, int, str], float] = field(default_factory=dict)
    extended: dict[tuple[str, int, str], float] = field(default_factory=dict)
    spoken: dict[tuple[str, int, str], None] = field(default_factory=dict)
    dispositions: dict[str, int] = field(default_factory=dict)
    waited: dict[tuple[str, int], None] = field(default_factory=dict)
    placing: Placing = field(default_factory=Placing)
    epoch: int = 0

    # --- what was told ----------------------------------------------------------------------------------------------

    def told(self, agent: str, message: pb.WorkResponse, now: float) -> None:
        """Note what an agent is told: from now on it must be true for ever."""
        kind = message.WhichOneof("kind")
        self.placing.told(agent, message, now)
        if kind == "outcome_reply":
            name = pb.OutcomeDisposition.Name(message.outcome_reply.disposition).removeprefix("OUTCOME_DISPOSITION_")
            self.dispositions[name] = self.dispositions.get(name, 0) + 1
        if kind == "lease":
            token = message.lease.token
            self.leased[token.task, token.attempt, agent] = None
            self.heard[token.task, token.attempt, agent] = now
            self.extended[token.task, token.attempt, agent] = now
        elif kind == "outcome_reply" and message.outcome_reply.disposition == pb.OUTCOME_DISPOSITION_RECORDED:
            token = message.outcome_reply.token
            before = self.recorded.get(token.task)
            if before is not None and before[0] >= token.attempt:
                raise InvariantError(f"I2: {token.task} attempt {token.attempt} is recorded after {before[0]}")
            digest = self._attempt(token).digest
            self.recorded[token.task] = (token.attempt, digest)
        elif kind == "heartbeat_reply":
            for token in message.heartbeat_reply.extended:
                self.spoke(token, agent, now)
        elif kind == "cancel" and not message.cancel.checkpoint:
            self.stopped[message.cancel.token.task, message.cancel.token.attempt] = None
        elif kind == "batch":
            for part in message.batch.messages:
                self.told(agent, part, now)

    def spoke(self, token: pb.AttemptToken, agent: str, now: float) -> None:
        """Note that the scheduler that runs now has said that an agent has spoken of an attempt."""
        self.heard[token.task, token.attempt, agent] = now
        self.named(token, agent, now)

    def named(self, token: pb.AttemptToken, agent: str, now: float) -> None:
        """Note that an agent has named an attempt to the scheduler that runs now, which may have extended its lease."""
        self.extended[token.task, token.attempt, agent] = now
        self.spoken[token.task, token.attempt, agent] = None

    def renewed(self, now: float) -> None:
        """Note that the scheduler has read its journal back: every lease is full again."""
        for task in self._running():
            for agent in task.current().agents:
                self.extended[task.id, task.current().number, agent] = now

    def _attempt(self, token: pb.AttemptToken) -> object:
        task = self.shadow.tasks.get(token.task)
        if task is None or not 1 <= token.attempt <= len(task.attempts):
            raise InvariantError(f"I1: told of {token.task} attempt {token.attempt}, which the journal does not have")
        return task.attempts[token.attempt - 1]

    def answered(self, request_id: str, body: bytes, reply: Message) -> None:
        """Note what a client was answered; the same request must always get the same answer (I10)."""
        before = self.answers.setdefault(request_id, (body, reply))
        if before[0] == body and before[1] != reply:
            raise InvariantError(f"I10: request {request_id} was answered {before[1]}, then {reply}")

    # --- what became durable ----------------------------------------------------------------------------------------

    def feed(self, disk: "JournalDisk", now: float) -> None:
        """Follow the journal: apply what is new to the second state and check what it touched."""
        touched: dict[str, None] = {}
        searches: dict[str, None] = {}
        events = disk.written.events
        while self.fed < len(events):
            event = codec.decode_event(self.fed + 1, events[self.fed])
            self.fed += 1
            self._before(event, now)
            apply(self.shadow, event)
            self._touch(event, touched, searches)
        if self.shadow.epoch < self.epoch:
            raise InvariantError(f"I5: epoch fell from {self.epoch} to {self.shadow.epoch}")
        self.epoch = self.shadow.epoch
        for task_id in touched:
            task = self.shadow.tasks.get(task_id)
            if task is not None:
                self._check_task(task)
        for search in searches:
            run = self.shadow.searches.get(search)
            if run is not None:
                invariants.check_search(self.shadow, run)
                most = run.spec.parallelism if self.as_created and run.state is SearchState.RUNNING else run.in_work
                if run.in_work > most:
                    raise InvariantError(f"{run.id} has {run.in_work} trials in work, parallelism is {most}")
        invariants.check_waiting(self.shadow)
        for places in self.shadow.waiting.values():
            self.waited.update(places)

    def _before(self, event: Event, now: float) -> None:
        """Check facts against what is known before they are applied: I3, and when an attempt may be lost (I7, I12)."""
        change = event.change
        if isinstance(change, OutcomeReported):
            token = change.outcome.token
            task = self.shadow.tasks[token.task]
            if task.state is not TaskState.RUNNING or task.current().number != token.attempt:
                raise InvariantError(f"I3: attempt {token.attempt} was recorded: {task.story()}")
            if task.current().epoch != token.epoch:
                raise InvariantError(f"I3: an outcome of epoch {token.epoch} was recorded: {task.story()}")
            self._check_objects(_refs(change.outcome))
        elif isinstance(change, CheckpointReported):
            self._check_objects([change.checkpoint])
        elif isinstance(change, AttemptLost):
            self._check_loss(change, now)
        elif isinstance(change, AttemptLeased | NeedUnmet):
            self.placing.check(self.shadow, change, now)
        elif isinstance(change, SearchDeleted):
            self._forget(change.search)

    def _forget(self, search: str) -> None:
        """Expect nothing any more of the tasks of a search that is deleted."""
        tasks = {task.id for task in self.shadow.tasks.values() if task.search == search}
        for task_id in tasks:
            self.ended.pop(task_id, None)
            self.numbers.pop(task_id, None)
            self.recorded.pop(task_id, None)
        for told in (self.leased, self.stopped):
            for key in [key for key in told if key[0] in tasks]:
                del told[key]

    def _check_loss(self, change: AttemptLost, now: float) -> None:
        task = self.shadow.tasks[change.task]
        attempt = task.current()
        heard = min(self.heard.get((change.task, change.attempt, agent), -1e9) for agent in attempt.agents)
        forgot = change.failure.reason in AGENT_SAID_SO or "came back without" in change.failure.message
        if not forgot and now - heard < self.lease_s - 1e-6:
            raise InvariantError(
                f"I7: lost {now - heard:.3f} s after it was heard of, a lease is {self.lease_s}: {task.story()}"
            )
        if change.failure.counted and attempt.members:
            raise InvariantError(f"I12: that one of a gang is gone was counted: {task.story()}")
        is_silent = (change.task, change.attempt, attempt.agent) not in self.spoken
        if change.failure.counted and attempt.epoch < self.shadow.epoch and is_silent:
            raise InvariantError(f"I12: a loss that a restart may have caused was counted: {task.story()}")

    def booted(self, engine: "Engine", now: float) -> None:
        """Check a scheduler that has just recovered: everything told is still there, and every lease is full."""
        self.spoken.clear()
        for task_id, (number, digest) in self.recorded.items():
            task = engine.state.tasks.get(task_id)
            kept = task is not None and len(task.attempts) >= number and task.attempts[number - 1]
            if not kept or not kept.ended or kept.digest != digest:
                raise InvariantError(f"I1: the acknowledged outcome of {task_id} attempt {number} is gone")
        for task_id, number, agent in self.leased:
            task = engine.state.tasks.get(task_id)
            if task is None or len(task.attempts) < number or agent not in task.attempts[number - 1].agents:
                raise InvariantError(f"I1: {agent} was told of {task_id} attempt {number}, which is gone")
        for task_id, number in self.stopped:
            task = engine.state.tasks.get(task_id)
            if task is None or len(task.attempts) < number or not task.attempts[number - 1].ended:
                raise InvariantError(f"I1: an agent was told to stop {task_id} attempt {number}, which is in work")
        for request_id, (_, reply) in self.answers.items():
            kept_answer = engine.answered(request_id)
            if kept_answer is None or type(reply).FromString(kept_answer.reply) != reply:
                raise InvariantError(f"I10: the answer to request {request_id} is gone, or another")
        if engine.work.leases.armed() and engine.work.leases.next_deadline() < now + self.lease_s - 1e-6:
            raise InvariantError("I7: a lease is not full after a restart")
        self.renewed(now)
        self.heard.update(self.extended)
        self.equal(engine)

    def reread(self, disk: "JournalDisk") -> None:
        """Read the journal anew, after a power cut may have taken some of it."""
        self.shadow, self.fed = State(), 0
        self.epoch = 0
        for sequence, body in enumerate(disk.written.events, start=1):
            event = codec.decode_event(sequence, body)
            if isinstance(event.change, SearchDeleted):
                self._forget(event.change.search)
            apply(self.shadow, event)
            self.fed = sequence
        # What nobody had been told yet may be gone; what was told is in `recorded`, `leased` and `answers`.
        tasks = self.shadow.tasks.values()
        self.ended = {task.id: task.state for task in tasks if task.state not in OPEN_TASKS}
        self.numbers = {task.id: len(task.attempts) for task in tasks}

    def equal(self, engine: "Engine") -> None:
        """Check the whole of what the scheduler believes (I11), and every invariant on it."""
        if engine.state != self.shadow:
            raise InvariantError(f"I11: the state differs from its journal:\n{engine.state}\n{self.shadow}")
        invariants.check(engine.state)
        for task_id, state in self.ended.items():
            if engine.state.tasks[task_id].state is not state:
                raise InvariantError(f"I4: was {state.name}: {engine.state.tasks[task_id].story()}")
        if engine.state.deleted:
            _check_measured(engine.state)

    def armed(self, engine: "Engine", now: float) -> None:
        """Check what runs against what is armed, offered and heard (I7, I8); only open searches have running tasks."""
        running = list(self._running())
        agents = engine.agents.connected()
        slots = {(e.name, kind): n + e.most_ahead.get(kind, 0) for e in agents for kind, n in e.slots.items()}
        lease_invariants.check_leases(running, engine.work.leases.armed(), slots)
        held: dict[str, set[str]] = {}
        for task in running:
            attempt = task.current()
            for agent in attempt.agents:
                held.setdefault(agent, set()).add(task.id)
                silent_s = now - self.extended.get((task.id, attempt.number, agent), now)
                if silent_s > self.lease_s + 1e-6:
                    raise InvariantError(f"I7: nothing heard of {agent} for {silent_s:.3f} s: {task.story()}")
        for entry in engine.agents.all():
            if set(entry.held) != held.get(entry.name, set()):
                raise InvariantError(f"I8: {entry.name} takes up slots for {list(entry.held)}, not {held}")

    def _running(self) -> Iterable[Task]:
        for run in self.shadow.searches.values():
            for task_id in run.open_tasks:
                task = self.shadow.tasks[task_id]
                if task.state is TaskState.RUNNING:
                    yield task

    # --- below ------------------------------------------------------------------------------------------------------

    def _touch(self, event: Event, touched: dict[str, None], searches: dict[str, None]) -> None:
        change = event.change
        task_id = getattr(change, "task", "")
        if isinstance(change, OutcomeReported):
            task_id = change.outcome.token.task
        search = getattr(change, "search", "")
        if task_id and task_id in self.shadow.tasks:
            touched[task_id] = None
            search = self.shadow.tasks[task_id].search
        if search and search in self.shadow.searches:
            searches[search] = None
            touched.update(self.shadow.searches[search].open_tasks)

    def _check_task(self, task: Task) -> None:
        invariants.check_task(self.shadow, task)
        old = self.ended.get(task.id)
        if old is not None and task.state is not old:
            raise InvariantError(f"I4: was {old.name}: {task.story()}")
        if task.state not in OPEN_TASKS:
            self.ended[task.id] = task.state
        if len(task.attempts) < self.numbers.get(task.id, 0):
            raise InvariantError(f"I5: had {self.numbers[task.id]} attempts: {task.story()}")
        self.numbers[task.id] = len(task.attempts)
        if task.state is TaskState.SUCCEEDED and task.trial:
            self._check_fence(task)

    def _check_fence(self, task: Task) -> None:
        """Check that what was recorded is what the current attempt measured, not another one (I3)."""
        trial = self.shadow.searches[task.search].trials[task.trial - 1]
        _, _, rung = task.id.rpartition("-r")
        if int(rung if rung.isdigit() else 0) < len(trial.rungs):
            return  # the trial is beyond this part of its training
        noted = trial.environment.get(f"{task.kind.name.lower()}.attempt", "")
        part, _, number = noted.rpartition("/")
        if trial.outcome == search_pb2.TRIAL_OUTCOME_INFEASIBLE and part != task.id:
            return  # what does not fit says nothing of itself: what is noted is of the rung before
        if noted and (part, number) != (task.id, str(task.current().number)):
            raise InvariantError(f"I3: attempt {noted} was recorded: {task.story()}")

    def _check_objects(self, refs: Iterable[object_pb2.ObjectRef]) -> None:
        for ref in refs:
            try:
                self.store.store.get(ref)
            except NasmeshError as error:
                raise InvariantError(f"I9: {ref.key} is recorded: {error.message}") from error


def _check_measured(state: State) -> None:
    """Check that whatever a search still holds measured can be taken over, whoever measured it first and is deleted."""
    for run in state.searches.values():
        for trial in run.trials if run.spec.cache else ():
            is_whole = trial.outcome == search_pb2.TRIAL_OUTCOME_SUCCEEDED
            if is_whole and not trial.evaluate.table and reuse.digest_of(run, trial) not in state.measured:
                raise InvariantError(f"{trial.name} holds measurements, which nobody would take over")


def _refs(outcome: pb.AttemptOutcome) -> Iterable[object_pb2.ObjectRef]:
    kind = outcome.WhichOneof("result")
    if kind == "train":
        yield outcome.train.checkpoint
        yield outcome.train.model
    elif kind == "released" and outcome.released.HasField("checkpoint"):
        yield outcome.released.checkpoint
    elif kind == "generate":
        for trial in outcome.generate.trials:
            if trial.HasField("network") and trial.network.object.key.startswith(ObjectKind.NETWORK.value):
                yield trial.network.object
