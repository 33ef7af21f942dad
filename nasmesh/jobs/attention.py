"""Whether anybody still wants a job: who watches it, and when somebody last asked for it."""

from dataclasses import dataclass

from nasmesh.v1 import search_pb2


@dataclass(slots=True)
class Attention:
    """The attention that one job gets. Times in seconds on the monotonic clock; guard it by the board's lock."""

    asked_at: float
    watchers: int = 0

    def asked(self, now: float) -> None:
        """Note that somebody started or fetched the job."""
        self.asked_at = max(self.asked_at, now)

    def absent_s(self, now: float) -> float:
        """Return for how long nobody has watched or asked."""
        return 0.0 if self.watchers else max(0.0, now - self.asked_at)

    def watch_begins(self) -> None:
        """Count one more watcher."""
        self.watchers += 1

    def watch_ends(self, now: float) -> None:
        """Count one less; until now it wanted the job."""
        self.watchers -= 1
        self.asked(now)


def orphaned(noun: str, after_s: float) -> search_pb2.Failure:
    """Return why a job was stopped that nobody asked about; another attempt goes on from its checkpoint, uncounted."""
    message = f"nobody watched or asked for this {noun} for {after_s:g} s; start another from its checkpoint"
    return search_pb2.Failure(reason="ORPHANED", message=message, retryable=True, counted=False)
