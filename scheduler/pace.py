"""Whether the event loop itself may write the next commit, or hands it to a thread and goes on meanwhile."""

# Within this a commit costs less than handing it over does: both threads want the interpreter's lock, and the one that
# writes asks for it again after every statement.
QUICK_S = 0.005
# After a slow one, and at the start, this many are handed over before the loop tries one again.
HANDED_OVER = 50


class Pace:
    """Follows how long commits take. A disk that stalls holds the loop up once, and then no more until it is quick."""

    def __init__(self) -> None:
        """Hand over at first."""
        self._left = HANDED_OVER

    @property
    def is_quick(self) -> bool:
        """Whether the next commit may be written by the loop."""
        return self._left <= 0

    def handed_over(self) -> None:
        """Note a commit that a thread wrote."""
        self._left -= 1

    def took(self, seconds: float) -> None:
        """Note how long a commit took that the loop wrote."""
        if seconds > QUICK_S:
            self._left = HANDED_OVER
