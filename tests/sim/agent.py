"""An agent with the server beside it, as nasmesh.agent does it, on the real spool; and what it promised to keep."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nasmesh.agent.spool import Spool, job_id_of
from nasmesh.errors import NasmeshError
from nasmesh.limits import HEARTBEAT_S
from nasmesh.store.keys import ObjectKind
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import search_pb2
from tests.builders import scheduling as make
from tests.sim.files import Disk
from tests.sim.net import Link
from tests.sim.options import gives_bytes

if TYPE_CHECKING:
    from tests.sim.host import Host
    from tests.sim.world import World

SLOTS = 2
# So many seconds rank 0 of a gang waits for the others, longer than they may be silent.
MOST_WAITS = 60


class SpoolPromiseError(AssertionError):
    """The spool lost what it had promised to keep, or made something up."""


@dataclass(slots=True)
class Job:
    """Work on the server beside the agent. `done_at` is on the agent's own clock.

    Rank 0 of a gang has `waited` so often for others to do their parts.
    """

    lease: pb.Lease
    done_at: float
    outcome: pb.AttemptOutcome | None = None
    waited: int = 0


class SimAgent:
    """One agent. Its clock runs at `rate` times the world's; its disk and its server's results may outlive it."""

    def __init__(self, world: "World", name: str, kinds: tuple[int, ...], rate: float) -> None:
        self.world = world
        self.name = name
        self.kinds = kinds
        self.rate = rate
        self.disk = Disk(name)
        self.disk.boundary = world.boundary
        self.jobs: dict[str, Job] = {}
        self.promised: dict[str, bytes] = {}
        self.offered: set[bytes] = set()
        self.stopped_until = 0.0
        self.alive = False
        self.highest_epoch = 0
        self.reports = world.rng.random() < 0.5
        self.ahead = world.rng.choice((0, 0, 1, 3))
        self.gives_bytes = gives_bytes(world.options, name)
        self.start()

    # --- its life ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin a process: what an earlier one spooled is gone on with."""
        self.alive = True
        self.link: Link | None = None
        self.leases: dict[str, pb.Lease] = {}
        self.outcomes: dict[str, pb.AttemptOutcome] = {}
        self.checkpoints: dict[str, str] = {}
        self.old: list[pb.AttemptOutcome] = []
        self.next_beat = self.now()
        self.spool = Spool(self.disk.root())  # type: ignore[arg-type]
        self.epoch = self.spool.load_epoch()
        self._check_epoch(self.epoch)
        for outcome in self.spool.load_outcomes():
            self.outcomes[job_id_of(outcome.token)] = outcome
        self._check_promises()
        for kept in self.spool.load_leases():
            job_id = job_id_of(kept.lease.token)
            if job_id not in self.outcomes:
                self.leases[job_id] = kept.lease
        self._begin_waiting()

    def die(self, *, power_cut: bool, results_lost: bool) -> None:
        """End the process; in-process servers forget what they worked on, others go on."""
        self.alive = False
        if self.link is not None:
            self.link.broken = True
            self.link.up.clear()
            self.link = None
        if results_lost:
            self.jobs.clear()
        self.disk.restart(self.world.rng if power_cut else None)

    def now(self) -> float:
        return self.world.clock.monotonic() * self.rate

    def _check_epoch(self, epoch: int) -> None:
        if epoch < self.highest_epoch:
            raise SpoolPromiseError(f"I5: {self.name} remembers epoch {epoch} after {self.highest_epoch}")

    def _check_promises(self) -> None:
        for job_id, content in self.promised.items():
            found = self.outcomes.get(job_id)
            if found is None or found.SerializeToString() != content:
                raise SpoolPromiseError(f"P8: {self.name} spooled the outcome of {job_id} and lost it")
        for job_id, outcome in self.outcomes.items():
            if outcome.SerializeToString() not in self.offered:
                raise SpoolPromiseError(f"P8: {self.name} read an outcome of {job_id} that nobody wrote: {outcome}")

    # --- talking -----------------------------------------------------------------------------------------------

    def connect(self, host: "Host") -> None:
        hello = make.make_hello(self.name.partition("/")[2], slots=SLOTS, kinds=self.kinds)
        hello.epoch = self.epoch
        if search_pb2.TASK_KIND_TRAIN in self.kinds:
            hello.server.gang_address = f"{self.name.partition('/')[2]}.example:7500"
            hello.server.devices.add(id="cpu", job_memory_bytes=self.gives_bytes)
        for slots in hello.slots:
            slots.ahead = self.ahead
        for lease in self.leases.values():
            hello.held.append(lease.token)
        for outcome in self.outcomes.values():
            hello.held.append(outcome.token)
        self.link = Link(self, host, self.world.boundary)
        host.links.append(self.link)
        self.link.say(pb.WorkRequest(hello=hello))

    def hang_up(self) -> None:
        if self.link is not None:
            self.link.broken = True
            self.link = None

    def say(self, **kind: object) -> None:
        if self.link is not None and self.link.welcomed:
            self.link.say(pb.WorkRequest(**kind))  # type: ignore[arg-type]

    def hear(self, message: pb.WorkResponse) -> None:
        """Take one message from the scheduler."""
        self.world.boundary(self.name, f"receive {message.WhichOneof('kind')}")
        match message.WhichOneof("kind"):
            case "welcome":
                self._welcome(message.welcome)
            case "lease":
                self._take(message.lease)
            case "heartbeat_reply":
                for token in message.heartbeat_reply.superseded:
                    self._supersede(token)
            case "outcome_reply":
                self._acknowledged(message.outcome_reply)
            case "cancel":
                self._cancel(job_id_of(message.cancel.token))
            case _:
                pass  # notices of draining change nothing: the scheduler stops leasing by itself

    def _welcome(self, welcome: pb.Welcome) -> None:
        if welcome.epoch < self.epoch:
            self.hang_up()
            return
        assert self.link is not None
        self.link.welcomed = True
        if welcome.epoch > self.epoch:
            self.epoch = welcome.epoch
            if self._spooled(lambda: self.spool.put_epoch(welcome.epoch)):
                self.highest_epoch = welcome.epoch
        for token in welcome.superseded:
            self._supersede(token)
        for outcome in self.outcomes.values():
            self.say(outcome=outcome)
        self.next_beat = self.now()
        self.offer()

    def offer(self) -> None:
        for ready in self._free():
            self.say(ready=ready)

    def _free(self) -> list[pb.AgentReady]:
        busy = [_kind_of(lease) for lease in self.leases.values()]
        found = []
        for kind in self.kinds:
            left = SLOTS - busy.count(kind)
            ready = pb.AgentReady(kind=search_pb2.TaskKind.ValueType(kind), free=max(0, left))
            ready.ahead = max(0, self.ahead + min(0, left))
            found.append(ready)
        return found

    def _take(self, lease: pb.Lease) -> None:
        job_id = job_id_of(lease.token)
        if job_id in self.outcomes:
            self.say(outcome=self.outcomes[job_id])
        elif job_id not in self.leases:
            self._spooled(lambda: self.spool.put_lease(lease))
            self.leases[job_id] = lease
            self._begin_waiting()

    def _begin_waiting(self) -> None:
        """Begin what has a slot: also what a server came back without."""
        at_work = Counter(_kind_of(lease) for job_id, lease in self.leases.items() if job_id in self.jobs)
        for job_id, lease in self.leases.items():
            kind = _kind_of(lease)
            if job_id not in self.jobs and at_work[kind] < SLOTS:
                at_work[kind] += 1
                self.jobs[job_id] = Job(lease, self.now() + self.world.duration(lease))

    def _supersede(self, token: pb.AttemptToken) -> None:
        job_id = job_id_of(token)
        lease = self.leases.pop(job_id, None)
        if lease is not None or self.outcomes.pop(job_id, None) is not None:
            self._drop(token)
        if lease is not None:
            self._begin_waiting()
            self.offer()

    def _cancel(self, job_id: str) -> None:
        lease = self.leases.get(job_id)
        if lease is not None:
            back = pb.AttemptReleased()
            if job_id in self.checkpoints:
                back.checkpoint.CopyFrom(make.make_ref(self.checkpoints[job_id], "checkpoints"))
            self._finish(lease, pb.AttemptOutcome(token=lease.token, released=back))

    def _acknowledged(self, reply: pb.OutcomeReply) -> None:
        job_id = job_id_of(reply.token)
        outcome = self.outcomes.pop(job_id, None)
        if outcome is not None:
            self.old = [*self.old[-2:], outcome]
        self._drop(reply.token)

    def _drop(self, token: pb.AttemptToken) -> None:
        job_id = job_id_of(token)
        self.promised.pop(job_id, None)
        self.jobs.pop(job_id, None)
        self.spool.drop(token)

    # --- work --------------------------------------------------------------------------------------------------

    def act(self) -> None:
        """Do what is due: collect finished jobs, beat, dial again."""
        if self.now() >= self.next_beat and self.link is not None and self.link.welcomed:
            self.beat()
        if self.old and self.world.duplicates("outcome"):
            self.say(outcome=self.world.rng.choice(self.old))  # a retry that was under way for long
        self._begin_waiting()
        for job_id, lease in list(self.leases.items()):
            job = self.jobs.get(job_id)
            if job is None:
                if self.world.gives_back():  # it has waited for a slot too long
                    self._finish(lease, pb.AttemptOutcome(token=lease.token, released=pb.AttemptReleased()))
            elif self.now() >= job.done_at:
                self._end(lease, job)

    def _end(self, lease: pb.Lease, job: Job) -> None:
        """End a job; of a gang's, rank 0's ends when the others have done their parts, and those wait to be told."""
        gang = lease.train.gang
        if job.outcome is None and lease.train.HasField("gang") and gang.rank == 0:
            done = self.world.parts_done(lease.token)
            if done < gang.size - 1 and job.waited < MOST_WAITS:
                job.waited += 1
                job.done_at = self.now() + 1.0
                return
            if done < gang.size - 1:
                job.outcome = make.make_failure(lease, "RANK_LOST", counted=False)
        if job.outcome is None:
            job.outcome = self.world.work.outcome(lease, self.gives_bytes)
        if job.outcome is None:
            job.done_at = math.inf
        else:
            self._finish(lease, job.outcome)

    def beat(self) -> None:
        self.next_beat = self.now() + HEARTBEAT_S
        beat = pb.AgentHeartbeat()
        for job_id, lease in self.leases.items():
            progress = beat.attempts.add(token=lease.token)
            checkpoint = self._checkpoint(job_id, lease)
            if checkpoint:
                progress.checkpoint.CopyFrom(make.make_ref(checkpoint, "checkpoints"))
        self.say(heartbeat=beat)

    def _checkpoint(self, job_id: str, lease: pb.Lease) -> str:
        """Store a checkpoint now and then; returns the last one's content."""
        if lease.HasField("train") and self.world.rng.random() < 0.3:
            content = f"{job_id} at {self.now():.1f}"
            try:
                ref = self.world.store.put(ObjectKind.CHECKPOINT, content.encode())
            except NasmeshError:
                return self.checkpoints.get(job_id, "")
            self.checkpoints[job_id] = content
            self._spooled(lambda: self.spool.put_checkpoint(lease.token, ref))
        return self.checkpoints.get(job_id, "")

    def _finish(self, lease: pb.Lease, outcome: pb.AttemptOutcome) -> None:
        """Spool the outcome, then send it; a full disk costs the promise, not the outcome."""
        job_id = job_id_of(lease.token)
        content = outcome.SerializeToString()
        self.offered.add(content)
        if self._spooled(lambda: self.spool.put_outcome(outcome)):
            self.promised[job_id] = content
        self.leases.pop(job_id, None)
        self._begin_waiting()
        self.outcomes[job_id] = outcome
        if self.reports:
            self.say(report=pb.AgentReport(outcomes=[outcome], ready=self._free()))
        else:
            self.say(outcome=outcome)
            self.offer()

    def _spooled(self, put: Callable[[], None]) -> bool:
        """Say whether the spool took it; a full disk costs the promise, not the work, as in nasmesh.agent."""
        try:
            put()
        except OSError:
            self.world.count("full spools")
            return False
        return True

    def deadline(self) -> float:
        """Return the world's time at which it has something to do."""
        waits = [job.done_at for job_id, job in self.jobs.items() if job_id in self.leases]
        return max(self.now(), min([self.next_beat, *waits])) / self.rate


def _kind_of(lease: pb.Lease) -> int:
    work = lease.WhichOneof("work")
    if work == "train":
        return search_pb2.TASK_KIND_TRAIN
    return search_pb2.TASK_KIND_EVALUATE if work == "evaluate" else search_pb2.TASK_KIND_GENERATE
