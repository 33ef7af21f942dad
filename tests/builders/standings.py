"""Waiting, in tests of engines, for what an engine says of its servers."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from scheduler.deployers.base import Engine, Order, Resources, Standing, State

WITHIN_S = 60.0
_POLL_S = 0.1

# What a server does as far as an engine sees: it says what it was given, and ends when it is asked to, or does not.
SERVER = """
import json, os, signal, sys, time
signal.signal(signal.SIGTERM, (lambda *_: sys.exit(0)) if "stubborn" not in sys.argv else signal.SIG_IGN)
with open(sys.argv[1] + ".part", "w") as file:
    json.dump({"pid": os.getpid(), "argv": sys.argv[1:], "environment": dict(os.environ)}, file)
os.replace(sys.argv[1] + ".part", sys.argv[1])
if "fail" in sys.argv:
    sys.exit(7)
time.sleep(600)
"""


def order(name: str, told: Path, *words: str, resources: Resources | None = None) -> Order:
    """Return the order of a server that writes what it was given into `told`; see SERVER for the words."""
    return Order(
        name=name,
        pool=name.rpartition("-")[0],
        command=(sys.executable, "-c", SERVER, str(told), *words),
        environment={"NASMESH_STORE": "dir:/objects", "TEST_WORDS": 'a "b", $c'},
        resources=resources or Resources(cpus=1, memory_bytes=64 * 2**20),
        labels={},
    )


def until(engine: Engine, name: str, state: State, *, says: str = "") -> Standing:
    """Ask until a server stands so, with these words in its reason; returns how it stands."""
    return until_all(engine, lambda found: name in found and found[name].state is state and says in found[name].reason)[
        name
    ]


def until_all(engine: Engine, holds: Callable[[dict[str, Standing]], bool]) -> dict[str, Standing]:
    """Ask until the answer is as wanted; returns it by name."""
    ends, found = time.monotonic() + WITHIN_S, {}
    while time.monotonic() < ends:
        found = {standing.name: standing for standing in engine.standings()}
        if holds(found):
            return found
        time.sleep(_POLL_S)
    raise AssertionError(f"after {WITHIN_S:.0f} s: {found}")


def until_file(path: Path) -> str:
    """Wait for a file that a server writes; returns what it holds."""
    ends = time.monotonic() + WITHIN_S
    while not path.exists():
        assert time.monotonic() < ends, f"{path} was not written within {WITHIN_S:.0f} s"
        time.sleep(_POLL_S)
    return path.read_text()
