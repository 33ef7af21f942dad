"""Places where a test may have the scheduler kill itself: NASMESH_FAILPOINT=NAME:kill, or NAME:kill:N the Nth time."""

import os
import signal

from nasmesh.errors import Invalid

POINTS = ("before_commit", "after_commit", "after_recovery")


class Failpoints:
    """At most one armed point; hitting it ends the process as kill -9 would."""

    def __init__(self, text: str = "") -> None:
        """Parse the setting; raises Invalid (SETTING_INVALID)."""
        self._name, _, action = text.partition(":")
        verb, _, count = action.partition(":")
        if text and (self._name not in POINTS or verb != "kill" or (count and not count.isdigit())):
            raise Invalid(
                "SETTING_INVALID",
                f"NASMESH_FAILPOINT: {text[:80]!r} is not one of {', '.join(POINTS)} with :kill or :kill:N",
                field="NASMESH_FAILPOINT",
            )
        self._left = int(count or 1)

    def hit(self, name: str) -> None:
        """Kill this process if the point is armed and its time has come."""
        if name != self._name:
            return
        self._left -= 1
        if self._left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
