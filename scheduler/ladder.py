"""Who stands where on the rungs of an early-stopping rule, and who is better there.

All of it follows from the trials of a search, and is made again from them at a start.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from nasmesh.v1 import search_pb2 as pb
from scheduler.early_stopping import Plan, plan_of
from scheduler.fronts import Fronts, fronts_of

# Who was compared at a rung and has ended so is compared no more.
_GONE = frozenset({pb.TRIAL_OUTCOME_FAILED, pb.TRIAL_OUTCOME_INFEASIBLE, pb.TRIAL_OUTCOME_LOST})


class Place(NamedTuple):
    """A rung of a round; both count from 0."""

    round: int
    rung: int


class Verdict(NamedTuple):
    """What becomes of a trial that waits at a rung, and why."""

    number: int
    promoted: bool
    reason: str


@dataclass(slots=True)
class Standing:
    """Who has reached a rung, with a key for each objective, smaller is better; under the median rule, means so far.

    `ranked` is by the first objective, then by number; `fronts` are kept where trials are compared by Pareto rank.
    """

    keys: dict[int, tuple[float, ...]] = field(default_factory=dict)
    ranked: list[tuple[float, int]] = field(default_factory=list)
    fronts: Fronts = field(default_factory=Fronts)


@dataclass(slots=True)
class Ladder:
    """The rungs of one search. `held` says where those wait that are held.

    `waiting` has them by place, best first by the first objective; `climbing` says by round to which rung others are on
    the way. No entry is empty.
    """

    plan: Plan
    signs: tuple[float, ...]
    by_pareto_rank: bool
    standings: dict[Place, Standing] = field(default_factory=dict)
    held: dict[int, Place] = field(default_factory=dict)
    waiting: dict[Place, list[tuple[float, int]]] = field(default_factory=dict)
    climbing: dict[int, dict[int, int]] = field(default_factory=dict)

    # --- facts ---------------------------------------------------------------------------------------------------

    def climb(self, number: int, rung: int) -> None:
        """Note that a trial is on its way to a rung."""
        self.climbing.setdefault(self.plan.round_of(number), {})[number] = rung

    def until_step(self, trial: pb.Trial) -> int:
        """Return the update that a trial is trained to next; 0: its end."""
        return self.plan.until_step(self.plan.round_of(trial.number), len(trial.rungs), trial.train)

    def is_at_rung(self, trial: pb.Trial) -> bool:
        """Say whether a trial was trained to before the end, which may have come earlier than foretold."""
        until = self.until_step(trial)
        return until > 0 and not 0 < trial.steps < until

    def arrive(self, trial: pb.Trial) -> None:
        """Take in a trial that was measured at its last rung; it is held until somebody decides."""
        place = Place(trial.rungs[len(trial.rungs) - 1].bracket, len(trial.rungs) - 1)
        self._stop_climbing(trial.number)
        self._compare(trial.number, place, self.keys_of(trial, place.rung))
        self._hold(trial.number, place)

    def go_on(self, number: int) -> None:
        """Note that a held trial goes on to the next rung."""
        self.climb(number, self._release(number).rung + 1)

    def end(self, trial: pb.Trial) -> None:
        """Note that a trial has ended."""
        number = trial.number
        self._stop_climbing(number)
        if number in self.held:
            self._release(number)
        if trial.outcome in _GONE:
            for rung in range(len(trial.rungs)):
                self._forget(number, Place(trial.rungs[rung].bracket, rung))

    # --- who is better -------------------------------------------------------------------------------------------

    def keys_of(self, trial: pb.Trial, rung: int) -> tuple[float, ...]:
        """Return what a trial is compared by at a rung: smaller is better."""
        if self.plan.reduction:
            return self._signed(trial.rungs[rung].values)
        rows = [self._signed(trial.rungs[index].values) for index in range(rung + 1)]
        return tuple(sum(column) / len(rows) for column in zip(*rows, strict=True))

    def order(self, place: Place) -> list[int]:
        """Return who is at a rung, best first."""
        standing = self.standings[place]
        return standing.fronts.order() if self.by_pareto_rank else [number for _, number in standing.ranked]

    def rank(self, number: int, place: Place) -> int:
        """Return the rank of one that is at a rung, from 1."""
        standing = self.standings[place]
        if self.by_pareto_rank:
            return standing.fronts.rank(number, standing.keys)
        return bisect_left(standing.ranked, (standing.keys[number][0], number)) + 1

    def next_promoted(self, recorded: int) -> Verdict | None:
        """Return the trial that goes on next under a rule of halving, the highest rung first; None: all must wait.

        `recorded`: trials that the search has.
        """
        for place in self._places():
            if not self.plan.synchronous or self.is_full(place, recorded):
                most = self._share(place, at_least=1 if self.plan.synchronous else 0)
                found = self._best_waiting(place, most)
                if found:
                    return Verdict(found, True, self._told(found, place, most))
        return None

    def losers(self, recorded: int) -> list[Verdict]:
        """Return those that are stopped since their rung is full, and others are better there."""
        found = []
        for place in self._places() if self.plan.synchronous else ():
            if self.is_full(place, recorded):
                most = self._share(place, at_least=1)
                better = set(self.order(place)[:most])
                for number in sorted(number for _, number in self.waiting[place]):
                    if number not in better:
                        found.append(Verdict(number, False, self._told(number, place, most)))
        return found

    def is_full(self, place: Place, recorded: int) -> bool:
        """Say whether nobody of a round can come to a rung any more."""
        if recorded < self.plan.last_of(place.round):
            return False
        below = (Place(place.round, rung) for rung in range(place.rung))
        on_the_way = min(self.climbing.get(place.round, {}).values(), default=place.rung + 1)
        return on_the_way > place.rung and not any(lower in self.waiting for lower in below)

    def best_left(self) -> Verdict | None:
        """Return who goes on where nobody else can come before somebody does; None: none of them is good enough."""
        for place in self._places():
            most = self._share(place, at_least=1)
            found = self._best_waiting(place, most)
            if found:
                return Verdict(found, True, f"{self._told(found, place, most)}; nobody else can come before it goes on")
        return None

    def told(self, number: int) -> str:
        """Return how one that is held stands."""
        place = self.held[number]
        return f"{ordinal(self.rank(number, place))} of {len(self.standings[place].ranked)} so far"

    def left_behind(self, number: int) -> Verdict:
        """Return why one that is held is stopped where nobody goes on."""
        place = self.held[number]
        told = self._told(number, place, self._share(place, at_least=1))
        return Verdict(number, False, f"{told}; nobody else can come before it ends")

    def median_verdict(self, trial: pb.Trial) -> Verdict:
        """Return what the median rule says of a trial that has just come to a rung."""
        number, rung = trial.number, len(trial.rungs) - 1
        place = self.held[number]
        standing = self.standings[place]
        others = len(standing.ranked) - 1
        if others < self.plan.min_trials:
            return Verdict(number, True, f"{others} were here before, {self.plan.min_trials} must have been")
        if self.by_pareto_rank:
            ahead = self.rank(number, place) - 1
            return Verdict(number, 2 * ahead <= others, f"{ahead} of {others} others are better")
        best = min(self._signed(trial.rungs[index].values)[0] for index in range(rung + 1))
        mine = bisect_left(standing.ranked, (standing.keys[number][0], number))
        middle = (standing.ranked[at + (at >= mine)][0] for at in ((others - 1) // 2, others // 2))
        limit = sum(middle) / 2
        sign = self.signs[0]
        told = f"best so far {sign * best:.6g}, the median of {others} others is {sign * limit:.6g}"
        return Verdict(number, best <= limit, told)

    # --- below ---------------------------------------------------------------------------------------------------

    def _signed(self, values: Iterable[float]) -> tuple[float, ...]:
        return tuple(sign * value for sign, value in zip(self.signs, values, strict=True))

    def _share(self, place: Place, *, at_least: int) -> int:
        """Return how many of a rung go on."""
        return max(at_least, len(self.standings[place].ranked) // self.plan.reduction)

    def _places(self) -> list[Place]:
        """Return the rungs at which somebody waits, the highest first."""
        return sorted(self.waiting, key=lambda place: (-place.rung, place.round))

    def _best_waiting(self, place: Place, most: int) -> int:
        """Return the best of those that wait at a rung, if it is among the best `most` there; else 0."""
        if not self.by_pareto_rank:
            first = self.waiting[place][0]
            return first[1] if bisect_left(self.standings[place].ranked, first) < most else 0
        waiting = {number for _, number in self.waiting[place]}
        return next((number for number in self.order(place)[:most] if number in waiting), 0)

    def _told(self, number: int, place: Place, most: int) -> str:
        among = len(self.standings[place].ranked)
        goes = "one goes" if most == 1 else f"{most} go"
        return f"{ordinal(self.rank(number, place))} of {among}, the best {goes} on"

    def _compare(self, number: int, place: Place, keys: tuple[float, ...]) -> None:
        standing = self.standings.setdefault(place, Standing())
        standing.keys[number] = keys
        insort(standing.ranked, (keys[0], number))
        if self.by_pareto_rank:
            standing.fronts.add(number, standing.keys)

    def _forget(self, number: int, place: Place) -> None:
        standing = self.standings[place]
        standing.ranked.remove((standing.keys.pop(number)[0], number))
        if not standing.ranked:
            del self.standings[place]
        elif self.by_pareto_rank:
            standing.fronts = fronts_of(standing.keys)

    def _hold(self, number: int, place: Place) -> None:
        self.held[number] = place
        insort(self.waiting.setdefault(place, []), (self.standings[place].keys[number][0], number))

    def _release(self, number: int) -> Place:
        place = self.held.pop(number)
        waiting = self.waiting[place]
        waiting.remove((self.standings[place].keys[number][0], number))
        if not waiting:
            del self.waiting[place]
        return place

    def _stop_climbing(self, number: int) -> None:
        rounds = self.plan.round_of(number)
        of_round = self.climbing.get(rounds)
        if of_round is not None and of_round.pop(number, None) is not None and not of_round:
            del self.climbing[rounds]


def ordinal(number: int) -> str:
    """Return "1st", "2nd", "11th"."""
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def ladder_of(spec: pb.SearchSpec, trials: Iterable[pb.Trial] = ()) -> Ladder | None:
    """Return the ladder of a search in its search phase, as its trials say; None where it has no such rule."""
    if not spec.HasField("early_stopping"):
        return None
    rule = spec.early_stopping
    signs = tuple(-1.0 if objective.goal == pb.GOAL_MAXIMIZE else 1.0 for objective in spec.objectives)
    ladder = Ladder(plan_of(rule), signs, rule.by_pareto_rank)
    for trial in trials:
        _restore(ladder, trial)
    return ladder


def _restore(ladder: Ladder, trial: pb.Trial) -> None:
    number, rungs = trial.number, len(trial.rungs)
    if trial.outcome not in _GONE:
        for rung in range(rungs):
            place = Place(trial.rungs[rung].bracket, rung)
            ladder._compare(number, place, ladder.keys_of(trial, rung))
    if trial.phase == pb.TRIAL_PHASE_HELD:
        ladder._hold(number, Place(trial.rungs[rungs - 1].bracket, rungs - 1))
    elif not trial.outcome:
        ladder.climb(number, rungs)
