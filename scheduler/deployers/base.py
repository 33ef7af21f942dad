"""What the deployer asks of an engine, whatever that is."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import NamedTuple, Protocol

from nasmesh.errors import FieldViolation, Invalid

ENGINE_DOWN = "ENGINE_DOWN"
"""Reason of Unavailable where an engine gives no answer, or none that is understood; it is asked again."""

DOES_NOT_FIT = "DOES_NOT_FIT"
"""Reason of Invalid where an order can never be met: more than the largest node has, a queue that does not exist."""


Fault = tuple[str, str]
"""A field of a configuration, and what is wrong with it or how to mend it."""


def refuse(faults: Iterable[Fault]) -> None:
    """Raise Invalid (CONFIG_INVALID) with every wrong field, where there is any."""
    found = [FieldViolation(field, f"{field}: {what}") for field, what in faults]
    if found:
        more = f" (and {len(found) - 1} more: {', '.join(v.field for v in found[1:8])})" if len(found) > 1 else ""
        raise Invalid("CONFIG_INVALID", found[0].description + more, field=found[0].field, violations=found)


class State(Enum):
    """Where a server stands at its engine."""

    PENDING = "pending"
    """Accepted, and not running yet: it waits for room, an image, a node."""
    RUNNING = "running"
    """Its process runs."""
    ENDED = "ended"
    """It runs no more and will not again under this name."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What an engine reserves for one server; `gpu_memory_bytes` is the least that each GPU must have."""

    cpus: float = 0.0
    memory_bytes: int = 0
    gpus: int = 0
    gpu_memory_bytes: int = 0
    custom: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Order:
    """One server to start.

    `name` is unique for ever, a label after RFC 1123 of the form "{pool}-{6 hex}": the agent's id, and the engine's
    name for it. `command` begins with "nasmesh"; `environment` is what the server needs beside its host's own.
    """

    name: str
    pool: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    resources: Resources
    labels: Mapping[str, str]


class Standing(NamedTuple):
    """How a server stands at its engine; `reason` is for people: why it waits, or how it ended."""

    name: str
    state: State
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Site:
    """Whose servers an engine keeps: the deployer's name, and a directory of its own on this host."""

    deployer: str
    home: Path


class Engine(Protocol):
    """Starts and stops the servers of one pool. Its methods block and are called from one thread at a time.

    An engine is made as `XEngine(pool, site)` of a nasmesh.v1.ServerPool and a Site; that checks the pool's own
    settings (Invalid, CONFIG_INVALID) and opens nothing, so that a deployer begins while its engine is down.
    """

    kind_name: str

    def start(self, order: Order) -> None:
        """Have a server started; one of this name that was started before is left as it is.

        Raises Invalid (DOES_NOT_FIT, and others) that names the field where it can never be, Unavailable (ENGINE_DOWN).
        """
        ...

    def stop(self, name: str, grace_s: float) -> None:
        """Have a server stopped: first asked to end (SIGTERM), ended after `grace_s` seconds. Returns at once.

        Unknown and ended ones are fine. Raises Unavailable (ENGINE_DOWN).
        """
        ...

    def standings(self) -> Sequence[Standing]:
        """Return how the pool's servers of this deployer stand, those of before its restart too.

        Ended ones are named at least once, and may be left out later. Raises Unavailable (ENGINE_DOWN).
        """
        ...

    def close(self) -> None:
        """Let go of what it holds here; servers run on."""
        ...
