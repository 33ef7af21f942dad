"""The rules of the conversation with agents, without the stream: who is there, who holds what, what came of it."""

import hashlib
from collections.abc import Iterable

from nasmesh import __version__, ids
from nasmesh.errors import Conflict, Invalid, NotFound, Stale, Unavailable
from nasmesh.limits import LEASES_AHEAD
from nasmesh.logs import get_logger
from nasmesh.memory import given_bytes
from nasmesh.rpc.identity import LOCAL, Identity
from nasmesh.settings import parse_address
from nasmesh.settings_schema import read_settings_schema
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import scheduler_service_pb2
from nasmesh.versions import check_fit
from scheduler import convert, holds, outcomes
from scheduler.agents import AgentEntry, Session
from scheduler.domain import Task, TaskKind, TaskState, about
from scheduler.engine import Engine
from scheduler.facts import CheckpointReported, OutcomeReported
from scheduler.needs import beyond
from scheduler.ownership import may_be_agent
from scheduler.tally import excuse, tally

_SLOTS = 10_000
_HELD = 10_000
_TEXT = 128
_KINDS = {int(kind): kind for kind in TaskKind}
_log = get_logger("desk")


class Desk:
    """What agents say, one method a message. Methods are commands of the engine: they run within its steps."""

    def __init__(self, engine: Engine) -> None:
        """Serve an engine."""
        self._engine = engine

    def hello(self, session: Session, hello: pb.AgentHello, address: str = "") -> AgentEntry:
        """Welcome an agent, which dialled from an address: leases it names go on, those it has forgotten are lost.

        Raises Invalid (HELLO_INVALID, NAME_INVALID, ADDRESS_INVALID), Stale (EPOCH_STALE, VERSION_UNFIT), Conflict
        (AGENT_NAME_TAKEN).
        """
        engine = self._engine
        _check_hello(hello)
        check_fit(hello.version, __version__, who=hello.agent)
        if hello.epoch > engine.state.epoch:
            raise Stale("EPOCH_STALE", f"agent has seen epoch {hello.epoch}, this scheduler is {engine.state.epoch}")
        before = engine.agents.get(hello.agent)
        _check_same(before, hello)
        superseded = self._sort_held(hello.agent, hello.held)
        if before is not None and before.session is not None:
            before.session.close(Unavailable("AGENT_REPLACED", f"{hello.agent} has opened another stream"))
            before.session = None  # it may still stand in line for work, with room that is counted elsewhere now
        entry = AgentEntry(
            name=hello.agent,
            slots={TaskKind(slots.kind): slots.slots for slots in hello.slots},
            most_ahead={TaskKind(slots.kind): slots.ahead for slots in hello.slots if slots.ahead},
            gang_address=hello.server.gang_address,
            server=hello.server,
            labels=dict(hello.labels),
            session=session,
            last_seen_us=engine.time_us(),
            accepts_batches=hello.accepts_batches,
            version=hello.version,
            instance=hello.instance,
            host=hello.host,
            address=address,
            gives_bytes=given_bytes(hello.server),
        )
        engine.agents.put(entry, engine.now)
        welcome = pb.Welcome(epoch=engine.state.epoch, superseded=superseded, version=__version__, accepts_reports=True)
        welcome.lease.FromMilliseconds(round(engine.lease_s * 1000))
        engine.send(session, pb.WorkResponse(welcome=welcome))
        holds.apply_drain(engine, entry)
        holds.ask_back(engine, entry)
        _log.info("agent_connected", agent=entry.name, held=len(hello.held), superseded=len(superseded))
        return entry

    def ready(self, entry: AgentEntry, ready: pb.AgentReady) -> None:
        """Note how many leases of a kind an agent can take."""
        _check_ready(ready)
        self._seen(entry)
        kind = _KINDS[ready.kind]
        entry.free[kind] = ready.free
        entry.ahead[kind] = ready.ahead
        self._engine.work.offer(entry, kind)

    def report(self, entry: AgentEntry, report: pb.AgentReport) -> None:
        """Record outcomes and note free slots; the same as a message each, in that order."""
        for ready in report.ready:  # before anything is recorded: a command is refused whole or not at all
            _check_ready(ready)
        for outcome in report.outcomes:
            self.outcome(entry, outcome)
        for ready in report.ready:
            self.ready(entry, ready)

    def heartbeat(self, entry: AgentEntry, heartbeat: pb.AgentHeartbeat) -> None:
        """Extend the leases of attempts in hand, keep their checkpoints, pass their progress on."""
        engine = self._engine
        self._seen(entry)
        reply = pb.HeartbeatReply()
        for progress in heartbeat.attempts:
            task = self._held(entry.name, progress.token)
            if task is None:
                reply.superseded.append(progress.token)
                continue
            engine.work.leases.beat(task.id, entry.name, progress.token.attempt, engine.clock.monotonic())
            reply.extended.append(progress.token)
            if task.attempts[-1].agent == entry.name:  # of a gang, rank 0 tells where the training stands
                self._keep_checkpoint(task, progress)
                self._pass_on(entry, task, progress)
        engine.send(entry.session, pb.WorkResponse(heartbeat_reply=reply))

    def outcome(self, entry: AgentEntry, outcome: pb.AttemptOutcome) -> None:
        """Record an outcome once; repetitions and late ones are answered and change nothing."""
        self._seen(entry)
        token = outcome.token
        body = outcome.SerializeToString(deterministic=True)
        digest = hashlib.sha256(body).digest()[:16]
        task = self._held(entry.name, token)
        disposition = self._record(task, entry, outcome, digest, body) if task else self._late(token, digest)
        message = pb.WorkResponse()
        reply = message.outcome_reply
        reply.token.CopyFrom(token)
        reply.disposition = disposition
        self._engine.send(entry.session, message)

    def draining(self, entry: AgentEntry) -> None:
        """Give an agent no more work."""
        self._seen(entry)
        entry.draining = True
        _log.info("agent_draining", agent=entry.name)

    def gone(self, entry: AgentEntry, session: Session) -> None:
        """Note that a stream has ended; leases outlive it."""
        if entry.session is session:
            entry.session = None
            entry.gone_s = self._engine.now
            entry.free.clear()
            entry.ahead.clear()
            _log.info("agent_disconnected", agent=entry.name, held=len(entry.held))

    def attempt(self, task_id: str, number: int, *, caller: Identity = LOCAL) -> pb.Attempt:
        """Return an attempt, the latest for number 0; raises NotFound (ATTEMPT_UNKNOWN), for other agents' too."""
        task = self._engine.state.tasks.get(ids.check_task_id(task_id))
        if task is None or not 0 <= number <= len(task.attempts) or not task.attempts:
            raise _no_attempt(task_id, number)
        found = convert.attempt_message(self._engine.state, task, number or len(task.attempts))
        if not [agent for agent in (found.agent, *found.members) if may_be_agent(caller, agent)]:
            raise _no_attempt(task_id, number)
        return found

    # --- below -----------------------------------------------------------------------------------------------

    def _seen(self, entry: AgentEntry) -> None:
        entry.last_seen_us = self._engine.time_us()

    def _held(self, agent: str, token: pb.AttemptToken) -> Task | None:
        """Return the task whose current attempt an agent holds; number, epoch and holder are the fence."""
        task = self._engine.state.tasks.open(token.task)
        if task is None or task.state is not TaskState.RUNNING:
            return None
        attempt = task.attempts[-1]
        current = (attempt.number, attempt.epoch) == (token.attempt, token.epoch)
        return task if current and (attempt.agent == agent or agent in attempt.members) else None

    def _sort_held(self, agent: str, tokens: Iterable[pb.AttemptToken]) -> list[pb.AttemptToken]:
        """Go on with what both sides know of; lose what only this side knows; return what only the agent knows."""
        engine = self._engine
        now = engine.clock.monotonic()
        superseded = []
        kept = set()
        for token in tokens:
            task = self._held(agent, token)
            if task is None:
                superseded.append(token)
            else:
                kept.add(task.id)
                engine.work.leases.beat(task.id, agent, token.attempt, now)
        for task_id in engine.agents.held_by(agent):
            if task_id not in kept:
                engine.lose(engine.state.tasks[task_id], agent, "AGENT_FORGOT", "the agent came back without it")
        return superseded

    def _record(
        self, task: Task, entry: AgentEntry, outcome: pb.AttemptOutcome, digest: bytes, body: bytes
    ) -> pb.OutcomeDisposition.ValueType:
        engine = self._engine
        run = engine.state.searches[task.search]
        disposition = pb.OUTCOME_DISPOSITION_RECORDED
        try:
            checked = outcomes.check(run, task, outcome)
            if task.attempts[-1].members:
                checked = outcomes.check_of_gang(task.attempts[-1].agents, entry.name, checked)
            elif checked.HasField("infeasible"):
                checked = beyond(checked, entry)
        except Invalid as error:
            _log.warning("outcome_invalid", **about(task), field=error.field, what=error.message)
            checked = outcomes.invalid_outcome(outcome, error)
            disposition = pb.OUTCOME_DISPOSITION_INVALID
        excuse(checked, engine.outage)
        engine.record(OutcomeReported(checked, digest, body if checked is outcome else None))
        tally(checked, engine.activity, engine.outage, engine.now)
        return disposition

    def _late(self, token: pb.AttemptToken, digest: bytes) -> pb.OutcomeDisposition.ValueType:
        task = self._engine.state.tasks.get(token.task)
        known = task is not None and 1 <= token.attempt <= len(task.attempts)
        if known and task is not None and task.attempts[token.attempt - 1].digest == digest:
            self._engine.activity.duplicate()
            return pb.OUTCOME_DISPOSITION_DUPLICATE
        self._engine.activity.superseded()
        return pb.OUTCOME_DISPOSITION_SUPERSEDED

    def _keep_checkpoint(self, task: Task, progress: pb.AttemptProgress) -> None:
        if not progress.HasField("checkpoint") or progress.checkpoint == task.checkpoint:
            return
        try:
            outcomes.check_checkpoint(progress.checkpoint)
        except Invalid as error:
            _log.warning("checkpoint_invalid", **about(task), what=error.message)
        else:
            self._engine.record(CheckpointReported(task.id, progress.token.attempt, progress.checkpoint))
            self._engine.outage.worked(self._engine.clock.monotonic())

    def _pass_on(self, entry: AgentEntry, task: Task, progress: pb.AttemptProgress) -> None:
        hub, run = self._engine.hub, self._engine.state.searches[task.search]
        known = progress.HasField("train") and outcomes.check_progress(progress.train)
        if not (known and task.trial and hub.is_watched(run.id)):
            return
        message = scheduler_service_pb2.WatchSearchResponse(sequence=self._engine.published_sequence(run.id))
        message.time.FromMicroseconds(self._engine.time_us())
        message.progress.trial = run.trial_name(task.trial)
        message.progress.agent = entry.name
        message.progress.train.CopyFrom(progress.train)
        hub.publish_progress(run.id, message)


def _check_ready(ready: pb.AgentReady) -> None:
    if ready.kind not in _KINDS or not 0 <= ready.free <= _SLOTS or not 0 <= ready.ahead <= LEASES_AHEAD:
        said = f"{ready.free} free and {ready.ahead} ahead of kind {ready.kind}"
        raise Invalid("READY_INVALID", f"ready: {said} makes no sense", field="ready")


def _no_attempt(task_id: str, number: int) -> NotFound:
    which = f"attempt {number}" if number else "attempt"
    return NotFound("ATTEMPT_UNKNOWN", f"there is no {which} at task {task_id!r}", field="task")


def _check_same(before: AgentEntry | None, hello: pb.AgentHello) -> None:
    """Refuse an agent whose name another one has that is here: the two would throw each other out for ever."""
    if before is None or before.session is None or not before.instance or not hello.instance:
        return
    if before.instance != hello.instance:
        there = f"host {before.host or '?'}" + (f" ({before.address})" if before.address else "")
        raise Conflict(
            "AGENT_NAME_TAKEN",
            f"hello.agent: {hello.agent} works on {there} already; start this one, on host {hello.host or '?'}, with "
            "another --name, or stop that one",
            field="hello.agent",
        )


def _check_hello(hello: pb.AgentHello) -> None:
    ids.parse_name("agents", hello.agent, field="hello.agent")
    kinds = [slots.kind for slots in hello.slots]
    if not kinds or len(set(kinds)) != len(kinds) or not _KINDS.keys() >= set(kinds):
        raise Invalid("HELLO_INVALID", "hello.slots: name each kind of task that is taken, once", field="hello.slots")
    if any(not 0 < slots.slots <= _SLOTS or not 0 <= slots.ahead <= LEASES_AHEAD for slots in hello.slots):
        message = f"hello.slots: 1 to {_SLOTS} slots of a kind, 0 to {LEASES_AHEAD} ahead"
        raise Invalid("HELLO_INVALID", message, field="hello.slots")
    if max(len(hello.version), len(hello.host), len(hello.instance)) > _TEXT:
        raise Invalid("HELLO_INVALID", f"hello: version, host and instance have {_TEXT} characters", field="hello")
    if len(hello.held) > _HELD or len(hello.labels) > 64:
        raise Invalid("HELLO_INVALID", "hello: too many attempts or labels", field="hello.held")
    if hello.server.gang_address and not parse_address(hello.server.gang_address, field="hello.server.gang_address")[1]:
        message = "hello.server.gang_address: port 0 is no port that others could call"
        raise Invalid("HELLO_INVALID", message, field="hello.server.gang_address")
    for generator in hello.server.generators:
        ids.parse_name("generators", generator.name, field="hello.server.generators")
        read_settings_schema(generator.settings_schema, field=f"hello.server.{generator.name}.settings_schema")
    for dataset in hello.server.datasets:
        ids.parse_name("datasets", dataset.name, field="hello.server.datasets")
    for table in hello.server.tables:
        ids.parse_name("tables", table, field="hello.server.tables")
    for field, names in (("metrics", hello.server.metrics), ("losses", hello.server.losses)):
        if len(names) > _HELD or any(len(name) > _TEXT for name in names):
            message = f"hello.server.{field}: at most {_HELD} names of at most {_TEXT} characters"
            raise Invalid("HELLO_INVALID", message, field=f"hello.server.{field}")
    for contents in hello.server.table_contents:
        ids.parse_name("tables", contents.name, field="hello.server.table_contents")
        if len(contents.figures) > _HELD or any(len(figure.metric) > _TEXT for figure in contents.figures):
            message = f"hello.server.table_contents: at most {_HELD} figures, names of at most {_TEXT} characters"
            raise Invalid("HELLO_INVALID", message, field="hello.server.table_contents")
