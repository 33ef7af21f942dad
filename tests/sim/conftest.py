"""What lives of the simulator set for the whole process is as it was before, for the tests that follow in it."""

from collections.abc import Iterator

import pytest

from scheduler import engine, snapshots


@pytest.fixture(autouse=True)
def settings_as_before() -> Iterator[None]:
    before = engine.SNAPSHOT_EVENTS, snapshots.RECENT
    yield
    engine.SNAPSHOT_EVENTS, snapshots.RECENT = before
