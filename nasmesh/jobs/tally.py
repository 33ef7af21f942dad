"""What the jobs of a table came to since the start, for metrics."""

from collections.abc import Iterable

from nasmesh.jobs.view import ENDED
from nasmesh.telemetry.samples import Histogram, Reading, Sample
from nasmesh.v1 import job_pb2

BOUNDS_S = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 24 * 3600.0)


class JobTally:
    """Counts ended jobs; used under the lock of its board."""

    def __init__(self) -> None:
        """Start at zero, which is shown too: a rate needs a value before the first job."""
        self.ended = {state_name(state): 0 for state in sorted(ENDED)}
        self.seconds = Histogram(BOUNDS_S)

    def add(self, state: job_pb2.JobState.ValueType, seconds: float | None) -> None:
        """Count a job; `seconds` is None for one that never started."""
        self.ended[state_name(state)] += 1
        if seconds is not None:
            self.seconds.observe(seconds)

    def readings(self, at_hand: Iterable[job_pb2.JobState.ValueType]) -> list[Reading]:
        """Return what metrics tell, of ended jobs and of those at hand."""
        states = [state_name(state) for state in at_hand]
        return [
            *(Sample("nasmesh_jobs", states.count(state), (state,)) for state in ("queued", "running")),
            *(Sample("nasmesh_jobs_ended", count, (state,)) for state, count in self.ended.items()),
            self.seconds.reading("nasmesh_job_seconds"),
        ]


def state_name(state: job_pb2.JobState.ValueType) -> str:
    """Return a state as metrics and people write it."""
    return job_pb2.JobState.Name(state).removeprefix("JOB_STATE_").lower()
