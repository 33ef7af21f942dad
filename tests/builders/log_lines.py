"""What one module says in the log, whatever the level is that an earlier test has set for the process."""

from typing import Any

import pytest


class Lines:
    """Stands in for a module's logger and keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    @classmethod
    def instead_of(cls, monkeypatch: pytest.MonkeyPatch, logger: str) -> "Lines":
        """Take the place of a logger, by its dotted name, until the test ends."""
        lines = cls()
        monkeypatch.setattr(logger, lines)
        return lines

    def _tell(self, event: str, **facts: object) -> None:
        self.told.append({"event": event, **facts})

    debug = info = warning = error = _tell
