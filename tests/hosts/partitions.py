"""Tier T6: which link of a mesh breaks, in which way, for how long; and breaking it."""

import itertools
import threading
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from tests.hosts.fleet import Fleet

Link = Literal["train-scheduler", "train-store", "generate-scheduler"]
Way = Literal["in", "out", "both", "flapping"]
Length = Literal["short", "long", "restart"]

LINKS: tuple[Link, ...] = ("train-scheduler", "train-store", "generate-scheduler")
WAYS: tuple[Way, ...] = ("in", "out", "both", "flapping")
LENGTHS: tuple[Length, ...] = ("short", "long", "restart")
LEASE_S = 3.0
# Shorter than a lease by more than a heartbeat; longer by more than the pause before a lost attempt is made again.
SHORT_S, LONG_S = 1.5, 5.0
FLAPS = 4


class Case(NamedTuple):
    """One partition: seen from the server's host, packets from the other side are dropped ("in"), or to it, or both."""

    link: Link
    way: Way
    length: Length

    def __str__(self) -> str:
        """Return it as a test's name."""
        return f"{self.link} {self.way} {self.length}"


ALL = tuple(Case(*parts) for parts in itertools.product(LINKS, WAYS, LENGTHS))
EACH_CHANGE = (
    Case("train-scheduler", "both", "long"),
    Case("train-store", "out", "short"),
    Case("generate-scheduler", "in", "restart"),
    Case("train-scheduler", "flapping", "short"),
)


def pause(seconds: float) -> None:
    """Let a fault last: the time is what is tried, nothing is waited for."""
    threading.Event().wait(seconds)


def is_moment(case: Case, change: dict[str, Any]) -> str:
    """Return the host that is struck, where a change of the search says that its work is under way."""
    if case.link == "generate-scheduler":  # its next work is to come
        return "gen1" if change.get("trial", {}).get("phase") == "TRIAL_PHASE_EVALUATING" else ""
    return training_host(change)


def training_host(change: dict[str, Any]) -> str:
    """Return the host whose training has just told how far it is."""
    progress = change.get("progress", {})
    if not int(progress.get("train", {}).get("step", 0)):
        return ""
    return str(progress["agent"]).removeprefix("agents/").partition("-")[0]


def strike(fleet: Fleet, case: Case, host: str) -> int:
    """Break a link between a host and the other side, and heal it; returns how many packets were dropped."""
    near, far = fleet[host], fleet["store" if case.link == "train-store" else "hub"]
    restart = _restart_of(fleet, case) if case.length == "restart" else None
    dropped = 0
    try:
        if case.way == "flapping":
            lasts = LONG_S if case.length == "long" else SHORT_S
            for _ in range(FLAPS):
                near.cut(far)
                pause(lasts / FLAPS)
                dropped += near.heal()
                pause(lasts / FLAPS / 2)
                if restart is not None:
                    restart()
                    restart = None
        else:
            near.cut(far, case.way)
            if restart is not None:
                restart()
            else:
                pause(LONG_S if case.length == "long" else SHORT_S)
    finally:
        dropped += near.heal()
    return dropped


def _restart_of(fleet: Fleet, case: Case) -> Callable[[], None]:
    """Return what kills the other side and starts it again."""

    def store() -> None:
        assert fleet.store is not None
        fleet.store.kill()
        fleet.store.start()

    def scheduler() -> None:
        fleet.kill9("hub", "scheduler")
        fleet.start_scheduler()

    return store if case.link == "train-store" else scheduler
