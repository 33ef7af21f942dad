"""What the scheduler has done since it started: counters that cost an addition each, read now and then by people.

Nothing here decides anything. Only the thread that runs the engine writes; the journal's writer sets nothing.
What a step has done counts once the step is durable: what the journal refuses comes again.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping

# Upper bounds of commit times in seconds: an fsync takes 0.1 ms on a fast disk and seconds on a sick one.
COMMIT_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
# Reasons come from agents, which may be somebody else's programs: beyond so many they are counted together.
REASONS = 64
OTHER = "OTHER"
_RECENT = 128


class Counts(dict[str, int]):
    """Counts by reason, with bounded cardinality."""

    def add(self, reason: str) -> None:
        """Count one."""
        key = reason if reason in self or len(self) < REASONS else OTHER
        self[key] = self.get(key, 0) + 1


class Activity:
    """Counters since the start, times of recent commits, and since when tasks wait."""

    def __init__(self) -> None:
        """Start at zero."""
        self.outcomes_recorded = 0
        self.duplicates_refused = 0
        self.superseded_refused = 0
        self.attempts_lost = Counts()
        self.failures = Counts()
        self.networks_refused = Counts()
        self.calls_denied: Mapping[str, int] = {}
        """Refused calls by reason, as the server's gate counts them."""
        self.events = 0
        """Events in the journal, over all boots: what is being written is not among them, as it may yet be refused."""
        self.commits = 0
        self.commit_failures = 0
        self.commit_s = 0.0
        """Seconds spent in commits."""
        self.commit_buckets = [0] * (len(COMMIT_BOUNDS_S) + 1)
        """Commits by duration: up to each of COMMIT_BOUNDS_S, and above."""
        self.serving = False
        """What health says."""
        self.queued_since: dict[str, float] = {}
        """Tasks that were queued and not leased, oldest first, with the monotonic time; some may have ended since."""
        self._to_count: list[tuple[Callable[[str], None], str]] = []
        self._recent = [0.0] * _RECENT
        self._writing_since: float | None = None
        self._failing_since: float | None = None

    # --- outcomes ------------------------------------------------------------------------------------------------

    def recorded(self, failure: str = "") -> None:
        """Count an outcome that was recorded; `failure`: its reason, where it is one."""
        self._to_count.append((self._count_outcome, failure))

    def duplicate(self) -> None:
        """Count a repeated outcome."""
        self._to_count.append((self._count_duplicate, ""))

    def superseded(self) -> None:
        """Count an outcome of a superseded attempt."""
        self._to_count.append((self._count_superseded, ""))

    def lost(self, reason: str) -> None:
        """Count an attempt that was given up without an outcome."""
        self._to_count.append((self.attempts_lost.add, reason))

    def refused(self, reason: str) -> None:
        """Count a proposed network that was refused."""
        self._to_count.append((self.networks_refused.add, reason))

    def published(self) -> None:
        """Count all of that now: it is durable."""
        for count, reason in self._to_count:
            count(reason)
        self._to_count.clear()

    def aborted(self) -> None:
        """Count none of it: the journal has refused it."""
        self._to_count.clear()

    def _count_outcome(self, failure: str) -> None:
        self.outcomes_recorded += 1
        if failure:
            self.failures.add(failure)

    def _count_duplicate(self, _: str) -> None:
        self.duplicates_refused += 1

    def _count_superseded(self, _: str) -> None:
        self.superseded_refused += 1

    # --- the queue -----------------------------------------------------------------------------------------------

    def queued(self, task: str, now: float) -> None:
        """Note that a task waits."""
        self.queued_since[task] = now

    def leased(self, task: str) -> None:
        """Note that a task waits no more."""
        self.queued_since.pop(task, None)

    # --- the journal ---------------------------------------------------------------------------------------------

    def writing(self, now: float) -> None:
        """Note that a commit begins."""
        self._writing_since = now

    def committed(self, now: float) -> None:
        """Note that the commit that began has ended well."""
        began, self._writing_since, self._failing_since = self._writing_since, None, None
        seconds = max(0.0, now - began) if began is not None else 0.0
        self._recent[self.commits % _RECENT] = seconds
        self.commits += 1
        self.commit_s += seconds
        self.commit_buckets[bisect_left(COMMIT_BOUNDS_S, seconds)] += 1

    def settled(self) -> None:
        """Note that what began as a commit does was none, and is over."""
        self._writing_since = None

    def commit_failed(self, now: float) -> None:
        """Note that the commit that began was refused."""
        self._writing_since = None
        if self._failing_since is None:
            self._failing_since = now
        self.commit_failures += 1

    def commit_p50_s(self) -> float:
        """Return the median duration of the last 128 commits; 0 before the first."""
        known = sorted(self._recent[: min(self.commits, _RECENT)])
        return known[len(known) // 2] if known else 0.0

    def stuck_s(self, now: float) -> float:
        """Return for how long work has waited for a commit that does not come; 0 while all is well."""
        since = [moment for moment in (self._writing_since, self._failing_since) if moment is not None]
        return max(0.0, now - min(since)) if since else 0.0
