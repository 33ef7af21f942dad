"""The loop waits for commits only where the disk is quick; a step is worked on as long as a commit takes."""

import pytest

from scheduler.pace import FOLLOWED, LEAST_WORK, MOST_WORK, STEP_S, Pace


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


def many_steps(pace: Pace, *, command_s: float, commit_s: float) -> int:
    """Return the work in a step after many full ones."""
    for _ in range(100):
        work = pace.step_work
        pace.worked(work, work * command_s)
        pace.committed(commit_s)
    return pace.step_work


@pytest.mark.parametrize(
    ("command_s", "commit_s", "work"),
    [
        (STEP_S / 32, 0.0001, 32),
        (STEP_S / 32, 1.5 * STEP_S, 48),
        (STEP_S / 32, 1.0, MOST_WORK),
        (STEP_S / 4, 0.0001, LEAST_WORK),
        (STEP_S / 1000, 0.0001, MOST_WORK),
        (0.0, 0.0, MOST_WORK),
    ],
)
def test_step_when_commands_or_commits_are_slow_then_it_is_worked_on_about_as_long_as_a_commit_takes(
    command_s: float, commit_s: float, work: int
) -> None:
    assert many_steps(Pace(), command_s=command_s, commit_s=commit_s) == pytest.approx(work, abs=1)


def test_step_when_it_was_not_full_then_it_tells_nothing_of_the_work_in_the_next() -> None:
    pace = Pace()
    for _ in range(100):
        pace.worked(1, STEP_S)
    assert pace.step_work == MOST_WORK
