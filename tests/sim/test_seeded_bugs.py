"""T14: planted bugs must be caught; four take their turn, by the number of commits, and the page names all of them."""

import subprocess
from collections.abc import Callable

import pytest

from tests.sim import seeded


def commits() -> int:
    command = ["git", "rev-list", "--count", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=seeded.ROOT)
    return int(done.stdout) if done.returncode == 0 else 0


def bugs(config: pytest.Config) -> list[seeded.Bug]:
    return list(seeded.BUGS) if config.getoption("--long") else seeded.rotation(commits())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "bug" in metafunc.fixturenames:
        metafunc.parametrize("bug", bugs(metafunc.config), ids=lambda bug: f"bug-{bug.number}")


def test_program_when_a_bug_is_planted_then_caught(
    bug: seeded.Bug, record_property: Callable[[str, object], None]
) -> None:
    caught = seeded.catch(bug)
    record_property("counts", f"T14: bug {bug.number} ({bug.what}) caught by {caught.by}; {caught.command}")
    assert caught.tried <= seeded.MOST_SEEDS


def test_rotation_when_four_turns_have_passed_then_every_bug_had_its_turn() -> None:
    seen = {bug.number for turn in range(7, 11) for bug in seeded.rotation(turn)}
    assert seen == set(range(1, 17)) == {bug.number for bug in seeded.BUGS}


def test_page_when_read_then_every_bug_is_in_it_with_its_command() -> None:
    page = seeded.TABLE.read_text()
    for bug in seeded.BUGS:
        assert f"| {bug.number} | {bug.what} | {bug.tier} |" in page, f"make seeded-bugs writes {seeded.TABLE.name}"
        assert f"--bug {bug.number}`" in page
