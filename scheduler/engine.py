"""The scheduler without sockets: commands in, one journal transaction, then replies, leases and news out.

A step is `prepare` (run commands, apply their facts, place tasks), the journal's `append`, then `publish`; or `abort`
where the append failed, which reads the state back from the journal so that nothing is half applied.
"""

from collections.abc import Sequence

from nasmesh import limits
from nasmesh.clock import Clock
from nasmesh.errors import NasmeshError, Unavailable
from nasmesh.logs import get_logger
from nasmesh.telemetry import tracing
from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import search_pb2
from scheduler.activity import Activity
from scheduler.agents import AgentEntry, Agents, Session
from scheduler.collecting import no_collection
from scheduler.consequences import FOLLOW, change_of, note_closed
from scheduler.domain import OPEN_SEARCHES, State, Task, TaskState, about
from scheduler.effects import Changed, Closed, Gone, IllegalTransitionError
from scheduler.facts import RULES, AttemptLeased, AttemptLost, Booted, Change, Event, SearchCreated
from scheduler.journal import codec
from scheduler.journal.base import Answer, Batch, Journal
from scheduler.journal.encoding import EventEncoder
from scheduler.machine import apply
from scheduler.outage import Outage
from scheduler.replaying import replay_event
from scheduler.snapshots import Snapshots
from scheduler.specs import Specs
from scheduler.step import Command, Step
from scheduler.traces import Traces
from scheduler.watch import WatchHub
from scheduler.workload import LEASES_A_STEP, Workload

# Events that a start replays at least, and hardly more than that: well under a second.
SNAPSHOT_EVENTS = 4000
# While the journal cannot be written, work is refused and one write is tried this often.
RETRY_JOURNAL_S = 1.0
RESTARTED = "SCHEDULER_RESTARTED"

_log = get_logger("engine")


class Engine:
    """Owns the state. Everything happens in commands, which run one after the other within a step."""

    def __init__(self, journal: Journal, clock: Clock, *, seed: int = 0, lease_s: float = limits.LEASE_S) -> None:
        """Use a journal that is not open yet; `seed` varies the back-off."""
        self.journal = journal
        self.clock = clock
        self.lease_s = lease_s
        self.state = State()
        self.agents = Agents()
        self.hub = WatchHub()
        self.activity = Activity()
        self.outage = Outage()
        self.traces = Traces() if tracing.enabled() else None
        self.work = Workload(self.agents, seed=seed, lease_s=lease_s)
        self.specs = Specs()
        self._encoder = EventEncoder()
        self.snapshots = Snapshots()
        self.step = Step(1)
        self._read_clock()
        self.start_time_us = self._time_us
        self._uptime_offset_s = 0.0
        self._refused: tuple[Unavailable, float] | None = None
        self.has_more = False

    def recover(self) -> None:
        """Take the journal over, read the state back, and give every running attempt a full lease."""
        epoch = self.journal.open()
        self._load()
        if epoch <= self.state.epoch:
            self.journal.withdraw()
            raise codec.unreadable(f"epoch {epoch}, which comes after {self.state.epoch},")
        self._read_clock()
        self.journal.forget_answers(self.state.uptime_s - limits.REQUEST_KEEP_S)  # wall time may jump
        self._uptime_offset_s = self.state.uptime_s - self.now
        step = self.step = Step(self.state.sequence + 1)
        self.record(Booted(epoch, RULES))
        step.batch = self._seal(step)
        self.journal.append(step.batch)
        self.publish(step)
        _log.info("recovered", epoch=epoch, events=self.state.sequence, searches=len(self.state.searches))

    @no_collection()
    def _load(self) -> None:
        self.snapshots = Snapshots()
        at, self.state = self.snapshots.load(self.journal)
        self.hub.forget()
        self.specs.clear()
        for sequence, body in self.journal.events(at):
            event, effects = replay_event(self.state, sequence, body)
            for effect in effects:
                if isinstance(effect, Changed):
                    change = change_of(self, effect, event.time_us)
                    is_over = not effect.trial and self.state.searches[effect.search].state not in OPEN_SEARCHES
                    self.hub.restore(effect.search, (change,), ended=is_over)
                elif isinstance(effect, Closed):
                    note_closed(self, effect)
                elif isinstance(effect, Gone):
                    self.hub.drop(effect.search)
        self.snapshots.loaded()
        self.work.rebuild(self.state, self.clock.monotonic())
        self._restore_waits()

    def _restore_waits(self) -> None:
        now = self.clock.monotonic()
        for run in self.state.searches.values():
            for task_id in run.open_tasks:
                if self.state.tasks[task_id].state is TaskState.QUEUED:
                    self.activity.queued_since.setdefault(task_id, now)

    # --- a step ----------------------------------------------------------------------------------------------

    def execute(self, commands: Sequence[Command]) -> list[object]:
        """Do a whole step on this thread and return what the commands returned or raised."""
        step = self.prepare(commands)
        if step.batch is not None:
            try:
                self.journal.append(step.batch)
            except NasmeshError as error:
                self.abort(step, error)
                return step.results
        self.publish(step)
        return step.results

    def prepare(self, commands: Sequence[Command]) -> Step:
        """Run commands and what time brings; returns the step with the batch to write, if there is one."""
        self._read_clock()
        self.has_more = False
        step = self.step = Step(self.state.sequence + 1)
        for command in commands:
            recorded = len(step.events)
            try:
                step.results.append(command())
            except IllegalTransitionError:
                raise
            except Exception as error:
                if len(step.events) != recorded:
                    raise  # half of a command is applied: only a restart from the journal is safe
                step.results.append(error)
        if not self._is_refusing():
            self._tick()
            self._match()
        if self._refused is not None and not self._is_refusing() and not step.events:
            self._try_journal(step)
        if step.events or step.answers:
            step.batch = self._seal(step)
        return step

    def publish(self, step: Step) -> None:
        """Tell everybody, now that the step is durable."""
        if step.batch is not None:
            self._refused = None
            self.activity.events = self.state.sequence
        self.activity.published()
        if self.traces is not None:
            self.traces.tell()
        for session, message in step.outbox:
            session.send(message)
        for search, changes in step.news.items():
            ended = search in step.ended
            self.hub.publish(search, changes, ended=ended)
            if ended:
                self.work.forget(search)
                self.specs.drop(search)
                _log.info("search_ended", search=search, reason=changes[-1].message().search.reason)

    def abort(self, step: Step, error: NasmeshError) -> None:
        """Undo a step that could not be written; its commands fail with the error. Raises it unless it may pass."""
        if not isinstance(error, Unavailable):
            raise error
        _log.error("journal_refused", reason=error.reason, events=len(step.events), commands=len(step.results))
        self._refused = (error, self.clock.monotonic() + RETRY_JOURNAL_S)
        step.results[:] = [error] * len(step.results)
        self.activity.aborted()
        if self.traces is not None:
            self.traces.drop()
        for entry, kind, ahead in step.given:  # agents never heard of these, so none will say again that it has room
            entry.taken_back(kind, ahead=ahead)
        self._load()

    def stood_still(self, seconds: float) -> None:
        """Give every running attempt a full lease: this process could hear nobody for so long."""
        _log.warning("stood_still", seconds=round(seconds, 3))
        self.work.leases.renew(self.clock.monotonic())

    def next_deadline(self) -> float:
        """Return the monotonic time at which something happens by itself; infinity where nothing will."""
        if self._refused:
            return self._refused[1]
        soonest = min(self.work.next_deadline(self._uptime_offset_s), self.outage.next_probe())
        return self.clock.monotonic() if self.has_more else soonest

    # --- for commands ----------------------------------------------------------------------------------------

    def record(self, change: Change) -> None:
        """Apply a fact and add it to the step; raises Unavailable while the journal cannot be written."""
        if self._refused is not None and self._is_refusing():
            raise self._refused[0]
        time_us = self.time_us()
        event = Event(time_us, self.uptime_s(), change)
        effects = apply(self.state, event)
        self.step.events.append(self._encoder.encode(event))
        for effect in effects:
            FOLLOW[type(effect)](self, effect, time_us)
        if isinstance(change, SearchCreated):
            self.work.watch_wall(self.state.searches[change.search])

    def send(self, session: Session | None, message: dispatch_pb.WorkResponse) -> None:
        """Send a message once the step is durable."""
        if session is not None:
            self.step.outbox.append((session, message))

    def answered(self, request_id: str) -> Answer | None:
        """Return what was answered to a request id, in this step or before."""
        return self.step.answers.get(request_id) or self.journal.answer(request_id)

    def keep_answer(self, request_id: str, answer: Answer) -> None:
        """Keep an answer together with this step's facts."""
        self.step.answers[request_id] = answer

    def published_sequence(self, search: str) -> int:
        """Return the number of the newest change of a search that watchers were told of."""
        return self.state.searches[search].sequence - len(self.step.news.get(search, ()))

    def lose(self, task: Task, agent: str, reason: str, message: str) -> None:
        """Give up a running attempt that an agent holds, or has a place in.

        It is not counted where this scheduler's restart may have lost it, or where one of a gang is gone: what all of
        them train is hardly the reason.
        """
        if task.state is not TaskState.RUNNING:
            return  # an attempt given up just before it ended the search, and this one with it
        attempt = task.current()
        restarted = attempt.epoch < self.state.epoch and not self.work.leases.was_beaten(task.id, agent)
        place = f", rank {attempt.agents.index(agent)} of its gang" if attempt.members else ""
        failure = search_pb2.Failure(
            reason=RESTARTED if restarted else reason,
            message=f"{message} ({agent}{place})",
            retryable=True,
            counted=not (restarted or attempt.members),
        )
        _log.warning("attempt_lost", **about(task), agent=agent, reason=failure.reason)
        self.record(AttemptLost(task.id, attempt.number, failure))
        self.activity.lost(failure.reason)

    def time_us(self) -> int:
        """Return the wall time of this step in microseconds; for people."""
        return self._time_us

    def uptime_s(self) -> float:
        """Return how long schedulers on this journal had been up when this step began."""
        uptime_s = self._uptime_offset_s + self.now
        return uptime_s if uptime_s > self.state.uptime_s else self.state.uptime_s

    def _read_clock(self) -> None:
        """Note the time: what happens within a step happens at once."""
        self.now = self.clock.monotonic()
        self._time_us = round(self.clock.wall() * 1e6)

    # --- what follows ----------------------------------------------------------------------------------------

    def _lease(self, task: str, agents: list[AgentEntry]) -> None:
        self.record(AttemptLeased(task, agents[0].name, tuple([agent.name for agent in agents[1:]])))

    def _match(self) -> None:
        """Lease what can be leased; while the object store is down, one task now and then."""
        if self.outage.may_lease(self.now):
            most = 1 if self.outage.holds else LEASES_A_STEP
            self.has_more = self.work.match(self.state, self._lease, most=most) and most > 1
            self.outage.probed(self.now)

    def _tick(self) -> None:
        """Do what time brings: lost leases, ended back-offs, used-up wall time, needs that nobody meets."""
        due = self.work.due(self.state, self.now, self.uptime_s())
        for task_id, agent in due.expired:
            self.lose(self.state.tasks[task_id], agent, "LEASE_EXPIRED", f"nothing heard for {self.lease_s:g} s")
        for change in due.changes(self.state):
            self.record(change)

    # --- writing ---------------------------------------------------------------------------------------------

    def _try_journal(self, step: Step) -> None:
        """Write something of no meaning: without work that wants to be recorded, nobody would notice it mended."""
        request_id = f"journal-tried/{self.state.epoch}/{self.activity.commit_failures}"
        step.answers[request_id] = Answer(b"", b"", self.uptime_s())

    def _is_refusing(self) -> bool:
        return self._refused is not None and self.clock.monotonic() < self._refused[1]

    def _seal(self, step: Step) -> Batch:
        """Return what is written: events, answers, and from time to time the rows that changed since the snapshot."""
        if self.state.sequence != step.first_sequence - 1 + len(step.events):
            raise IllegalTransitionError(f"state at {self.state.sequence}, step from {step.first_sequence}")
        rows, at = self.snapshots.rows(self.state, SNAPSHOT_EVENTS)
        return Batch(step.first_sequence, tuple(step.events), step.answers, rows, at)
