"""Bugs planted into what becomes of measurements when their search is deleted: lives by seed must see each."""

from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any

import pytest

from nasmesh.v1 import journal_pb2, search_pb2
from scheduler.journal import codec
from scheduler.machine import reuse
from tests.sim.bugs import Patch
from tests.sim.catching import caught
from tests.sim.options import searches

FIRST, MOST_LIVES = 2000, 300


def gone_with_their_search(patch: Patch) -> None:
    """Nobody stands in for a measurement whose search is deleted; what is kept agrees with that."""

    def succeed(state: Any, digest: bytes) -> None:
        for search, number in state.repeats.pop(digest).items():
            heir = state.searches[search]
            reuse._write(state, heir, heir.repeats, number, bytes(16))

    patch.set(reuse, "_succeed", succeed)


def never_kept(patch: Patch) -> None:
    """That the same was measured again is not kept."""
    patch.set(reuse, "_repeat", lambda *_: None)


def forgotten_by_a_snapshot(patch: Patch) -> None:
    """That the same was measured again is in no row."""
    before: Callable[[Any, str], bytes] = codec.encode_row

    def encode(state: Any, key: str) -> bytes:
        body = before(state, key)
        if not key.startswith("measured/") or not body:
            return body
        return journal_pb2.MeasuredRecord(
            digests=journal_pb2.MeasuredRecord.FromString(body).digests
        ).SerializeToString()

    patch.set(codec, "encode_row", encode)


def stays_in_the_row(patch: Patch) -> None:
    """Who stands in for another is kept as one that measured again, too."""
    before = reuse._write

    def write(state: Any, run: Any, rows: Any, number: int, digest: bytes) -> None:
        if any(digest):
            before(state, run, rows, number, digest)

    patch.set(reuse, "_write", write)


BUGS = (gone_with_their_search, never_kept, forgotten_by_a_snapshot, stays_in_the_row)


def seeds() -> Iterator[int]:
    """Yield seeds of lives in which two searches measure the same, each itself."""
    for seed in count(FIRST):
        found = searches(seed)
        if "two" in found and found["two"].cache == search_pb2.CACHE_MODE_REPEAT:
            yield seed


@pytest.mark.parametrize("plant", BUGS, ids=lambda plant: plant.__name__)
def test_lives_when_handing_over_has_a_bug_then_it_is_seen(
    plant: Callable[[Patch], None], record_property: Callable[[str, object], None]
) -> None:
    said = caught(plant, islice(seeds(), MOST_LIVES))
    record_property("counts", f"handing over: {plant.__name__} caught by {said}")
    assert said, f"seen by none of {MOST_LIVES} lives"
