"""One training over several processes of this server, as its first process sees it: the others are children of it.

They stay warm between trainings. Where one is lost, the training goes on from its last checkpoint with another in its
place, a few times.
"""

import contextlib
import os
import resource
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from nasmesh.clock import Clock
from nasmesh.errors import Invalid, NasmeshError, Unavailable
from nasmesh.jobs.context import JobContext
from nasmesh.jobs.failures import OUT_OF_MEMORY
from nasmesh.jobs.process import BURST_BYTES, ChildLimits, ChildProcess, Ended, Reply
from nasmesh.logs import get_logger
from nasmesh.v1 import object_pb2, search_pb2, worker_pb2
from nasmesh.v1 import train_service_pb2 as pb
from train_svc import compute
from train_svc.group import RANK_LOST, Group
from train_svc.leading import lead
from train_svc.meeting import JOIN_S, Meeting, MemberLost
from train_svc.training import Training

MOST_LOST = 3
"""How often a training goes on in this process after another was lost; then the attempt ends, for others to resume."""
_LEAVE_S = 5.0
"""How long the others may take to end their part once they are let go."""
_LISTEN_S = 0.5
_ARRIVAL_S = 0.02
_WORK = "train_svc.member:run"

_log = get_logger("distributed")

Attempt = Callable[[pb.StartTrainingRequest, "Company"], pb.TrainResult]


class Crew:
    """The other processes, kept from one training to the next. For the thread that made it, which must outlive them."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._children: list[ChildProcess] = []

    def of(self, count: int) -> list[ChildProcess]:
        """Return so many that live, warm ones first; those beyond are ended."""
        kept = [child for child in self._children if child.alive]
        for child in self._children:
            if child not in kept or child in kept[count:]:
                child.end()
        self._children = kept[:count]
        for number in range(len(self._children), count):
            self._children.append(
                ChildProcess(_WORK, environment=_own_device(number + 1), limits=_own_limits(), on_warm=lambda: None)
            )
        return list(self._children)

    def close(self) -> None:
        """End all."""
        self.of(0)


class Company:
    """The processes of one attempt at a training. `join` makes the training theirs."""

    def __init__(
        self, start: pb.StartTrainingRequest, children: Sequence[ChildProcess], context: JobContext, clock: Clock
    ) -> None:
        """Send the others to where this process will meet them."""
        self._size = 1 + len(children)
        self._training_id = start.training_id
        self._children = children
        self._context = context
        self._clock = clock
        self._group: Group | None = None
        self._leaving = False
        self._lost = threading.Event()
        self._failures: list[tuple[int, search_pb2.Failure]] = []
        self._meeting = Meeting.call(start.training_id, clock)
        rendezvous = self._meeting.rendezvous
        self.stored: object_pb2.ObjectRef | None = None
        """The last checkpoint that is stored; whoever stores one sets it."""
        for rank, child in enumerate(children, start=1):
            asked = pb.StartTrainingRequest()
            asked.CopyFrom(start)
            asked.gang.CopyFrom(pb.GangMember(rank=rank, size=self._size, rendezvous=rendezvous))
            run = worker_pb2.RunJob(
                job_id=start.training_id,
                request=asked.SerializeToString(deterministic=True),
                memory_bytes=context.memory_bytes // self._size,
            )
            child.send(worker_pb2.WorkerRequest(run=run))
        self._watchers = [
            threading.Thread(target=self._watch, args=(rank, child), name=f"rank-{rank}", daemon=True)
            for rank, child in enumerate(children, start=1)
        ]
        for watcher in self._watchers:
            watcher.start()

    def join(self, training: Training) -> None:
        """Tell the others where the training stands, and share its layers and updates with them."""
        until = self._clock.monotonic() + JOIN_S
        while self._meeting.absent(self._size):
            self._context.raise_if_cancelled()
            if self._lost.wait(_ARRIVAL_S) or self._clock.monotonic() > until:
                raise MemberLost("not all processes have come")
        nccl = compute.one_each(training.device, self._size)
        self._group = lead(training, self._meeting, self._size, nccl=nccl)
        self.check()

    def check(self) -> None:
        """Raise MemberLost where a process is gone: what this one has computed since may be wrong."""
        if self._lost.is_set():
            raise MemberLost("a process is gone")

    def failure(self) -> NasmeshError | MemoryError | None:
        """Return why another process could not go on by itself; None where it or a connection was simply lost."""
        for rank, failure in self._failures:
            whose = f"rank {rank} of {self._size}"
            if failure.reason == OUT_OF_MEMORY:
                return MemoryError(f"{whose} could not have what it asked for")
            if failure.reason != RANK_LOST:
                kind = Unavailable if failure.retryable else Invalid
                return kind(failure.reason, f"{whose}: {failure.message}")
        return None

    def leave(self) -> None:
        """Let the others go, and end those that do not."""
        if self._leaving:
            return
        self._leaving = True
        with contextlib.suppress(MemberLost):
            self._meeting.end()
        stop = worker_pb2.WorkerRequest(stop=worker_pb2.StopJob(job_id=self._training_id))
        for child in self._children:
            child.send(stop)
        if self._group is not None:
            self._group.close()
        self._meeting.close()
        until = self._clock.monotonic() + _LEAVE_S
        for child, watcher in zip(self._children, self._watchers, strict=True):
            watcher.join(max(0.0, until - self._clock.monotonic()))
            if watcher.is_alive():
                child.end()
                watcher.join()

    def _watch(self, rank: int, child: ChildProcess) -> None:
        """Follow one process to the end of its part."""
        job_id = self._training_id
        while True:
            event = child.next_event(_LISTEN_S)
            if isinstance(event, Ended):
                break
            if isinstance(event, Reply) and event.reply.finished.job_id == job_id:
                if not event.reply.finished.HasField("failure") or self._leaving:
                    return
                self._failures.append((rank, event.reply.finished.failure))
                break
        if not self._leaving:
            _log.warning("rank_lost", job=job_id, rank=rank, process=child.process_id, text=child.stderr_tail()[-300:])
        self._lost.set()
        if self._group is not None:
            self._group.give_up()


def train_together(
    start: pb.StartTrainingRequest, crew: Crew, attempt: Attempt, context: JobContext, clock: Clock
) -> pb.TrainResult:
    """Make `attempt` in company, and again from the last checkpoint where a process was lost.

    Raises Unavailable (RANK_LOST) after MOST_LOST losses, why another process failed, and what `attempt` raises.
    """
    asked = pb.StartTrainingRequest()
    asked.CopyFrom(start)
    for lost in range(MOST_LOST + 1):
        company = Company(asked, crew.of(start.config.distribution.processes - 1), context, clock)
        try:
            with _as_loss(company):
                return attempt(asked, company)
        except MemberLost as error:
            company.leave()
            if (failure := company.failure()) is not None:
                raise failure from error
            if company.stored is not None:
                asked.resume_from.CopyFrom(company.stored)
            _log.warning("goes_on_without", job=start.training_id, lost=lost + 1, text=str(error))
        finally:
            company.leave()
    message = f"processes of this training were lost {MOST_LOST + 1} times; it goes on from its last checkpoint"
    raise Unavailable(RANK_LOST, message)


@contextlib.contextmanager
def _as_loss(company: Company) -> Iterator[None]:
    """Raise MemberLost for what torch raises where a process is gone: kernels that wait for it fail in many ways."""
    try:
        yield
    except RuntimeError:
        company.check()
        raise


def _own_limits() -> ChildLimits:
    """Return the limits that this process was started with: no process may give another more."""
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    return ChildLimits() if most == resource.RLIM_INFINITY else ChildLimits(memory_bytes=most - BURST_BYTES)


def _own_device(rank: int) -> Mapping[str, str]:
    """Return the environment by which a process sees its own GPU first; nothing where there is none."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(str(number) for number in range(count))
    names = visible.split(",")
    first = rank % len(names)
    return {"CUDA_VISIBLE_DEVICES": ",".join(names[first:] + names[:first])}
