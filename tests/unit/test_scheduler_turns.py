"""Commands that wait are run fairly by work, each line's in their order."""

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from scheduler.turns import Line, Turns

commands = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 9)), max_size=60)


def add(turns: Turns, said: list[str], name: str, work: int = 1, line: Line | None = None) -> None:
    turns.add(lambda: said.append(name), lambda _: None, work, line)


def run(turns: Turns, most: int = 10**9) -> int:
    taken, _ = turns.take(most)
    for command, _ in taken:
        command()
    return len(taken)


@given(commands, st.lists(st.integers(1, 20), max_size=20))
def test_lines_when_they_wait_then_each_keeps_its_order_and_all_are_served(
    wanted: list[tuple[int, int]], steps: list[int]
) -> None:
    turns, lines = Turns(), [None, *[Line() for _ in range(4)]]
    served: list[tuple[int, int]] = []
    expected = defaultdict(list)
    pieces = iter(steps)
    for number, (which, work) in enumerate(wanted):
        turns.add(lambda which=which, number=number: served.append((which, number)), lambda _: None, work, lines[which])
        expected[which].append(number)
        if number % 3 == 2:
            run(turns, next(pieces, 1))
    run(turns)
    assert len(turns) == 0
    found = defaultdict(list)
    for which, number in served:
        found[which].append(number)
    assert sorted(found[0]) == expected[0]
    assert {key: value for key, value in found.items() if key} == {key: v for key, v in expected.items() if key}


def test_light_command_when_heavy_ones_wait_then_it_goes_first() -> None:
    turns, said = Turns(), list[str]()
    for number in range(5):
        add(turns, said, f"heavy{number}", 10, Line())
    add(turns, said, "light", 1, Line())
    run(turns, 1)
    assert said == ["light"]


def test_heavy_command_when_light_ones_keep_coming_then_it_waits_for_its_share_only() -> None:
    turns, said, light = Turns(), list[str](), Line()
    add(turns, said, "heavy", 10, Line())
    for number in range(30):
        add(turns, said, f"light{number}", 1, light)
        run(turns, 1)
    # Once the light ones have had as much work as the heavy one is worth, it is next; the tie is that it came first.
    assert said.index("heavy") == 9


def test_line_when_it_says_much_at_once_then_others_are_not_behind_all_of_it() -> None:
    turns, said, talkative = Turns(), list[str](), Line()
    for number in range(20):
        add(turns, said, f"much{number}", 1, talkative)
    add(turns, said, "alone", 1, Line())
    run(turns, 2)
    assert said == ["much0", "alone"]


def test_take_when_work_is_bounded_then_the_command_that_passes_the_bound_is_the_last() -> None:
    turns, said = Turns(), list[str]()
    for number in range(10):
        add(turns, said, str(number), 3, None)
    assert run(turns, 7) == 3
    assert len(turns) == 7


def test_give_up_when_commands_wait_then_all_are_told_in_the_order_of_coming() -> None:
    turns, told = Turns(), list[int]()
    for number, work in enumerate((5, 1, 3)):
        turns.add(lambda: None, lambda _, number=number: told.append(number), work, Line())
    for done in turns.give_up():
        done(None)
    assert (told, len(turns)) == ([0, 1, 2], 0)
