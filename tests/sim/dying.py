"""How a simulated process dies: at a boundary, at once, without a chance to tidy up."""

from collections.abc import Callable


class KilledError(BaseException):
    """The process was killed. Not an Exception: no `except Exception` of the program under test may survive it."""

    def __init__(self, whom: str, where: str) -> None:
        super().__init__(f"{whom} killed at {where}")
        self.whom = whom
        self.where = where


Boundary = Callable[[str, str], None]
"""Called with (process, place) at every point where a kill can land; raises KilledError if it does."""


def nobody_dies(_whom: str, _where: str) -> None:
    """Pass every boundary."""
