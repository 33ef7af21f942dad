"""T13: what clients and agents saw of real runs, and whether it could have been: checked afterwards, from that alone.

A history is a list of observations in the order in which they were made, across restarts of the scheduler. It knows
nothing of the journal: what it finds wrong is wrong for those who use the system.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nasmesh.v1 import search_pb2 as pb

_PART = re.compile(r"(.+)-t([0-9]+)-(train|evaluate)(?:-r([0-9]+))?")
_WORK = re.compile(r".+-t[0-9]+-(train|evaluate|profile)(?:-r[0-9]+)?")
_ENDED = frozenset({pb.SEARCH_STATE_SUCCEEDED, pb.SEARCH_STATE_FAILED, pb.SEARCH_STATE_CANCELLED})


@dataclass(frozen=True, slots=True)
class Answered:
    """A client's request was answered."""

    request_id: str
    body: str
    reply: str


@dataclass(frozen=True, slots=True)
class Welcomed:
    """An agent was welcomed by a scheduler of an epoch, and goes on with what it held (tasks and attempts).

    `slots`: how many leases of each kind it takes, those included that wait at it for a slot; 0: it did not say.
    """

    agent: str
    epoch: int
    slots: int = 0
    held: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Leased:
    """An agent got an attempt; of a gang: its place, how many they are, and where they meet."""

    agent: str
    task: str
    attempt: int
    epoch: int
    rank: int = 0
    size: int = 1
    meeting: str = ""


@dataclass(frozen=True, slots=True)
class Stopped:
    """An agent was told to stop an attempt, or that it is not its own any more: what it took up there is free."""

    agent: str
    task: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """An agent's outcome was answered RECORDED; `done`: it was a success."""

    agent: str
    task: str
    attempt: int
    epoch: int
    done: bool


@dataclass(frozen=True, slots=True)
class Watched:
    """A watcher saw a change: of the search (trial 0, `state` is the search's) or of a trial (`state` its outcome)."""

    watcher: str
    search: str
    sequence: int
    trial: int
    state: int


@dataclass(frozen=True, slots=True)
class Listed:
    """At the end a trial was listed: its outcome, how often it was scored, and the attempts that are recorded.

    `reused` names the trial that it took its measurements over from, or is empty; `rungs` counts those that it reached.
    """

    search: str
    trial: int
    outcome: int
    scores: int
    trained_by: str
    scored_by: str
    reused: str = ""
    rungs: int = 0


@dataclass(frozen=True, slots=True)
class ListedSearch:
    """At the end a search was listed."""

    search: str
    state: int
    sequence: int


Observation = Answered | Welcomed | Leased | Stopped | Acknowledged | Watched | Listed | ListedSearch
History = Sequence[Observation]


def faults(history: History) -> Iterator[str]:
    """Yield everything in a history that must not be, each with the promise that it breaks."""
    yield from _answers(history)
    yield from _epochs(history)
    yield from _attempts(history)
    yield from _outcomes(history)
    yield from _slots(history)
    yield from _watches(history)
    yield from _ends(history)
    yield from _reuses(history)


def _answers(history: History) -> Iterator[str]:
    known: dict[str, Answered] = {}
    for seen in history:
        if isinstance(seen, Answered):
            before = known.setdefault(seen.request_id, seen)
            if before != seen:
                yield f"I10: {seen.request_id} was answered {before.reply}, then {seen.reply} (to {seen.body})"


def _epochs(history: History) -> Iterator[str]:
    highest: dict[str, int] = {}
    for seen in history:
        if isinstance(seen, Welcomed):
            if seen.epoch < highest.get(seen.agent, 0):
                yield f"I5: {seen.agent} was welcomed in epoch {seen.epoch} after {highest[seen.agent]}"
            highest[seen.agent] = max(seen.epoch, highest.get(seen.agent, 0))


def _attempts(history: History) -> Iterator[str]:
    """Check leases: numbers and epochs of a task only grow, and no place in an attempt is given twice.

    What two agents are told at once they may hear one after the other: who has a place in a gang may hear of it when
    that gang is over, and another agent has the next attempt.
    """
    newest: dict[str, Leased] = {}
    own: dict[tuple[str, str], Leased] = {}
    places: dict[tuple[str, int], list[Leased]] = {}
    for seen in history:
        if not isinstance(seen, Leased):
            continue
        together = places.setdefault((seen.task, seen.attempt), [])
        for other in together:
            alike = (seen.epoch, seen.size, seen.meeting) == (other.epoch, other.size, other.meeting)
            if seen != other and not (alike and seen.rank != other.rank and seen.agent != other.agent):
                yield f"I5: attempt {seen.attempt} of {seen.task} was leased as {other}, then as {seen}"
        if not 0 <= seen.rank < seen.size or bool(seen.meeting) != (seen.size > 1):
            yield f"gang: {seen} is no place of any gang"
        before = (own if seen.size > 1 else newest).get((seen.agent, seen.task) if seen.size > 1 else seen.task)
        if before is not None and (seen.attempt < before.attempt or seen.epoch < before.epoch):
            yield f"I5: {seen} after {before}"
        together.append(seen)
        own[seen.agent, seen.task] = seen
        if seen.task not in newest or newest[seen.task].attempt <= seen.attempt:
            newest[seen.task] = seen


def _outcomes(history: History) -> Iterator[str]:
    """Check acknowledgements: one an attempt, one success a task, of the attempt that was leased last."""
    newest: dict[str, int] = {}
    places: dict[tuple[str, int], dict[str, Leased]] = {}
    ended: dict[tuple[str, int], Acknowledged] = {}
    done: dict[str, Acknowledged] = {}
    for seen in history:
        if isinstance(seen, Leased):
            newest[seen.task] = max(seen.attempt, newest.get(seen.task, 0))
            places.setdefault((seen.task, seen.attempt), {})[seen.agent] = seen
            if seen.task in done:
                yield f"I4: {seen} after {done[seen.task]}"
        elif isinstance(seen, Acknowledged):
            key = seen.task, seen.attempt
            yield from _outcome(seen, places.get(key, {}), newest.get(seen.task, 0))
            before = ended.get(key, done.get(seen.task))
            if before is not None and not _is_heard_late(seen, before, places.get(key, {})):
                yield f"I2: {seen} after {before}"
            ended[key] = seen
            if seen.done:
                done[seen.task] = seen


def _is_heard_late(seen: Acknowledged, before: Acknowledged, places: dict[str, Leased]) -> bool:
    """Say whether it may have been told first: that one of a gang gave up, heard after the next gang's success.

    The next attempt of a gang is leased in the same step; each agent hears of it on its own stream, in its own time.
    """
    lease = places.get(seen.agent)
    of_gang = lease is not None and lease.size > 1
    return of_gang and not seen.done and seen.attempt < before.attempt and seen.agent != before.agent


def _outcome(seen: Acknowledged, places: dict[str, Leased], newest: int) -> Iterator[str]:
    """Check one: it is of who holds the attempt; a success of the newest, from rank 0, when all had their places."""
    lease = places.get(seen.agent)
    if lease is None or lease.epoch != seen.epoch:
        yield f"I3: {seen}, leased was {places}"
        return
    if seen.attempt != newest and (seen.done or lease.size == 1):
        yield f"I3: {seen}, leased was attempt {newest}"
    if seen.done and lease.rank:
        yield f"I3: {seen} is of rank {lease.rank}, and the result is rank 0's"
    absent = set(range(lease.size)) - {place.rank for place in places.values()}
    if seen.done and absent:
        yield f"gang: {seen}, and nobody was told to be rank {min(absent)} of {lease.size}"


def _slots(history: History) -> Iterator[str]:
    """Check what each agent holds: never more of a kind than it has slots for, and one gang at most that it leads."""
    slots: dict[str, int] = {}
    held: dict[str, dict[tuple[str, int], Leased]] = {}
    for seen in history:
        if isinstance(seen, Welcomed):
            slots[seen.agent] = seen.slots
            before = held.get(seen.agent, {})
            held[seen.agent] = {key: before[key] for key in seen.held if key in before}
        elif isinstance(seen, Acknowledged | Stopped):
            held.get(seen.agent, {}).pop((seen.task, seen.attempt), None)
        elif isinstance(seen, Leased):
            mine = held.setdefault(seen.agent, {})
            mine[seen.task, seen.attempt] = seen
            alike = sum(_kind(task) == _kind(seen.task) for task, _ in mine)
            if alike > slots.get(seen.agent, 0) > 0:
                yield f"I8: {seen} is one of {alike} in {slots[seen.agent]} slots"
            if seen.size > 1 and not seen.rank and sum(one.size > 1 and not one.rank for one in mine.values()) > 1:
                yield f"I8: {seen}, and {seen.agent} leads another gang"


def _kind(task: str) -> str:
    """Return what a task takes a slot of."""
    part = _WORK.fullmatch(task)
    return "generate" if part is None else "train" if part[1] == "train" else "evaluate"


def _watches(history: History) -> Iterator[str]:
    """Check watchers: every change once and in order, none after an end."""
    position: dict[tuple[str, str], int] = {}
    ended: dict[tuple[str, str, int], int] = {}
    for seen in history:
        if not isinstance(seen, Watched):
            continue
        key = (seen.watcher, seen.search)
        wanted = position.get(key, 0) + 1
        if seen.sequence != wanted:
            yield f"watch: {seen.watcher} saw change {seen.sequence} of {seen.search} where {wanted} was next"
        position[key] = seen.sequence
        row = (*key, seen.trial)
        if row in ended and seen.state != ended[row]:
            yield f"I4: {seen} after its end in {ended[row]}"
        if (seen.trial and seen.state) or (not seen.trial and seen.state in _ENDED):
            ended.setdefault(row, seen.state)


def _ends(history: History) -> Iterator[str]:
    """Check what is there at the end against all that was told on the way (I1), and that nothing is double (I2)."""
    trials = {(seen.search, seen.trial): seen for seen in history if isinstance(seen, Listed)}
    searches = {seen.search: seen for seen in history if isinstance(seen, ListedSearch)}
    if len(trials) != sum(isinstance(seen, Listed) for seen in history):
        yield "I2: a trial is listed twice"
    for found in trials.values():
        scored = found.outcome == pb.TRIAL_OUTCOME_SUCCEEDED
        if found.scores > 1 if found.rungs and not scored else found.scores != scored:
            yield f"I2: {found}"
    for seen in history:
        if isinstance(seen, Watched):
            yield from _kept(seen, trials, searches)
        elif isinstance(seen, Acknowledged) and seen.done:
            yield from _recorded(seen, trials)
        elif isinstance(seen, Answered) and _created(seen) not in searches:
            yield f"I1: the search of {seen.request_id} is gone"


def _reuses(history: History) -> Iterator[str]:
    """Check that what a trial took over was measured by another one, and that nobody worked for it."""
    trials = {f"{seen.search}/trials/{seen.trial}": seen for seen in history if isinstance(seen, Listed)}
    leased = {seen.task for seen in history if isinstance(seen, Leased)}
    for seen in trials.values():
        if not seen.reused:
            continue
        task = f"{seen.search.removeprefix('searches/')}-t{seen.trial}"
        if leased & {f"{task}-train", f"{task}-evaluate"}:
            yield f"reuse: {seen} was worked on"
        source = trials.get(seen.reused)
        if (
            source is None
            or source.reused
            or (source.trained_by, source.scored_by) != (seen.trained_by, seen.scored_by)
        ):
            yield f"reuse: {seen} is not {source}"


def _created(seen: Answered) -> str:
    """Return the search that a request made; requests to create one are named after it."""
    return f"searches/{seen.request_id.removeprefix('create-')}"


def _kept(seen: Watched, trials: dict[tuple[str, int], Listed], searches: dict[str, ListedSearch]) -> Iterator[str]:
    if seen.search not in searches or searches[seen.search].sequence < seen.sequence:
        yield f"I1: change {seen.sequence} of {seen.search} was told and is gone: {searches.get(seen.search)}"
    elif seen.trial and (seen.search, seen.trial) not in trials:
        yield f"I1: trial {seen.trial} of {seen.search} was told and is gone"
    elif seen.trial and seen.state and trials[seen.search, seen.trial].outcome != seen.state:
        yield f"I4: {seen} is now {trials[seen.search, seen.trial]}"
    elif not seen.trial and seen.state in _ENDED and searches[seen.search].state != seen.state:
        yield f"I4: {seen} is now {searches[seen.search]}"


def _shows(found: Listed, kind: str, part: int) -> bool:
    """Say whether a trial that has passed rungs must show this part of its training, or its score, and no later one."""
    if kind == "train" or found.outcome == pb.TRIAL_OUTCOME_INFEASIBLE:
        return part == found.rungs
    return part == (found.rungs if found.outcome == pb.TRIAL_OUTCOME_SUCCEEDED else found.rungs - 1)


def _recorded(seen: Acknowledged, trials: dict[tuple[str, int], Listed]) -> Iterator[str]:
    """Check that an acknowledged training or score is the one that its trial shows."""
    part = _PART.fullmatch(seen.task)
    if part is None:
        return
    search, number, kind, rung = part.groups()
    found = trials.get((f"searches/{search}", int(number)))
    if found is not None and found.rungs and not _shows(found, kind, int(rung or 0)):
        return
    by = found and (found.trained_by if kind == "train" else found.scored_by)
    if by != str(seen.attempt):
        yield f"I1: {seen} is not what its trial shows: {found}"
