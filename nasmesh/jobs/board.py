"""The state of all jobs of a server behind one lock: what may change, in which order, and who is told."""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from nasmesh import ids
from nasmesh.clock import Clock
from nasmesh.errors import Busy, Conflict, NotFound, Stale, Unavailable
from nasmesh.jobs import failures
from nasmesh.jobs.attention import orphaned
from nasmesh.jobs.job import Job, ended_view, loaded, queued
from nasmesh.jobs.records import RecordDirectory
from nasmesh.jobs.room import Memory, Room
from nasmesh.jobs.tally import JobTally
from nasmesh.jobs.view import JobView, record_of
from nasmesh.limits import ORPHAN_GRACE_S, ORPHAN_S, SPOOL_KEEP_S
from nasmesh.logs import get_logger
from nasmesh.rpc.call import caller_waits
from nasmesh.telemetry import tracing
from nasmesh.telemetry.samples import Reading
from nasmesh.v1 import job_pb2, worker_pb2

_LISTEN_S = 1.0
"""How often a silent watch asks whether its caller still listens."""


class Board:
    """Jobs by id. Slots take, mark and finish them; everybody else starts, reads, watches, cancels and deletes them."""

    def __init__(
        self,
        records: RecordDirectory,
        *,
        clock: Clock,
        noun: str,
        capacity: int,
        orphan_s: float = ORPHAN_S,
        room: Room | None = None,
    ) -> None:
        """Load the ended jobs of an earlier process; `capacity` bounds jobs that have not ended."""
        self._room = room or Room(Memory())
        self._records = records
        self._clock = clock
        self._noun = noun
        self._capacity = capacity
        self._orphan_s = orphan_s
        self._log = get_logger("jobs")
        self._changed = threading.Condition()
        self._jobs: dict[str, Job] = {}
        self._queue: deque[Job] = deque()
        self._draining = False
        self._closed = False
        self._tally = JobTally()
        for job_id, content in records.load():
            if (job := loaded(job_id, content, now=clock.monotonic())) is not None:
                self._jobs[job_id] = job
                continue
            self._log.warning("job_record_unreadable", job=job_id)
            records.remove(job_id)

    def start(self, job_id: str, request: bytes, *, slots: int = 1, once: bool = False) -> JobView:
        """Queue a job, or return the one that has this id and body."""
        ids.check_job_id(job_id, field=f"{self._noun}_id")
        with self._changed:
            self._forget_old()
            existing = self._jobs.get(job_id)
            if existing is not None:
                if existing.view.request != request:
                    raise Conflict(
                        f"{self._noun.upper()}_ID_REUSED",
                        f"{self._noun} {job_id} exists with another body; choose another id",
                        field=f"{self._noun}_id",
                    )
                existing.attention.asked(self._clock.monotonic())
                return existing.view
            if self._draining or self._closed:
                raise Unavailable("DRAINING", "this server is shutting down; use another")
            if sum(not job.view.ended for job in self._jobs.values()) >= self._capacity:
                raise Busy("NO_SLOT", f"all slots and the queue are full ({self._capacity} jobs)", retry_after_s=1.0)
            job = queued(job_id, request, now=self._clock.monotonic(), traceparent=tracing.current())
            job.claim.slots, job.claim.once = slots, once
            self._jobs[job_id] = job
            self._queue.append(job)
            self._changed.notify_all()
            return job.view

    def get(self, job_id: str) -> JobView:
        """Return one job."""
        with self._changed:
            job = self._find(job_id)
            job.attention.asked(self._clock.monotonic())
            return job.view

    def list(self) -> tuple[JobView, ...]:
        """Return all jobs, newest first."""
        with self._changed:
            return tuple(job.view for job in reversed(self._jobs.values()))

    def watch(self, job_id: str, after_sequence: int, timeout_s: float | None) -> Iterator[JobView]:
        """Yield the job's changes after a sequence number until it ends, is deleted, or is silent for the time."""
        with self._changed:
            job = self._find(job_id)
        sequence = after_sequence
        over = False
        with self._watching(job):
            while not over:
                views, over = self._changes(job, sequence, timeout_s)
                for view in views:
                    sequence = view.sequence
                    yield view

    def cancel(self, job_id: str, grace_s: float) -> JobView:
        """Ask a job to stop; a queued one ends at once, an ended one stays as it is. The first call sets the grace."""
        with self._changed:
            job = self._find(job_id)
            if job in self._queue:
                self._queue.remove(job)
                self._end(job, replace(job.view, state=job_pb2.JOB_STATE_CANCELLED))
            elif not job.view.ended and job.cancel_at is None:
                job.cancel_at = self._clock.monotonic() + grace_s
                if job.wake is not None:
                    job.wake()
            return job.view

    def delete(self, job_id: str) -> None:
        """Forget an ended job."""
        with self._changed:
            job = self._find(job_id)
            if not job.view.ended:
                raise Stale(f"{self._noun.upper()}_NOT_ENDED", f"{self._noun} {job_id} has not ended; cancel it first")
            del self._jobs[job_id]
            self._records.remove(job_id)
            self._changed.notify_all()

    def check_attention(self, job: Job) -> None:
        """Ask a running job to write a checkpoint and stop where nobody has wanted it for long."""
        with self._changed:
            now = self._clock.monotonic()
            if job.cancel_at is None and job.attention.absent_s(now) >= self._orphan_s:
                self._log.warning("job_orphaned", job=job.view.job_id, absent_s=self._orphan_s)
                job.is_orphan = True
                job.cancel_at = now + ORPHAN_GRACE_S

    def take(self) -> Job | None:
        """Wait for a queued job and return it; None once the board is closed.

        Where memory is shared, one that nobody has weighed comes back QUEUED, to be weighed; any other is RUNNING.
        """
        with self._changed:
            while not self._closed and (job := self._room.next(self._queue)) is None:
                self._changed.wait()
            if self._closed or job is None:
                return None
            if job.claim.weighing:
                return job
            self._queue.remove(job)
            self._room.take(job.claim)
            job.began_at = self._clock.monotonic()
            self._move(job, replace(job.view, state=job_pb2.JOB_STATE_RUNNING), is_state=True)
            return job

    def weighed(self, job: Job, found: worker_pb2.JobWeighed) -> None:
        """Note what a queued job will hold; one that never fits ends now, and so does one that cannot be weighed."""
        with self._changed:
            if job not in self._queue:
                return  # cancelled meanwhile
            finished = self._room.weighed(job.claim, found)
            if finished is None:
                self._changed.notify_all()
                return
            self._queue.remove(job)
        self._finish(job, finished)

    def mark(self, job: Job, mark: worker_pb2.JobMark) -> None:
        """Record how far a running job is."""
        with self._changed:
            checkpoint = mark.checkpoint if mark.HasField("checkpoint") else job.view.checkpoint
            progress = mark.progress or job.view.progress
            self._move(job, replace(job.view, progress=progress, checkpoint=checkpoint), is_state=False)

    def finish(self, job: Job, finished: worker_pb2.JobFinished, *, seen: int = 0) -> None:
        """Record how a running job ended, on disk first. One that ran out of memory may wait for all there is instead.

        `seen`: the most memory that it was seen to hold, beyond what its process held before.
        """
        with self._changed:
            self._room.give_back(job.claim)
            if finished.failure.reason == failures.OUT_OF_MEMORY and job.cancel_at is None and self._room.most:
                if self._room.may_try_alone(job.claim):
                    self._log.warning("job_tried_alone", job=job.view.job_id, text=finished.failure.message)
                    self._queue.appendleft(job)
                    self._move(job, replace(job.view, state=job_pb2.JOB_STATE_QUEUED), is_state=True)
                    return
                self._room.judge(job.claim, finished, seen)
            self._changed.notify_all()
        self._finish(job, finished)

    def _finish(self, job: Job, finished: worker_pb2.JobFinished) -> None:
        self._end(job, ended_view(job.view, finished, orphaned(self._noun, self._orphan_s) if job.is_orphan else None))

    def begin_drain(self, grace_s: float) -> None:
        """Take no more jobs and ask those at hand to stop within the time."""
        with self._changed:
            self._draining = True
            for job_id in [job.view.job_id for job in self._jobs.values() if not job.view.ended]:
                self.cancel(job_id, grace_s)

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Wait until every job has ended; returns whether that came in time."""
        with self._changed:
            return self._changed.wait_for(lambda: all(job.view.ended for job in self._jobs.values()), timeout_s)

    def close(self) -> None:
        """Let slots and watchers go; jobs at hand end without a record, so that a next process starts them again."""
        with self._changed:
            self._closed = True
            for job in self._jobs.values():
                if not job.view.ended and job.wake is not None:
                    job.wake()
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Whether slots should drop what they do."""
        return self._closed

    @contextmanager
    def _watching(self, job: Job) -> Iterator[None]:
        with self._changed:
            job.attention.watch_begins()
        try:
            yield
        finally:
            with self._changed:
                job.attention.watch_ends(self._clock.monotonic())

    def _find(self, job_id: str) -> Job:
        job = self._jobs.get(job_id)
        if job is None:
            raise NotFound(
                f"{self._noun.upper()}_UNKNOWN", f"there is no {self._noun} {job_id[:80]!r}", field=f"{self._noun}_id"
            )
        return job

    def _changes(self, job: Job, sequence: int, timeout_s: float | None) -> tuple[Sequence[JobView], bool]:
        """Wait for changes after a sequence number; returns them, and whether there will be no more."""
        job_id = job.view.job_id

        until = None if timeout_s is None else self._clock.monotonic() + timeout_s

        def is_gone() -> bool:
            return self._closed or self._jobs.get(job_id) is not job

        with self._changed:
            moved = False
            while not moved and caller_waits():
                left = _LISTEN_S if until is None else min(_LISTEN_S, until - self._clock.monotonic())
                moved = self._changed.wait_for(lambda: job.view.sequence > sequence or is_gone(), max(0.0, left))
                if until is not None and self._clock.monotonic() >= until:
                    break
            views = [view for view in job.states if view.sequence > sequence]
            if job.view.sequence > max([sequence, *(view.sequence for view in views)]):
                views.append(job.view)
            return views, job.view.ended or is_gone() or not moved

    def _move(self, job: Job, view: JobView, *, is_state: bool) -> None:
        with self._changed:
            job.view = replace(view, sequence=job.view.sequence + 1)
            if is_state:
                job.states.append(job.view)
            self._changed.notify_all()

    def _end(self, job: Job, view: JobView) -> None:
        if self._closed:
            return
        try:
            # Before anybody is told: a result that was seen must not be lost.
            self._records.put(view.job_id, record_of(replace(view, sequence=view.sequence + 1)))
        except OSError as error:
            # The work is done and can still be fetched from memory; only a restart would lose it.
            self._log.error("job_record_not_written", job=view.job_id, error=str(error))
        job.ended_at = self._clock.monotonic()
        self._move(job, view, is_state=True)
        with self._changed:
            self._tally.add(view.state, None if job.began_at is None else job.ended_at - job.began_at)
        self._log.info("job_ended", job=view.job_id, state=job_pb2.JobState.Name(view.state))

    def readings(self) -> Sequence[Reading]:
        """Return what metrics tell of the jobs."""
        with self._changed:
            return self._tally.readings(job.view.state for job in self._jobs.values() if not job.view.ended)

    def _forget_old(self) -> None:
        limit = self._clock.monotonic() - SPOOL_KEEP_S
        for job_id in [key for key, job in self._jobs.items() if job.view.ended and job.ended_at < limit]:
            del self._jobs[job_id]
            self._records.remove(job_id)
