"""T1, part 2 of 6: lives by seed; see tests/sim/parts.py."""

from collections.abc import Callable

from tests.sim.parts import live_part


def test_lives_when_faults_come_and_go_then_every_promise_holds(record_property: Callable[[str, object], None]) -> None:
    live_part(1, record_property)
