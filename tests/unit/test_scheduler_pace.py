"""The loop waits for commits only where the disk is quick, and goes on meanwhile again after a slow one."""

from scheduler.pace import FOLLOWED, Pace


def follow(pace: Pace) -> None:
    """Note commits until the loop waits again."""
    for _ in range(FOLLOWED):
        assert not pace.is_quick
        pace.followed()


def test_loop_when_commits_are_the_first_then_goes_on_meanwhile() -> None:
    pace = Pace()
    follow(pace)
    assert pace.is_quick


def test_loop_when_a_commit_is_slow_then_waits_for_none_until_many_were_not_waited_for() -> None:
    pace = Pace()
    follow(pace)
    pace.overran()
    follow(pace)
    assert pace.is_quick
