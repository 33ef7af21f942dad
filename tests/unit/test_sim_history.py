"""The checker of histories by itself: what gangs may look like to those who see them, and what must not pass."""

from dataclasses import replace

import pytest

from nasmesh.clock import seeded_random
from nasmesh.v1 import search_pb2 as pb
from tests.sim.history import Acknowledged, Leased, Listed, ListedSearch, Observation, Stopped, Welcomed, faults
from tests.sim.violations import GANG_PLANTS, Plant

TASK, MEETING = "s-t1-train", "a.example:7500"


def place(agent: str, rank: int, attempt: int = 1, **more: object) -> Leased:
    found = Leased(f"agents/{agent}", TASK, attempt, 1, rank, 2, MEETING)
    return replace(found, **more)  # type: ignore[arg-type]


def welcome(agent: str, *held: tuple[str, int], slots: int = 1, epoch: int = 1) -> Welcomed:
    return Welcomed(f"agents/{agent}", epoch, slots, held)


def told(agent: str, attempt: int = 1, *, done: bool) -> Acknowledged:
    return Acknowledged(f"agents/{agent}", TASK, attempt, 1, done)


def stopped(agent: str, attempt: int = 1) -> Stopped:
    return Stopped(f"agents/{agent}", TASK, attempt)


def trained() -> list[Observation]:
    """Return a gang whose rank 1 gave its place back, and the next one, which trained to its end."""
    return [
        *[welcome(agent, slots=2) for agent in "abc"],
        *[place("a", 0), place("b", 1), told("b", done=False), stopped("a")],
        *[place("c", 0, 2, meeting="c.example:7500"), place("a", 1, 2, meeting="c.example:7500")],
        *[told("c", 2, done=True), stopped("a", 2)],
        Listed("searches/s", 1, pb.TRIAL_OUTCOME_SUCCEEDED, 1, "2", "1"),
        ListedSearch("searches/s", pb.SEARCH_STATE_SUCCEEDED, 9),
    ]


def found(*history: Observation) -> str:
    return "; ".join(faults(history))


def test_history_when_a_gang_is_given_up_and_the_next_one_trains_then_nothing_is_wrong() -> None:
    assert found(*trained()) == ""


def test_history_when_one_of_a_gang_hears_of_it_late_then_nothing_is_wrong() -> None:
    history = trained()
    late = history.pop(3)  # rank 0 of the first gang, which had been given up before it read that
    history.insert(7, late)
    history.insert(8, stopped("a"))
    assert history.index(late) > history.index(place("c", 0, 2, meeting="c.example:7500"))
    assert found(*history) == ""


def test_history_when_one_of_a_gang_hears_late_that_it_gave_up_then_nothing_is_wrong_but_a_second_success_is() -> None:
    def heard_after_the_next_gangs_success(late: Acknowledged) -> str:
        history = trained()
        history.remove(told("b", done=False))
        history.insert(history.index(told("c", 2, done=True)) + 1, late)
        return found(*history)

    assert heard_after_the_next_gangs_success(told("b", done=False)) == ""
    assert "I2" in heard_after_the_next_gangs_success(told("b", done=True))
    assert "I2" in heard_after_the_next_gangs_success(told("c", 2, done=False)), "one stream keeps its order"


@pytest.mark.parametrize("plant", GANG_PLANTS, ids=lambda plant: plant.__name__)
def test_history_when_a_gang_is_not_what_was_promised_then_it_is_seen(plant: Plant) -> None:
    for seed in range(10):
        spoiled = plant(trained(), seeded_random(seed))
        assert spoiled is not None
        assert found(*spoiled), f"seed {seed}"


def test_history_when_an_agent_goes_back_in_numbers_then_seen_though_it_is_one_of_a_gang() -> None:
    history = [place("a", 0, 2), place("b", 1, 2), stopped("a", 2), place("a", 0, 1)]
    assert "I5" in found(*history)


def test_history_when_a_result_comes_of_a_gang_that_is_over_then_seen() -> None:
    history = trained()
    history[5:7] = []  # nothing had ended the first one for the scheduler
    history.insert(7, told("a", done=True))
    assert "leased was attempt 2" in found(*history)


def test_history_when_a_slot_is_free_again_then_the_next_lease_is_none_too_many() -> None:
    other = replace(place("a", 0), task="s-t2-train")
    begin = [welcome("a"), welcome("b"), place("a", 0), place("b", 1)]
    assert "I8" in found(*begin, other)
    for freed in (told("a", done=False), stopped("a"), welcome("a")):
        assert found(*begin, freed, other) == ""
    assert "I8" in found(*begin, welcome("a", (TASK, 1)), other), "it has named what it holds"
    scoring = Leased("agents/a", "s-t2-evaluate", 1, 1)
    assert found(*begin, scoring) == "", "another kind has slots of its own"
    assert "1 of 2" not in found(*begin, scoring, replace(scoring, task="s-t2-profile"))
    assert "one of 2 in 1 slots" in found(*begin, scoring, replace(scoring, task="s-t2-profile"))
