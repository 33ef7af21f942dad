"""One violation planted into a history that had none: what the checker of histories must see, each time."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from nasmesh.v1 import search_pb2 as pb
from tests.sim.history import Acknowledged, Answered, Leased, Listed, ListedSearch, Observation, Watched, Welcomed

Planted = list[Observation]
Plant = Callable[[list[Observation], Random], Planted | None]


def _some(history: Sequence[Observation], kind: type, rng: Random, wanted: Callable[..., bool] = lambda _: True) -> int:
    """Return the place of some observation of a kind, or -1."""
    places = [place for place, seen in enumerate(history) if isinstance(seen, kind) and wanted(seen)]
    return rng.choice(places) if places else -1


def _insert(history: list[Observation], place: int, seen: Observation) -> Planted:
    return [*history[:place], seen, *history[place:]]


def other_answer(history: list[Observation], rng: Random) -> Planted | None:
    """I10: a request is answered again, otherwise."""
    at = _some(history, Answered, rng)
    if at < 0:
        return None
    return _insert(history, rng.randint(at + 1, len(history)), replace(history[at], reply="another"))  # type: ignore[type-var]


def lost_search(history: list[Observation], rng: Random) -> Planted | None:
    """I1: a search that was created and answered is not listed at the end."""
    at = _some(history, ListedSearch, rng)
    return [*history[:at], *history[at + 1 :]]


def epoch_falls(history: list[Observation], rng: Random) -> Planted | None:
    """I5: an agent is welcomed by an older scheduler."""
    at = _some(history, Welcomed, rng, lambda seen: seen.epoch > 1)
    if at < 0:
        return None
    seen = history[at]
    assert isinstance(seen, Welcomed)
    return _insert(history, rng.randint(at + 1, len(history)), replace(seen, epoch=seen.epoch - 1))


def attempt_falls(history: list[Observation], rng: Random) -> Planted | None:
    """I5: an attempt number comes again, with another agent."""
    at = _some(history, Leased, rng)
    return _insert(history, at + 1, replace(history[at], agent="agents/thief"))  # type: ignore[type-var]


def leased_after_end(history: list[Observation], rng: Random) -> Planted | None:
    """I4: a task that was done is leased again."""
    at = _some(history, Acknowledged, rng, lambda seen: seen.done)
    seen = history[at]
    assert isinstance(seen, Acknowledged)
    again = Leased(seen.agent, seen.task, seen.attempt + 1, seen.epoch)
    return _insert(history, rng.randint(at + 1, len(history)), again)


def second_outcome(history: list[Observation], rng: Random) -> Planted | None:
    """I2: an outcome is recorded twice."""
    at = _some(history, Acknowledged, rng, lambda seen: seen.done)
    return _insert(history, rng.randint(at + 1, len(history)), history[at])


def stale_outcome(history: list[Observation], rng: Random) -> Planted | None:
    """I3: the outcome of an attempt that is not the current one is recorded."""
    at = _some(history, Acknowledged, rng, lambda seen: seen.done)
    seen = history[at]
    assert isinstance(seen, Acknowledged)
    return [*history[:at], replace(seen, attempt=seen.attempt + rng.choice([-1, 1])), *history[at + 1 :]]


def other_agents_outcome(history: list[Observation], rng: Random) -> Planted | None:
    """I3: an outcome of an agent is recorded that does not hold the lease."""
    at = _some(history, Acknowledged, rng)
    return [*history[:at], replace(history[at], agent="agents/thief"), *history[at + 1 :]]  # type: ignore[type-var]


def missed_change(history: list[Observation], rng: Random) -> Planted | None:
    """A watcher misses a change."""
    last = {(seen.watcher, seen.search): place for place, seen in enumerate(history) if isinstance(seen, Watched)}
    at = _some(history, Watched, rng)
    if at in last.values():
        at = next(place for place, seen in enumerate(history) if isinstance(seen, Watched))
    return [*history[:at], *history[at + 1 :]]


def doubled_change(history: list[Observation], rng: Random) -> Planted | None:
    """A watcher sees a change twice."""
    at = _some(history, Watched, rng)
    return _insert(history, at + 1, history[at])


def revived_trial(history: list[Observation], rng: Random) -> Planted | None:
    """I4: a trial that had ended has another outcome at the end."""
    at = _some(history, Listed, rng, lambda seen: seen.outcome == pb.TRIAL_OUTCOME_SUCCEEDED)
    seen = history[at]
    assert isinstance(seen, Listed)
    return [*history[:at], replace(seen, outcome=pb.TRIAL_OUTCOME_FAILED, scores=0), *history[at + 1 :]]


def lost_trial(history: list[Observation], rng: Random) -> Planted | None:
    """I1: a trial that was told is not listed at the end."""
    at = _some(history, Listed, rng)
    return [*history[:at], *history[at + 1 :]]


def scored_twice(history: list[Observation], rng: Random) -> Planted | None:
    """I2: a trial has two sets of metrics."""
    at = _some(history, Listed, rng, lambda seen: seen.scores == 1)
    return [*history[:at], replace(history[at], scores=2), *history[at + 1 :]]  # type: ignore[type-var]


def other_attempt_kept(history: list[Observation], rng: Random) -> Planted | None:
    """I1: what a trial shows is not what was acknowledged."""
    acknowledged = {seen.task for seen in history if isinstance(seen, Acknowledged) and seen.done}

    def has_score(seen: Listed) -> bool:
        part = seen.rungs if seen.outcome == pb.TRIAL_OUTCOME_SUCCEEDED or not seen.rungs else seen.rungs - 1
        task = f"{seen.search.removeprefix('searches/')}-t{seen.trial}-evaluate" + (f"-r{part}" if part else "")
        return task in acknowledged and not (seen.rungs and seen.outcome == pb.TRIAL_OUTCOME_INFEASIBLE)

    return _scored_by_the_next(history, rng, has_score)


def search_falls_back(history: list[Observation], rng: Random) -> Planted | None:
    """I1: at the end a search stands before a change that was told."""
    at = _some(history, ListedSearch, rng)
    seen = history[at]
    assert isinstance(seen, ListedSearch)
    return [*history[:at], replace(seen, sequence=seen.sequence - 1), *history[at + 1 :]]


def reused_and_trained(history: list[Observation], rng: Random) -> Planted | None:
    """A trial that took measurements over was leased to somebody all the same."""
    at = _some(history, Listed, rng, lambda seen: bool(seen.reused))
    if at < 0:
        return None
    seen = history[at]
    assert isinstance(seen, Listed)
    lease = Leased("agents/busy", f"{seen.search.removeprefix('searches/')}-t{seen.trial}-train", 1, 1)
    return _insert(history, rng.randint(0, len(history)), lease)


def reused_from_nobody(history: list[Observation], rng: Random) -> Planted | None:
    """A trial shows what the one that it names has not measured."""
    return _scored_by_the_next(history, rng, lambda seen: bool(seen.reused))


def _scored_by_the_next(history: list[Observation], rng: Random, wanted: Callable[[Listed], bool]) -> Planted | None:
    at = _some(history, Listed, rng, wanted)
    if at < 0:
        return None
    seen = history[at]
    assert isinstance(seen, Listed)
    return [*history[:at], replace(seen, scored_by=f"{int(seen.scored_by) + 1}"), *history[at + 1 :]]


def _place(history: list[Observation], rng: Random, wanted: Callable[[Leased], bool] = lambda _: True) -> int:
    """Return where a place was told of in a gang that trained to its end, or -1."""
    done = {(seen.task, seen.attempt) for seen in history if isinstance(seen, Acknowledged) and seen.done}
    return _some(
        history, Leased, rng, lambda seen: seen.size > 1 and (seen.task, seen.attempt) in done and wanted(seen)
    )


def member_missing(history: list[Observation], rng: Random) -> Planted | None:
    """A gang trained to its end, and one of it was never told."""
    at = _place(history, rng, lambda seen: seen.rank > 0)
    return None if at < 0 else [*history[:at], *history[at + 1 :]]


def members_result(history: list[Observation], rng: Random) -> Planted | None:
    """I3: the result of a gang is taken from another than rank 0."""
    at = _place(history, rng, lambda seen: seen.rank > 0)
    if at < 0:
        return None
    place = history[at]
    assert isinstance(place, Leased)
    return [
        replace(seen, agent=place.agent)
        if isinstance(seen, Acknowledged) and (seen.task, seen.attempt) == (place.task, place.attempt)
        else seen
        for seen in history
    ]


def second_end_of_a_gang(history: list[Observation], rng: Random) -> Planted | None:
    """I2: after the end that rank 0 told, what another of its gang has to say is recorded too."""
    at = _place(history, rng, lambda seen: seen.rank > 0)
    if at < 0:
        return None
    place = history[at]
    assert isinstance(place, Leased)
    after = max(
        number
        for number, seen in enumerate(history)
        if isinstance(seen, Acknowledged) and (seen.task, seen.attempt) == (place.task, place.attempt)
    )
    late = Acknowledged(place.agent, place.task, place.attempt, place.epoch, done=False)
    return _insert(history, after + 1, late)


def place_given_twice(history: list[Observation], rng: Random) -> Planted | None:
    """I5: two agents have the same place in a gang."""
    at = _place(history, rng)
    return None if at < 0 else _insert(history, at + 1, replace(history[at], agent="agents/thief"))  # type: ignore[type-var]


def agent_twice_in_a_gang(history: list[Observation], rng: Random) -> Planted | None:
    """I5: an agent has two places in a gang."""
    at = _place(history, rng)
    if at < 0:
        return None
    place = history[at]
    assert isinstance(place, Leased)
    return _insert(history, at + 1, replace(place, rank=(place.rank + 1) % place.size))


def gang_torn_apart(history: list[Observation], rng: Random) -> Planted | None:
    """I5: one of a gang was told another number of agents, or to meet them elsewhere."""
    at = _place(history, rng)
    if at < 0:
        return None
    place = history[at]
    assert isinstance(place, Leased)
    other = rng.choice([replace(place, size=place.size + 1), replace(place, meeting="elsewhere:1")])
    return [*history[:at], other, *history[at + 1 :]]


def slot_used_twice(history: list[Observation], rng: Random) -> Planted | None:
    """I8: an agent has as many other trainings as slots, while one of these is a gang's."""
    slots = {seen.agent: seen.slots for seen in history if isinstance(seen, Welcomed)}
    at = _place(history, rng, lambda seen: slots.get(seen.agent, 0) > 0)
    if at < 0:
        return None
    place = history[at]
    assert isinstance(place, Leased)
    more = [Leased(place.agent, f"planted-t{n}-train", 1, place.epoch) for n in range(1, slots[place.agent] + 1)]
    return [*history[: at + 1], *more, *history[at + 1 :]]


def leads_two_gangs(history: list[Observation], rng: Random) -> Planted | None:
    """I8: an agent leads two gangs at a time, at one address."""
    at = _place(history, rng, lambda seen: not seen.rank)
    return None if at < 0 else _insert(history, at + 1, replace(history[at], task="planted-t1-train", attempt=1))  # type: ignore[type-var]


# What is planted into trainings over several agents.
GANG_PLANTS: tuple[Plant, ...] = (
    member_missing,
    members_result,
    second_end_of_a_gang,
    place_given_twice,
    agent_twice_in_a_gang,
    gang_torn_apart,
    slot_used_twice,
    leads_two_gangs,
)
PLANTS: tuple[Plant, ...] = (
    other_answer,
    lost_search,
    epoch_falls,
    attempt_falls,
    leased_after_end,
    second_outcome,
    stale_outcome,
    other_agents_outcome,
    missed_change,
    doubled_change,
    revived_trial,
    lost_trial,
    scored_twice,
    other_attempt_kept,
    search_falls_back,
    reused_and_trained,
    reused_from_nobody,
    *GANG_PLANTS,
)
