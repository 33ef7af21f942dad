"""The work in hand: takes leases, runs them in their drivers' slots, keeps outcomes until they are acknowledged."""

import threading
from collections.abc import Callable, Sequence

from nasmesh.agent.attempt import Attempt
from nasmesh.agent.backoff import Backoff
from nasmesh.agent.drivers.driver import Driver
from nasmesh.agent.errands import Errands
from nasmesh.agent.held import Held
from nasmesh.agent.spool import Spool, about, job_id_of
from nasmesh.clock import Clock
from nasmesh.errors import Invalid, NasmeshError, Unavailable
from nasmesh.jobs.failures import failure, failure_of
from nasmesh.limits import DRAIN_GRACE_S, LEASE_AHEAD_S, LEASES_AHEAD, MESSAGE_BYTES, RELEASE_GRACE_S
from nasmesh.logs import bind, get_logger
from nasmesh.telemetry import tracing
from nasmesh.telemetry.samples import Reading, Sample
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import job_pb2, search_pb2

_LOG = get_logger("agent")

_OUTCOME_BYTES = MESSAGE_BYTES - 4096

Send = Callable[[pb.WorkRequest, bool], None]
"""Says something to the scheduler; whether it may wait a little, for more of its kind."""


class Workload:
    """Attempts and outcomes of one agent, in memory and in the spool. Methods may be called from any thread."""

    def __init__(
        self, drivers: Sequence[Driver], *, spool: Spool, send: Send, reported: Callable[[], None], clock: Clock
    ) -> None:
        """Take over what an earlier process left in the spool; `send` speaks to the scheduler if it can be reached."""
        self._drivers = {driver.kind: driver for driver in drivers}
        self._spool = spool
        self._send = send
        self._reported = reported
        self._held = Held(clock)
        self._server: job_pb2.Server | None = None
        self._may_start = False
        self._on_hold = False
        self._draining = threading.Event()
        self._closed = False
        self._watching = threading.Lock()
        self._errands = Errands()
        self._load()

    @property
    def tokens(self) -> list[pb.AttemptToken]:
        """Everything in hand, for the hello."""
        return self._held.tokens()

    def describe(self) -> tuple[job_pb2.Server, list[pb.AgentSlots]]:
        """Ask every server what it is; raises Unavailable where one does not answer and never has."""
        server = job_pb2.Server()
        try:
            for driver in self._drivers.values():
                server.MergeFrom(driver.describe())
        except Unavailable:
            # What is in hand must still be told to the scheduler; the servers may be back before the next lease.
            if self._server is None:
                raise
            server.CopyFrom(self._server)
        self._server = server
        return server, [_slots_of(kind, driver) for kind, driver in self._drivers.items()]

    def resume(self, superseded: Sequence[pb.AttemptToken]) -> None:
        """After a welcome: drop what is no longer this agent's, send outcomes again, start what waits, offer slots."""
        for token in superseded:
            self.supersede(token)
        for outcome in self._held.outcomes():
            self._tell(outcome)
        # Adopted attempts wait for the first welcome, which says whether they are still this agent's.
        self._may_start = True
        self._start_waiting()
        self._on_hold = False  # a scheduler that still wants it says so after its welcome
        self._offer()

    def hold(self, draining: bool) -> None:
        """Offer no more slots because the scheduler asks for that, or offer them again; work in hand goes on."""
        _LOG.info("held_by_scheduler" if draining else "wanted_again")
        self._on_hold = draining
        self._offer()

    def heartbeat(self) -> pb.AgentHeartbeat:
        """Return a line for each attempt in hand."""
        return pb.AgentHeartbeat(attempts=[attempt.progress() for attempt in self._held.attempts()])

    def begin_drain(self) -> None:
        """Take no more work and stop what is in hand."""
        self._draining.set()
        for attempt in self._held.attempts():
            if self._may_start:
                attempt.cancel(grace_s=DRAIN_GRACE_S)
            else:
                # Nothing was begun in this process: its lease stays on disk for the next one.
                self._held.end(attempt, None)
        self._start_waiting()

    def readings(self) -> Sequence[Reading]:
        """Return what metrics tell of the work in hand."""
        return [
            Sample("nasmesh_agent_held", len(self._held.attempts())),
            Sample("nasmesh_agent_outcomes_spooled", len(self._held.outcomes())),
        ]

    def wait_until_empty(self, timeout_s: float) -> bool:
        """Wait until nothing is in hand and every outcome is acknowledged; returns whether that came in time."""
        return self._held.wait_until_empty(timeout_s)

    @property
    def busy(self) -> bool:
        """Whether any attempt is in hand."""
        return bool(self._held.attempts())

    def close(self) -> None:
        """Start no more errands."""
        self._closed = True
        self._errands.close()

    def cancel(self, cancel: pb.CancelAttempt) -> None:
        """Make an attempt stop, if it is in hand."""
        attempt = self._held.find(job_id_of(cancel.token))
        if attempt is not None:
            _LOG.info("attempt_cancelled", **attempt.about, why=cancel.reason, wanted_later=cancel.checkpoint)
            attempt.cancel(grace_s=RELEASE_GRACE_S if cancel.checkpoint else None)
            self._start_waiting()

    def take(self, lease: pb.Lease) -> None:
        """Accept a lease and start it as soon as its kind has a slot; one that is in hand already is not doubled."""
        try:
            attempt = Attempt(lease, spool=self._spool, reported=self._reported)
        except Invalid as error:
            _LOG.error("lease_invalid", **about(lease.token), text=error.message)
            return
        known = self._held.outcome(attempt.job_id)
        if known is not None:
            self._tell(known)
            return
        if self._held.find(attempt.job_id) is not None:
            return
        try:
            self._spool.put_lease(lease)
        except OSError as error:
            # Working without it would only cost a repetition after a kill; a full disk would lose the outcome too.
            _LOG.error("lease_not_remembered", **attempt.about, error=str(error))
        self._held.add(attempt)
        if self._draining.is_set():
            attempt.cancel()
        self._start_waiting()

    def supersede(self, token: pb.AttemptToken) -> None:
        """Stop an attempt that is no longer this agent's, or drop its outcome."""
        job_id = job_id_of(token)
        attempt = self._held.find(job_id)
        if attempt is not None:
            _LOG.info("attempt_superseded", **attempt.about)
            attempt.cancel(superseded=True)
            self._start_waiting()
        elif self._held.acknowledge(job_id) is not None:
            _LOG.info("outcome_superseded", **about(token))
            self._spool.drop(token)

    def acknowledged(self, reply: pb.OutcomeReply) -> None:
        """Forget an outcome that the scheduler answered, and have the server forget its job."""
        job_id = job_id_of(reply.token)
        self._spool.drop(reply.token)
        outcome = self._held.acknowledge(job_id)
        disposition = pb.OutcomeDisposition.Name(reply.disposition)
        _LOG.info("outcome_acknowledged", **about(reply.token), disposition=disposition)
        if outcome is not None:
            for kind in self._drivers:
                self._forget_job(kind, job_id)

    def _load(self) -> None:
        for outcome in self._spool.load_outcomes():
            self._held.keep_outcome(outcome)
        for kept in self._spool.load_leases():
            attempt = Attempt(
                kept.lease,
                spool=self._spool,
                reported=self._reported,
                checkpoint=kept.checkpoint,
                adopted=True,
            )
            if self._held.add(attempt):
                _LOG.info("attempt_adopted", **attempt.about)

    def _start_waiting(self) -> None:
        if not self._may_start:
            return
        while (attempt := self._held.start_next(self._slots)) is not None:
            threading.Thread(target=self._work_on, args=(attempt,), name=attempt.job_id, daemon=True).start()
        if self._held.has_waiting and self._watching.acquire(blocking=False):
            timer = threading.Timer(LEASE_AHEAD_S / 2, self._look_at_waiting)
            timer.daemon = True
            timer.start()

    def _look_at_waiting(self) -> None:
        """Give back what has waited for a slot too long: somebody else may have one."""
        self._watching.release()
        for attempt in self._held.overdue(LEASE_AHEAD_S):
            _LOG.info("attempt_waits_too_long", **attempt.about)
            attempt.cancel()
        if not self._closed:
            self._start_waiting()

    def _slots(self, kind: search_pb2.TaskKind.ValueType) -> int:
        driver = self._drivers.get(kind)
        # Work of a kind that nothing here drives is answered at once, in a thread like any other.
        return driver.slots if driver is not None else 1

    def _work_on(self, attempt: Attempt) -> None:
        token = attempt.token
        with bind(**attempt.about):
            with tracing.continued(attempt.lease.traceparent, "attempt", _described(attempt)) as span:
                outcome = self._outcome(attempt)
                span.set(outcome=outcome.WhichOneof("result") or "", reason=outcome.failure.reason)
            _LOG.info("attempt_ended", how=outcome.WhichOneof("result"), reason=outcome.failure.reason or None)
            told = None
            if attempt.superseded:
                self._spool.drop(token)
                self._held.end(attempt, None)
                self._forget_job(attempt.kind, attempt.job_id)
            else:
                outcome.token.CopyFrom(token)
                try:
                    self._spool.put_outcome(outcome)
                except OSError as error:
                    _LOG.error("outcome_not_remembered", error=str(error))
                self._held.end(attempt, outcome)
                told = outcome
            if outcome.failure.reason == "SERVER_UNREACHABLE":
                self._tell(told)
                told = None
                self._await_server(attempt.kind)
            # What waits begins before anybody is told, so that no time passes between two attempts.
            self._start_waiting()
            self._tell(told, attempt.kind)

    def _outcome(self, attempt: Attempt) -> pb.AttemptOutcome:
        driver = self._drivers.get(attempt.kind)
        if driver is None:
            message = "this agent drives no server for this kind of work"
            return pb.AttemptOutcome(failure=failure("KIND_UNKNOWN", message, retryable=True, counted=False))
        if attempt.cancelled.is_set() and not attempt.adopted:
            return attempt.released()
        try:
            outcome = driver.run(attempt)
        except Exception as error:  # noqa: BLE001 - whatever a driver raises ends this attempt, not the agent
            _LOG.warning("attempt_failed", error=str(error), exc_info=not isinstance(error, NasmeshError))
            outcome = pb.AttemptOutcome(failure=failure_of(error))
        if outcome.ByteSize() > _OUTCOME_BYTES:
            message = f"the outcome has {outcome.ByteSize()} bytes, more than a message may have ({_OUTCOME_BYTES})"
            return pb.AttemptOutcome(failure=failure("OUTCOME_TOO_LARGE", message, retryable=False))
        return outcome

    def _await_server(self, kind: search_pb2.TaskKind.ValueType) -> None:
        """Keep the slot from being offered while its server is away: leases would only be lost on it."""
        backoff = Backoff()
        while not self._draining.is_set():
            try:
                self._drivers[kind].describe()
            except NasmeshError:
                self._draining.wait(backoff.next_s())
            else:
                return

    def _offer(self) -> None:
        self._tell(None, *self._drivers)

    def _tell(self, outcome: pb.AttemptOutcome | None, *kinds: search_pb2.TaskKind.ValueType) -> None:
        """Say how an attempt ended and which slots of these kinds are free, in one message."""
        report = pb.AgentReport(outcomes=[outcome] if outcome is not None else [])
        for kind in kinds:
            driver = self._drivers.get(kind)
            if driver is not None and not self._draining.is_set():
                free, ahead = (0, 0) if self._on_hold else self._held.room(kind, driver.slots)
                report.ready.add(kind=kind, free=free, ahead=ahead)
        if report.outcomes or report.ready:
            self._send(pb.WorkRequest(report=report), self._held.has_waiting)

    def _forget_job(self, kind: search_pb2.TaskKind.ValueType, job_id: str) -> None:
        if kind in self._drivers:
            self._errands.forget(self._drivers[kind], job_id)


def _slots_of(kind: search_pb2.TaskKind.ValueType, driver: Driver) -> pb.AgentSlots:
    return pb.AgentSlots(kind=kind, slots=driver.slots, ahead=LEASES_AHEAD)


def _described(attempt: Attempt) -> dict[str, str | int | float | bool]:
    lease, token = attempt.lease, attempt.token
    return {"search": lease.search, "trial": lease.trial, "task": token.task, "attempt": token.attempt}
