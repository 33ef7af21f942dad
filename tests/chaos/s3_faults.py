"""A life of an S3 store under faults: seeded operations through a proxy that does harm, and what must be true after.

What was acknowledged is there, whole; what was refused is there whole or not at all; nothing ever reads as other bytes.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from nasmesh.clock import derive_seed, seeded_random
from nasmesh.errors import NasmeshError, NotFound, Unavailable
from nasmesh.store.keys import ObjectKind, object_ref
from nasmesh.store.s3 import S3Store
from nasmesh.v1 import object_pb2 as pb
from tests.builders.s3_proxy import FAULTS, Asked, Proxy

OPERATIONS = ("put", "put again", "put large", "get", "exists", "delete", "list")
_WEIGHTS = (5, 2, 1, 6, 2, 2, 1)
PART_BYTES = 5 * 1024 * 1024
_HOUR = 3600.0


@dataclass(slots=True)
class Tally:
    """What was done and what came of it."""

    operations: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    met: set[tuple[str, str]] = field(default_factory=set)
    """Operations with the faults that they met."""
    refused: int = 0
    kills: int = 0
    stops: int = 0

    def line(self, name: str, seed: int) -> str:
        """Return what a tier prints."""
        done = f"{self.operations.total()} operations, {self.faults.total()} faults of {len(self.faults)} kinds"
        struck = f"{self.refused} refused, {self.kills} kills, {self.stops} stops"
        return f"T5 {name}: {done}, {len(self.met)} pairs, {struck}, 0 lost, 0 wrong; seed {seed}"


class Life:
    """Drives one store. `rate`: the share of requests that meet a fault."""

    def __init__(self, store: S3Store, proxy: Proxy, bucket: str, *, seed: int, rate: float) -> None:
        self.tally = Tally()
        self._store, self._proxy, self._bucket = store, proxy, bucket
        self._random = seeded_random(seed)
        self._chance = seeded_random(derive_seed(seed, "faults"))
        self._rate = rate
        self._bag: list[str] = []
        self._doing = ""
        self._number = 0
        self._acked: dict[str, tuple[pb.ObjectRef, bytes]] = {}
        self._unsure: dict[str, tuple[pb.ObjectRef, bytes]] = {}
        proxy.decide = self._fault

    def _fault(self, asked: Asked) -> str:
        if not self._rate or self._chance.random() >= self._rate:
            return ""
        fault = self._next(asked)
        self.tally.faults[fault] += 1
        self.tally.met.add((self._doing, fault))
        return fault

    def _next(self, asked: Asked) -> str:
        """Return the next fault that can be done to a request: each comes as often as any other."""
        while True:
            for at, fault in enumerate(self._bag):
                if _fits(fault, asked):
                    return self._bag.pop(at)
            fresh = list(FAULTS)
            self._chance.shuffle(fresh)
            self._bag += fresh

    def run(self, count: int, *, between: Callable[[int], None] = lambda _number: None) -> None:
        """Do so many operations; `between` may kill the server before any of them."""
        for number in range(count):
            between(number)
            self.step()

    def step(self) -> None:
        """Do one operation; a refusal must be the one of a store that is down."""
        self._doing = self._random.choices(OPERATIONS, _WEIGHTS)[0]
        self.tally.operations[self._doing] += 1
        try:
            self._one(self._doing)
        except Unavailable as error:
            if error.reason != "STORE_DOWN":
                raise
            self.tally.refused += 1

    def settle(self, store: S3Store) -> None:
        """Read by a patient store: what was acknowledged is there and right, and nothing else reads as something."""
        self._rate = 0.0
        for ref, content in self._acked.values():
            assert store.get(ref) == content, f"{ref.key} was acknowledged"
        for ref, content in self._unsure.values():
            try:
                assert store.get(ref) == content
            except NotFound:
                continue
        listed = {item.key for item in store.objects()}
        assert set(self._acked) <= listed <= set(self._acked) | set(self._unsure)

    def _one(self, operation: str) -> None:
        if operation.startswith("put"):
            self._put(operation)
            return
        if operation == "list":
            listed = {item.key for item in self._store.objects()}
            assert set(self._acked) <= listed, "an acknowledged object is not listed"
            return
        known = sorted(self._acked)
        if not known:
            return
        ref, content = self._acked[self._random.choice(known)]
        if operation == "get":
            try:
                assert self._store.get(ref) == content
            except NasmeshError as error:
                # Three times wrong in three tries is told as what it is; it must never pass for the object.
                if error.reason != "OBJECT_CORRUPT":
                    raise
                self.tally.refused += 1
        elif operation == "exists":
            assert self._store.exists(ref)
        else:
            self._delete(ref)

    def _put(self, operation: str) -> None:
        if operation == "put again" and self._acked:
            _, content = self._acked[self._random.choice(sorted(self._acked))]
        else:
            self._number += 1
            size = PART_BYTES + 1000 if operation == "put large" else self._random.randrange(1, 30_000)
            content = (b"%d|" % self._number) * (size // 4)
        kind = ObjectKind.CHECKPOINT
        try:
            ref = self._store.put(kind, content)
        except Unavailable:
            ref = object_ref(kind, content)
            self._unsure.setdefault(ref.key, (ref, content))
            raise
        self._acked[ref.key] = (ref, content)

    def _delete(self, ref: pb.ObjectRef) -> None:
        self._proxy.age(f"/{self._bucket}/{ref.key}", 100 * _HOUR)
        entry = self._acked.pop(ref.key)
        try:
            gone = self._store.delete(ref.key, min_age_s=48 * _HOUR)
        except Unavailable:
            self._unsure[ref.key] = entry
            raise
        if gone:
            self._unsure.pop(ref.key, None)
        else:  # its age could be told to be less than it is, by whatever was in the way
            self._unsure[ref.key] = entry


def _fits(fault: str, asked: Asked) -> bool:
    """Say whether a fault can be done to a request, and could be known for one."""
    if fault == "torn":
        return asked.method == "GET"
    if fault == "flipped":  # of one bit of a listing nobody could know; whoever deletes by it looks again
        return asked.method == "GET" and "list-type" not in asked.query
    if fault == "lied":  # of a deletion that never was, or an object that is not there, nobody could know better
        return asked.method in ("PUT", "GET")
    return True
