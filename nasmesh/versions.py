"""Which versions of nasmesh work together: told when an agent connects, by both sides.

An agent has the scheduler's major and minor version, or the minor version before: the scheduler is upgraded first, then
host after host. An older agent would ignore what newer leases ask for, and a newer one answer what nobody understands.
"""

import re
from typing import NamedTuple

from nasmesh.errors import Stale

UNFIT = "VERSION_UNFIT"
_FORM = re.compile(r"(\d{1,6})\.(\d{1,6})(?:[.\-+a-z].{0,64})?")


class _Minor(NamedTuple):
    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


def check_fit(agent: str, scheduler: str, *, who: str = "this agent") -> None:
    """Raise Stale (VERSION_UNFIT) unless an agent's version works with a scheduler's, with what to upgrade.

    An empty version, of a program that is not ours, fits: it speaks the contract, whose package names its version.
    """
    if not agent or not scheduler:
        return
    theirs, ours = _parsed(agent), _parsed(scheduler)
    if theirs is None or ours is None:
        wrong = agent if theirs is None else scheduler
        raise Stale(UNFIT, f"version: {wrong[:40]!r} is no version such as 0.1.0; install a release of nasmesh")
    if theirs == ours or (theirs.major == ours.major and theirs.minor + 1 == ours.minor):
        return
    have = f"{who} runs nasmesh {agent[:40]}, the scheduler {scheduler[:40]}"
    if theirs > ours:
        raise Stale(UNFIT, f"version: {have}: upgrade the scheduler to {theirs} first, or install {ours} here")
    raise Stale(UNFIT, f"version: {have}: upgrade nasmesh to {ours} on the agent's host, and start it again")


def _parsed(version: str) -> _Minor | None:
    found = _FORM.fullmatch(version)
    return _Minor(int(found[1]), int(found[2])) if found else None
