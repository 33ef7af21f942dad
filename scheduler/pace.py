"""Whether the event loop waits for the next commit, or goes on while a thread writes it.

Always a thread writes, so that the loop can answer (health, above all) while a disk hangs in the middle of a commit. A
loop that goes on meanwhile competes with that thread for the interpreter's lock, which the writer asks for again after
every statement. So while the disk is quick the loop stands and waits: 0.04 ms more than if it wrote itself, where going
on costs 0.08 ms (medians, commits of 20 events on a disk that takes no time).
"""

# The loop waits no longer than this, and then goes on: what a disk that begins to hang costs everybody, once.
QUICK_S = 0.005
# After a slow one, and at the start, the loop goes on during so many before it waits for one again.
FOLLOWED = 50


class Pace:
    """Follows how long commits take. A disk that stalls holds the loop up for QUICK_S, and then no more for a while."""

    def __init__(self) -> None:
        """Go on meanwhile at first."""
        self._left = FOLLOWED

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
