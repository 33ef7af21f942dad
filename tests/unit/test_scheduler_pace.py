"""Commits are written by the loop only where the disk is quick, and by a thread again after a slow one."""

from scheduler.pace import HANDED_OVER, QUICK_S, Pace


def quick() -> Pace:
    pace = Pace()
    for _ in range(HANDED_OVER):
        pace.handed_over()
    return pace


def test_the_first_commits_are_handed_over() -> None:
    pace = Pace()
    for _ in range(HANDED_OVER):
        assert not pace.is_quick
        pace.handed_over()
    assert pace.is_quick


def test_a_quick_disk_stays_with_the_loop() -> None:
    pace = quick()
    for _ in range(1000):
        pace.took(QUICK_S / 10)
    assert pace.is_quick


def test_a_slow_commit_is_the_only_one_that_holds_the_loop_up() -> None:
    pace = quick()
    pace.took(QUICK_S * 2)
    for _ in range(HANDED_OVER):
        assert not pace.is_quick
        pace.handed_over()
    assert pace.is_quick
