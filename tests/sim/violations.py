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
)
