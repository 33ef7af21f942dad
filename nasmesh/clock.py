"""Time and chance: the one module that reads a clock or draws from the system's randomness.

Durations and leases use `monotonic`; `wall` is for people and certificates and decides nothing.
"""

import hashlib
import random
import time
import uuid
from typing import Protocol


class Clock(Protocol):
    """What the time is."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary moment; never goes back, and means nothing in another process."""
        ...

    def wall(self) -> float:
        """Return seconds since 1970 UTC, as far as this machine knows."""
        ...


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        """Return the monotonic clock in seconds."""
        return time.monotonic()

    def wall(self) -> float:
        """Return the wall clock in seconds since 1970 UTC."""
        return time.time()


class ManualClock:
    """A clock that moves only when told; for tests and simulation."""

    def __init__(self, *, monotonic: float = 1000.0, wall: float = 1_700_000_000.0) -> None:
        """Start at the given times, in seconds."""
        self._monotonic = monotonic
        self._wall = wall

    def monotonic(self) -> float:
        """Return the monotonic time in seconds."""
        return self._monotonic

    def wall(self) -> float:
        """Return the wall time in seconds since 1970 UTC."""
        return self._wall

    def advance(self, seconds: float) -> None:
        """Move both times forward; raises ValueError for a negative step, as monotonic time never goes back."""
        if seconds < 0:
            raise ValueError(f"monotonic time cannot go back by {-seconds} s")
        self._monotonic += seconds
        self._wall += seconds

    def set_wall(self, seconds: float) -> None:
        """Set the wall clock alone, as an operator or NTP may."""
        self._wall = seconds


def thread_processor_s() -> float:
    """Return the processor seconds that the calling thread has used: what it waits for others adds nothing."""
    return time.thread_time()


def new_id() -> str:
    """Return a fresh random id: 32 hexadecimal digits."""
    return uuid.uuid4().hex


def new_seed() -> int:
    """Return a fresh random seed of 63 bits, for a search whose author gave none; it is recorded."""
    return uuid.uuid4().int & (2**63 - 1)


def derive_seed(seed: int, *parts: str | int) -> int:
    """Return a 63-bit seed for one purpose, named by `parts`, below `seed`; the same on every machine and version.

    Parts are separated and typed before hashing, so ("ab", "c"), ("a", "bc") and ("1",) and (1,) all differ.
    """
    content = f"i{seed}".encode()
    for part in parts:
        encoded = (f"i{part}" if isinstance(part, int) else f"s{part}").encode()
        content += len(encoded).to_bytes(8, "big") + encoded
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") >> 1


def seeded_random(seed: int) -> random.Random:
    """Return a generator of random numbers that depends on the seed alone."""
    return random.Random(seed)
