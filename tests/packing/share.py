"""Runs trainings in a job table whose children share little memory, and counts what became of them."""

import itertools
import os
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from nasmesh.jobs.room import MARGIN, Memory
from nasmesh.jobs.table import JobTable, JobView
from nasmesh.memory import METRIC, Learned, show_bytes
from nasmesh.store.directory import DirectoryStore
from nasmesh.v1 import job_pb2
from nasmesh.v1 import train_service_pb2 as pb
from train_svc.heap import heap_environment

# Trainings that wait or run: a job that nobody asks after for ten minutes would be stopped.
QUEUED = 16


@dataclass(slots=True)
class Tally:
    """What became of the trainings. Memory in bytes.

    refused: would never fit, and never ran. trained: ended well. ran_out: ran and ended for want of memory. again: ran
    out at first and had to be run with all there is. above: held more resident memory than their claim. failed: ended
    in another way, with the reason.
    """

    refused: int = 0
    trained: int = 0
    ran_out: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    above: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    held: list[tuple[int, int]] = field(default_factory=list)
    """Of each that ended well: foretold and measured."""

    @property
    def ran(self) -> int:
        """Trainings that were begun."""
        return self.trained + len(self.ran_out) + len(self.failed)

    @property
    def share_out(self) -> float:
        """Share of those begun that ran out of memory at least once."""
        return len({*self.ran_out, *self.again}) / max(1, self.ran)

    def add(self, views: list[JobView]) -> None:
        """Count one training, from the states it went through."""
        last = views[-1]
        runs = sum(a.state != b.state == job_pb2.JOB_STATE_RUNNING for a, b in itertools.pairwise(views))
        if runs > 1:
            self.again.append(last.job_id)
        if last.state == job_pb2.JOB_STATE_SUCCEEDED:
            result = pb.TrainResult.FromString(last.result)
            self.trained += 1
            self.held.append((result.predicted_memory_bytes, result.peak_memory_bytes))
            if result.peak_memory_bytes > MARGIN * result.predicted_memory_bytes:
                self.above.append(last.job_id)
        elif last.violation is not None and not runs:
            self.refused += 1
        elif last.violation is not None:
            self.ran_out.append(last.job_id)
        else:
            self.failed.append(f"{last.job_id}: {last.failure.reason if last.failure else last.state}")

    def told(self) -> str:
        """Return the counts for people."""
        ratios = sorted(measured / predicted for predicted, measured in self.held) or [0.0]
        return (
            f"{self.ran + self.refused} trainings: {self.refused} refused, {self.ran} ran, {self.trained} trained; "
            f"out of memory {len(self.ran_out)}, at first try {len(self.again)}, "
            f"resident above the claim {len(self.above)}, failed {self.failed}; "
            f"measured over foretold: median {statistics.median(ratios):.2f}, largest {ratios[-1]:.2f}; "
            f"largest held {show_bytes(max((measured for _, measured in self.held), default=0))}"
        )


def train_all(requests: Iterable[pb.StartTrainingRequest], directory: Path, *, budget: int, slots: int) -> Tally:
    """Train them under a bound of `budget` bytes together; `directory` has the store under "objects"."""
    asked = list(requests)
    tally = Tally()
    table = JobTable(
        work="train_svc.job:run",
        slots=slots,
        directory=directory / "jobs",
        environment={
            "NASMESH_STORE": f"dir:{directory / 'objects'}",
            "NASMESH_HOME": str(directory / "home"),
            "OMP_NUM_THREADS": "1",
            **heap_environment(os.environ),
        },
        noun="training",
        queue=2 * QUEUED,
        memory=Memory(budget, METRIC, Learned("cpu", directory / "home" / "memory").factor),
    )
    try:
        for number, request in enumerate(asked):
            for later in asked[:QUEUED] if number == 0 else asked[number + QUEUED - 1 : number + QUEUED]:
                table.start(later.training_id, later)
            tally.add(list(table.watch(request.training_id)))
    finally:
        table.close()
    return tally


def open_store(directory: Path) -> DirectoryStore:
    """Return the store that the children of `train_all` read."""
    return DirectoryStore(directory / "objects")
