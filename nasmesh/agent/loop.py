"""The agent: keeps a stream to the scheduler, passes on what comes, and outlasts the scheduler's absence."""

import platform
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from nasmesh import __version__, ids
from nasmesh.agent.backoff import Backoff
from nasmesh.agent.drivers.driver import Driver
from nasmesh.agent.heartbeats import Heartbeats
from nasmesh.agent.spool import Spool
from nasmesh.agent.stream import Connection
from nasmesh.agent.workload import Workload
from nasmesh.clock import Clock, SystemClock
from nasmesh.errors import Conflict, Denied, Invalid, NasmeshError, Unauthenticated, Unavailable
from nasmesh.logs import get_logger
from nasmesh.rpc.access import CALLER_FILES, NO_CLIENT_ACCESS, ClientAccess
from nasmesh.settings import parse_addresses
from nasmesh.telemetry.samples import Reading, Sample
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.versions import UNFIT

_LOG = get_logger("agent")

DRAIN_S = 15.0
"""How long a draining agent waits for its work to stop and its outcomes to be acknowledged."""

_LOOK_S = 0.25
_HOST_CHARS = 128
NAME_TAKEN_S = 45.0
"""How long a new agent waits for another of its name to go: a host that died is given up after two pings, 30 s."""

_AWAY_S = 1.5
"""How long a draining agent without work waits for a scheduler that it cannot reach."""


class Agent:
    """Works for one scheduler with the servers that its drivers drive. `run` blocks; `drain` ends it in good order."""

    def __init__(  # noqa: PLR0913 - the program's flags; a value object would only rename them
        self,
        *,
        scheduler: str,
        name: str,
        drivers: Sequence[Driver],
        work_dir: Path,
        insecure: bool = False,
        access: ClientAccess = NO_CLIENT_ACCESS,
        labels: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        drain_s: float = DRAIN_S,
    ) -> None:
        """Open the spool in `work_dir`; what an earlier process of this agent left there is gone on with.

        Raises Invalid (NAME_INVALID) for a name that is no agent id.
        """
        self._schedulers = deque(parse_addresses(scheduler, field="scheduler"))
        self._name = ids.format_name("agents", name, field="name")
        self._insecure = insecure
        self._access = access
        self._labels = dict(labels or {})
        self._drain_s = drain_s
        self._clock = clock or SystemClock()
        self._spool = Spool(work_dir)
        self._epoch = self._spool.load_epoch()
        self._instance = self._spool.instance()
        self._draining = threading.Event()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._connections = 0
        self._began = 0.0
        self._heartbeats = Heartbeats(self._beat, clock=self._clock)
        self._work = Workload(
            drivers, spool=self._spool, send=self._send, reported=self._heartbeats.progress, clock=self._clock
        )

    def readings(self) -> Sequence[Reading]:
        """Return what metrics tell of the agent."""
        with self._lock:
            connected = self._connection is not None
        return [
            Sample("nasmesh_agent_connected", int(connected)),
            Sample("nasmesh_agent_connections", self._connections),
            *self._work.readings(),
        ]

    def run(self) -> None:
        """Serve the scheduler until drained; outlasts its absence.

        Raises Invalid or Denied where the scheduler refuses this agent for good; where it was never let in also
        Unauthenticated, Stale (VERSION_UNFIT), and Conflict (AGENT_NAME_TAKEN) after NAME_TAKEN_S. One that was let in
        waits: a credential's file is read at every try, and the work in hand goes on.
        """
        backoff = Backoff()
        tried = 0
        self._began = self._clock.monotonic()
        try:
            while not self._over.is_set():
                try:
                    self._converse(backoff)
                except NasmeshError as error:
                    if isinstance(error, Invalid | Denied) or self._is_unwanted(error):
                        raise
                    if not self._over.is_set():
                        _LOG.warning("scheduler_lost", reason=error.reason, text=error.message)
                self._schedulers.rotate(-1)
                tried += 1
                if tried % len(self._schedulers) == 0:  # each address was tried
                    self._over.wait(backoff.next_s())
        finally:
            self._heartbeats.stop()
            self._work.close()

    def _is_unwanted(self, error: NasmeshError) -> bool:
        """Say whether an agent that was never let in should give up."""
        if self._connections:
            return False
        if isinstance(error, Conflict):
            return self._clock.monotonic() - self._began >= NAME_TAKEN_S
        return isinstance(error, Unauthenticated) or error.reason == UNFIT

    def drain(self) -> None:
        """Take no more leases, stop the work in hand, give it back, and let `run` return within `drain_s`."""
        if not self._draining.is_set():
            self._draining.set()
            self._send(pb.WorkRequest(draining=pb.AgentDraining()))
            threading.Thread(target=self._drain, name="drain", daemon=True).start()

    def _drain(self) -> None:
        self._work.begin_drain()
        until = self._clock.monotonic() + self._drain_s
        contact = self._clock.monotonic()
        while not self._work.wait_until_empty(_LOOK_S):
            now = self._clock.monotonic()
            with self._lock:
                contact = now if self._connection is not None else contact
            # Outcomes are safe on disk; a scheduler that is gone, perhaps for good, gets them from the next process.
            if now >= until or (not self._work.busy and now - contact >= _AWAY_S):
                _LOG.warning("drained_with_work_left", held=len(self._work.tokens))
                break
        self._over.set()
        with self._lock:
            if self._connection is not None:
                self._connection.close()

    def _converse(self, backoff: Backoff) -> None:
        """Hold one connection from hello to its end."""
        server, slots = self._work.describe()
        hello = pb.AgentHello(
            agent=self._name,
            slots=slots,
            server=server,
            epoch=self._epoch,
            held=self._work.tokens,
            version=__version__,
            labels=self._labels,
            accepts_batches=True,
            host=platform.node()[:_HOST_CHARS],
            instance=self._instance,
        )
        connection = self._connected(hello)
        with self._lock:
            self._connection = connection
            self._connections += 1
        try:
            self._welcome(connection.welcome)
            backoff.reset()
            if not self._over.is_set():
                for message in connection.messages():
                    self._receive(message)
        except Invalid as error:
            # After the welcome a refusal is about one message, not about this agent.
            _LOG.error("stream_refused", reason=error.reason, text=error.message)
        finally:
            with self._lock:
                self._connection = None
            connection.close()

    def _connected(self, hello: pb.AgentHello) -> Connection:
        """Return a new connection; files that were right before are waited for like a scheduler that is away."""
        hurried = len(self._schedulers) > 1
        try:
            return Connection(self._schedulers[0], hello, insecure=self._insecure, access=self._access, hurried=hurried)
        except Invalid as error:
            if not self._connections or error.field not in CALLER_FILES:
                raise
            raise Unavailable(error.reason, error.message, field=error.field) from None

    def _welcome(self, welcome: pb.Welcome) -> None:
        _LOG.info("scheduler_found", epoch=welcome.epoch, version=welcome.version)
        if welcome.epoch > self._epoch:
            self._epoch = welcome.epoch
            try:
                self._spool.put_epoch(welcome.epoch)
            except OSError as error:
                _LOG.error("epoch_not_remembered", error=str(error))
        if self._draining.is_set():
            self._send(pb.WorkRequest(draining=pb.AgentDraining()))
        self._work.resume(welcome.superseded)
        self._heartbeats.follow_lease(welcome.lease.ToTimedelta().total_seconds())

    def _receive(self, message: pb.WorkResponse) -> None:
        match message.WhichOneof("kind"):
            case "batch":
                self._receive_batch(message.batch)
            case "lease":
                self._work.take(message.lease)
            case "heartbeat_reply":
                for token in message.heartbeat_reply.superseded:
                    self._work.supersede(token)
            case "outcome_reply":
                self._work.acknowledged(message.outcome_reply)
            case "cancel":
                self._work.cancel(message.cancel)
            case "drain":
                self._work.hold(message.drain.draining)
            case other:
                _LOG.warning("message_unknown", kind=other or "none")

    def _receive_batch(self, batch: pb.WorkBatch) -> None:
        for reply in batch.outcome_replies:
            self._work.acknowledged(reply)
        for cancel in batch.cancels:
            self._work.cancel(cancel)
        for lease in batch.leases:
            self._work.take(lease)

    def _beat(self) -> None:
        self._send(pb.WorkRequest(heartbeat=self._work.heartbeat()))

    def _send(self, request: pb.WorkRequest, may_wait: bool = False) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.send(request, may_wait=may_wait)
