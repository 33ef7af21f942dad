"""Memory and slots that jobs of one server share: which waiting job may begin, and what becomes of one that never fits.

A job is weighed before it runs and then holds a claim until it ends. Where the first in line does not fit now, smaller
ones may go before it, but only so many; then nothing begins until it has. So every job that fits at all begins at last.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from nasmesh.jobs.failures import out_of_memory
from nasmesh.memory import show_bytes
from nasmesh.v1 import search_pb2, worker_pb2

OVERTAKEN = 8
"""How many may go before a job that waits for memory."""

MARGIN = 1.15
"""A job's claim over what was foretold for it: its limit, so that a little more is no reason to end it."""


@dataclass(slots=True)
class Claim:
    """What one job has of the server's memory. Guard it by the board's lock."""

    weighed: bool = False
    weighing: bool = False
    estimated: int = 0
    """Bytes that the job was weighed at; 0: it was not."""
    predicted: int = 0
    """The same times what this host has learned."""
    held: int = 0
    """Bytes that it may hold while it runs; 0: no bound is kept."""
    alone: bool = False
    """Whether it has, or waits for, all there is: a try with less was not enough."""
    overtaken: int = 0
    slots: int = 1
    once: bool = False
    """Whether it is not tried again here: others wait for it."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What jobs of a server may hold together, in bytes; 0: no bound is kept, and nothing is weighed.

    `metric` is what a job is outside of that does not fit; `factor` returns what estimates are multiplied by. `each`:
    what one job may hold where nothing is weighed; one that runs out of memory is run once more with nothing beside it,
    and is outside of that if it does so again. 0: running out of memory is a failure.
    """

    budget: int = 0
    metric: str = ""
    factor: Callable[[], float] = lambda: 1.0
    each: int = 0


class Claimant(Protocol):
    """A job as this module sees it."""

    claim: Claim


Job = TypeVar("Job", bound=Claimant)


class Room:
    """Keeps account of one server's memory and slots."""

    def __init__(self, memory: Memory, slots: int = 1024) -> None:
        """Begin with all of it free."""
        self._slots = slots
        self._busy = 0
        self._memory = memory
        self.budget = memory.budget
        self.most = memory.budget or memory.each
        """What one job can have at most; 0: nobody knows."""
        self.taken = 0

    def next(self, waiting: Iterable[Job]) -> Job | None:
        """Return the job to take up next: to be weighed (`weighing` is set), or to begin; None where all must wait."""
        passed: list[Claim] = []
        for job in waiting:
            claim = job.claim
            if claim.weighing:
                continue
            if self.budget and not claim.weighed:
                claim.weighing = True
                return job
            if self._fits(claim):
                for earlier in passed:
                    earlier.overtaken += 1
                return job
            if claim.overtaken >= OVERTAKEN:
                return None
            passed.append(claim)
        return None

    def weighed(self, claim: Claim, found: worker_pb2.JobWeighed) -> worker_pb2.JobFinished | None:
        """Give a job the claim that follows from what it will hold; or return how it ends, since it can never run."""
        predicted = math.ceil(found.memory_bytes * self._memory.factor())
        claim.weighing, claim.weighed, claim.estimated, claim.predicted = False, True, found.memory_bytes, predicted
        claim.held = min(self.budget, math.ceil(predicted * MARGIN))
        if found.HasField("failure"):
            return worker_pb2.JobFinished(failure=found.failure)
        if predicted <= self.budget:
            return None
        what = f"it would hold {show_bytes(predicted)}, jobs here may hold {show_bytes(self.budget)} together"
        return worker_pb2.JobFinished(failure=out_of_memory(what), violation=self.violation(claim, 0))

    def _fits(self, claim: Claim) -> bool:
        if self._busy + claim.slots > self._slots:
            return False
        return not self.budget or self.taken + claim.held <= self.budget

    def take(self, claim: Claim) -> None:
        """A job begins."""
        self._busy += claim.slots
        self.taken += claim.held

    def give_back(self, claim: Claim) -> None:
        """A job has ended."""
        self._busy -= claim.slots
        self.taken -= claim.held

    def may_try_alone(self, claim: Claim) -> bool:
        """Say whether a job that ran out of memory may run again with all there is, and give it that claim."""
        if not self.most or claim.once or claim.alone or claim.held >= self.most:
            return False
        claim.held, claim.alone, claim.overtaken = self.budget, True, 0
        if not self.budget:
            claim.slots = self._slots
        return True

    def judge(self, claim: Claim, finished: worker_pb2.JobFinished, seen: int) -> None:
        """Say by how much a job that ran out of memory is outside what there is, where it had all of it."""
        if not claim.once or claim.held >= self.most:
            finished.violation.CopyFrom(self.violation(claim, seen))

    def violation(self, claim: Claim, seen: int) -> search_pb2.ConstraintViolation:
        """Return by how much a job is outside what there is, and what it needs of another server.

        `seen`: the most that it was seen to hold; one that asked for more than there is held less, and is outside by a
        byte at least.
        """
        value = max(claim.predicted, seen, self.most + 1)
        constraint = search_pb2.Constraint(metric=self._memory.metric, max=self.most)
        return search_pb2.ConstraintViolation(constraint=constraint, value=value, needed_memory_bytes=value)
