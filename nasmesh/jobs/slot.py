"""One slot: a thread that takes jobs one after another and has them done by its child process."""

import contextlib
import threading

from nasmesh.clock import Clock
from nasmesh.errors import NasmeshError
from nasmesh.host import killed_for_memory
from nasmesh.jobs import failures
from nasmesh.jobs.board import Board
from nasmesh.jobs.job import Job
from nasmesh.jobs.nursery import Nursery
from nasmesh.jobs.process import ChildLimits, ChildProcess, Ended, Reply
from nasmesh.v1 import search_pb2, worker_pb2

_MEMORY_CHECK_S = 0.5
_WEIGH_S = 120.0
"""How long foretelling may take; it reads the network's object."""


class Slot:
    """Owns one child; replaces it when it dies or has to be ended."""

    def __init__(self, name: str, *, board: Board, nursery: Nursery, limits: ChildLimits, clock: Clock) -> None:
        """Start the thread; it warms its child while it waits for the first job."""
        self._board = board
        self._nursery = nursery
        self._limits = limits
        self._clock = clock
        self._child: ChildProcess | None = None
        self._held_before = self._most_held = self._killed_before = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until a closed board has let the thread go."""
        self._thread.join()

    def _run(self) -> None:
        # The first job should not wait for imports; where no child can be started, it is the first job that fails.
        with contextlib.suppress(NasmeshError):
            self._ready_child()
        while (job := self._board.take()) is not None:
            if job.claim.weighing:
                self._board.weighed(job, self._weigh(job))
                continue
            try:
                child = self._ready_child()
            except NasmeshError as error:
                self._board.finish(job, _failed(job, failures.failure_of(error)))
                continue
            self._most_held = 0
            finished = self._work_on(job, child)
            if finished.failure.reason in (failures.DEVICE_LOST, failures.OUT_OF_MEMORY):
                # The next job must not meet the same, nor what is left of this one.
                self._discard()
            self._board.finish(job, finished, seen=self._most_held)
        self._discard()

    def _weigh(self, job: Job) -> worker_pb2.JobWeighed:
        """Have the child foretell what a job will hold."""
        job_id = job.view.job_id
        try:
            child = self._ready_child()
        except NasmeshError as error:
            return worker_pb2.JobWeighed(failure=failures.failure_of(error))
        weigh = worker_pb2.WeighJob(job_id=job_id, request=job.view.request, traceparent=job.traceparent)
        child.send(worker_pb2.WorkerRequest(weigh=weigh))
        until = self._clock.monotonic() + _WEIGH_S
        while not self._board.closed and self._clock.monotonic() < until:
            event = child.next_event(_MEMORY_CHECK_S)
            if isinstance(event, Ended):
                failure = self._crashed(job, child, event).failure
                return worker_pb2.JobWeighed(failure=failure)
            if isinstance(event, Reply) and event.reply.weighed.job_id == job_id:
                return event.reply.weighed
        self._discard()
        return worker_pb2.JobWeighed(failure=failures.timed_out(_WEIGH_S))

    def _ready_child(self) -> ChildProcess:
        if self._child is not None and not self._child.alive:
            self._discard()
        if self._child is None:
            self._child = self._nursery.take()
        return self._child

    def _work_on(self, job: Job, child: ChildProcess) -> worker_pb2.JobFinished:
        """Return how the job ended. On every path but a Finished frame the child is gone afterwards."""
        job_id = job.view.job_id
        job.wake = child.wake
        run = worker_pb2.RunJob(
            job_id=job_id,
            request=job.view.request,
            traceparent=job.traceparent,
            memory_bytes=job.claim.held,
            predicted_memory_bytes=job.claim.predicted,
            estimated_memory_bytes=job.claim.estimated,
            checkpoint=job.view.checkpoint,
        )
        self._held_before, self._killed_before = child.resident_bytes(), killed_for_memory()
        child.send(worker_pb2.WorkerRequest(run=run))
        out_of_time = self._clock.monotonic() + self._limits.job_timeout_s
        stop_sent = False
        while True:
            self._board.check_attention(job)
            if job.cancel_at is not None and not stop_sent:
                child.send(worker_pb2.WorkerRequest(stop=worker_pb2.StopJob(job_id=job_id)))
                stop_sent = True
            now = self._clock.monotonic()
            ends_at = min(out_of_time, job.cancel_at) if job.cancel_at is not None else out_of_time
            verdict = self._verdict(job, child, now, ends_at)
            if verdict is not None:
                self._discard()
                return verdict
            event = child.next_event(min(_MEMORY_CHECK_S, ends_at - now))
            if isinstance(event, Ended):
                return self._crashed(job, child, event)
            if isinstance(event, Reply) and event.reply.mark.job_id == job_id:
                self._board.mark(job, event.reply.mark)
            elif isinstance(event, Reply) and event.reply.finished.job_id == job_id:
                return event.reply.finished

    def _verdict(self, job: Job, child: ChildProcess, now: float, ends_at: float) -> worker_pb2.JobFinished | None:
        """Return how the server ends the job, or None while it may go on."""
        if self._board.closed:
            return _stopped(job)
        if now >= ends_at:
            if job.cancel_at is not None:
                return _stopped(job)
            return _failed(job, failures.timed_out(self._limits.job_timeout_s))
        resident = child.resident_bytes()
        self._most_held = max(self._most_held, resident - self._held_before)
        if resident > self._limits.memory_bytes:
            what = f"the job holds {resident >> 20} MiB, more than the {self._limits.memory_bytes >> 20} MiB allowed"
            return _failed(job, failures.out_of_memory(what))
        return None

    def _crashed(self, job: Job, child: ChildProcess, event: Ended) -> worker_pb2.JobFinished:
        self._child = None
        code = child.end() if event.fault else child.collect()
        if job.cancel_at is not None:
            return _stopped(job)
        if event.fault:
            return _failed(job, failures.failure("CHILD_CRASHED", f"the job's process: {event.fault}", retryable=True))
        for_memory = killed_for_memory() > self._killed_before
        return _failed(job, failures.crashed(code, child.stderr_tail(), killed_for_memory=for_memory))

    def _discard(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end()


def _failed(job: Job, failure: search_pb2.Failure) -> worker_pb2.JobFinished:
    return worker_pb2.JobFinished(job_id=job.view.job_id, failure=failure)


def _stopped(job: Job) -> worker_pb2.JobFinished:
    return worker_pb2.JobFinished(job_id=job.view.job_id, stopped=worker_pb2.JobStopped())
