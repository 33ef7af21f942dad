"""How much work goes into one commit, and whether the event loop waits for it or goes on while a thread writes it.

A step is worked on about as long as a commit takes, at least STEP_S: its replies, and all that the loop serves beside
it, wait no longer than that, and a disk that is slow still gets large commits.

Always a thread writes, so that the loop can answer (health, above all) while a disk hangs in the middle of a commit. A
loop that goes on meanwhile competes with that thread for the interpreter's lock, which the writer asks for again after
every statement. So while the disk is quick the loop stands and waits: 0.04 ms more than if it wrote itself, where going
on costs 0.08 ms (medians, commits of 20 events on a disk that takes no time).
"""

# The loop waits no longer than this, and then goes on: what a disk that begins to hang costs everybody, once.
QUICK_S = 0.005
# After a slow one, and at the start, the loop goes on during so many before it waits for one again.
FOLLOWED = 50
# Seconds that a step is worked on where commits are quicker: at full speed 100 watchers hear of a change within 20 to
# 23 ms (p99), 28 with 8 ms and 33 to 43 with 64 commands in each step, which costs 64 agents that work for 20 ms 1 % of
# their time. And the work in one, in commands of the usual size: less would commit more than it works, more holds all
# others up however slow the disk is.
STEP_S = 0.005
LEAST_WORK = 16
MOST_WORK = 64
# Part of what was known that each new measurement replaces.
_NEWS = 0.125


class Pace:
    """Follows how long work and commits take.

    A disk that stalls holds the loop up for QUICK_S, and then no more for a while.
    """

    def __init__(self) -> None:
        """Go on meanwhile at first, and in the largest steps: where much waits, as after a start, they are cheapest."""
        self._left = FOLLOWED
        self._work_s = STEP_S / MOST_WORK
        self._commit_s = 0.0

    @property
    def step_work(self) -> int:
        """The work to take into the next step, in commands of the usual size."""
        return max(LEAST_WORK, min(MOST_WORK, int(max(STEP_S, self._commit_s) / self._work_s)))

    def worked(self, work: int, seconds: float) -> None:
        """Note how long a step's commands took; one that was not full, or by a clock that stands, says little."""
        if work >= self.step_work and seconds > 0:
            self._work_s += (seconds / work - self._work_s) * _NEWS

    def committed(self, seconds: float) -> None:
        """Note how long a commit took."""
        self._commit_s += (seconds - self._commit_s) * _NEWS

    @property
    def is_quick(self) -> bool:
        """Whether to wait for the next commit."""
        return self._left <= 0

    def followed(self) -> None:
        """Note a commit during which the loop went on."""
        self._left -= 1

    def overran(self) -> None:
        """Note that the loop has waited for QUICK_S in vain."""
        self._left = FOLLOWED
