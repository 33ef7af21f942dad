"""What the jobs of a table came to since the start, for metrics."""

from nasmesh.jobs.view import ENDED
from nasmesh.telemetry.samples import Histogram
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


def state_name(state: job_pb2.JobState.ValueType) -> str:
    """Return a state as metrics and people write it."""
    return job_pb2.JobState.Name(state).removeprefix("JOB_STATE_").lower()
