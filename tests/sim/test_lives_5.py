"""T1, part 5 of 6: lives by seed; see tests/sim/parts.py."""

from tests.sim.parts import live_part


def test_lives_when_faults_come_and_go_then_every_promise_holds() -> None:
    live_part(4)
