"""What is to be done about pools: pure, from the work there is and the servers there are to actions.

Work is laid onto servers as the scheduler would lease it: first onto those of nobody's pool, then onto the pools' own,
then onto ones that would have to be started, in the order of the file. A pool is as large as that takes, within its
bounds. Nothing that holds work is ever stopped, only asked to take no more.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from scheduler.deployers.rules import GENERATE, PoolRules

BURST = 32
"""Servers that a pool starts at one look: an engine that refuses the first has not been flooded."""


class Phase(Enum):
    """Where a server stands, engine and scheduler taken together; those that have ended are no more."""

    PENDING = "pending"
    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    DRAINING = "draining"
    STOPPING = "stopping"


_LIVE = frozenset({Phase.BUSY, Phase.IDLE, Phase.STARTING, Phase.PENDING})
"""Those that have work, or could be given some."""


@dataclass(frozen=True, slots=True)
class Server:
    """One server of a pool: its phase, since when (monotonic seconds), and how many attempts it holds.

    `was_here`: it has been connected since it was started. `leaves`: it drains because somebody else wants it to, and
    is not called back.
    """

    name: str
    phase: Phase
    since: float = 0.0
    attempts: int = 0
    was_here: bool = False
    leaves: bool = False


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool and its servers. `may_start`: how many, after starts that failed; `serves`: None where nobody knows.

    `gives_bytes`: what a server's trainings may hold together; 0 where nobody knows.
    """

    rules: PoolRules
    servers: tuple[Server, ...] = ()
    serves: frozenset[str] | None = None
    may_start: int = BURST
    known: bool = True
    """Whether one of its servers has been seen, so that what it offers can be told."""
    away: bool = False
    """Its engine gives no answer: it keeps its servers, and whatever they have no room for is others'."""
    gives_bytes: int = 0

    def fits(self, work: "Work") -> bool:
        """Say whether its servers could do some work, all at once where it takes several."""
        if work.kind != self.rules.kind or (work.need and self.serves is not None and work.need not in self.serves):
            return False
        if work.memory > self.gives_bytes or work.slots > self.rules.slots:
            return False
        most = self.rules.most_for(work.owner)
        return work.servers <= most and (work.servers == 1 or self.rules.takes_gangs)


class Work(NamedTuple):
    """Tasks that are alike: each takes `servers` at once, with `need` ("": anything) and `memory` (bytes; 0: any).

    `slots`: how many it takes of each of them.
    """

    kind: int
    need: str
    servers: int
    owner: str
    tasks: int
    memory: int = 0
    slots: int = 1


@dataclass(frozen=True, slots=True)
class Spare:
    """A connected server of nobody's pool."""

    kind: int
    slots: int
    serves: frozenset[str] | None = None
    takes_gangs: bool = False
    gives_bytes: int = 0

    def fits(self, work: Work) -> bool:
        """Say whether it could do some work, or one place of it."""
        if work.kind != self.kind or (work.need and self.serves is not None and work.need not in self.serves):
            return False
        if work.memory > self.gives_bytes or work.slots > self.slots:
            return False
        return work.servers == 1 or self.takes_gangs


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done about one pool. `wanted`: how many servers the work asks for, within the pool's bounds."""

    wanted: int = 0
    start: int = 0
    undrain: tuple[str, ...] = ()
    drain: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    late: tuple[str, ...] = ()
    """Those of `stop` that did not come in time: failed starts."""


@dataclass(slots=True)
class _Left:
    """Work that is not laid onto servers yet: places, at most `tasks` of them on one server."""

    work: Work
    places: int = field(init=False)

    def __post_init__(self) -> None:
        self.places = self.work.tasks * self.work.servers


def plan(
    pools: Sequence[Pool], works: Sequence[Work], spares: Sequence[Spare], now: float, *, outage: bool = False
) -> dict[str, Plan]:
    """Return what is to be done, by pool. `works` oldest first; in an `outage` of the store nothing grows."""
    wanted = _wanted(pools, works, spares)
    return {pool.rules.name: _plan(pool, wanted[pool.rules.name], now, outage=outage) for pool in pools}


def _wanted(pools: Sequence[Pool], works: Sequence[Work], spares: Sequence[Spare]) -> dict[str, int]:
    """Return how many servers each pool needs, within its bounds."""
    left = [_Left(work) for work in works if work.tasks > 0]
    for spare in spares:
        _lay(spare.slots, (item for item in left if spare.fits(item.work)))
    taken: dict[str, Counter[str]] = {pool.rules.name: Counter() for pool in pools}
    wanted = dict.fromkeys(taken, 0)
    for grows in (False, True):
        for pool in pools:
            rules = pool.rules
            live = sum(server.phase in _LIVE for server in pool.servers)
            most = rules.most if grows and not pool.away else min(live, rules.most)
            fitting = [item for item in left if pool.fits(item.work)]
            while wanted[rules.name] < most and _lay_own(rules, fitting, taken[rules.name]):
                wanted[rules.name] += 1
    return {pool.rules.name: _bounded(pool, wanted[pool.rules.name]) for pool in pools}


def _bounded(pool: Pool, wanted: int) -> int:
    # What a generate pool offers must be known before a search can ask for it; then it may go to none.
    learns = pool.rules.kind == GENERATE and not pool.known
    return min(pool.rules.most, max(pool.rules.least, wanted, int(learns)))


def _lay(slots: int, fitting: Iterator[_Left]) -> None:
    for item in fitting:
        places = min(slots // item.work.slots, item.places, item.work.tasks)
        item.places -= places
        slots -= places * item.work.slots


def _lay_own(rules: PoolRules, fitting: Sequence[_Left], taken: Counter[str]) -> bool:
    """Lay work onto one server of a pool, within what each owner may have there; says whether there was any."""
    slots = rules.slots
    for item in fitting:
        owner = item.work.owner
        room = rules.most_for(owner) * rules.slots - taken[owner]
        places = min(min(slots, room) // item.work.slots, item.places, item.work.tasks)
        if places > 0:
            item.places -= places
            taken[owner] += places * item.work.slots
            slots -= places * item.work.slots
        if not slots:
            break
    return slots < rules.slots


def _plan(pool: Pool, wanted: int, now: float, *, outage: bool) -> Plan:
    rules = pool.rules
    if rules.external or pool.away:
        return Plan(wanted)
    lost = {s.name for s in pool.servers if _is_late(s, rules, now) and not s.attempts}
    late = tuple(s.name for s in pool.servers if s.name in lost and not s.was_here)
    done = {s.name for s in pool.servers if s.phase is Phase.DRAINING and not s.attempts}
    live = [s for s in pool.servers if s.phase in _LIVE and s.name not in lost]
    missing = wanted - len(live)
    if missing > 0:
        back = _called_back(pool.servers, missing)
        stop = (*sorted(lost), *sorted(done - set(back)))
        room = rules.most - len(pool.servers)
        start = 0 if outage else max(0, min(missing - len(back), room, pool.may_start))
        return Plan(wanted, start=start, undrain=back, stop=stop, late=late)
    away = _withdrawn(live, -missing, rules, now)
    drain = (*_leaving(live, -missing - len(away), rules, now), *_above(live, rules, len(away)))
    stop = (*sorted(lost), *sorted(done), *away)
    return Plan(wanted, drain=tuple(dict.fromkeys(drain)), stop=stop, late=late)


def _is_late(server: Server, rules: PoolRules, now: float) -> bool:
    """Say whether a server runs, and has not been connected for too long."""
    return server.phase is Phase.STARTING and now - server.since > rules.start_timeout_s


def _called_back(servers: Sequence[Server], most: int) -> tuple[str, ...]:
    """Return draining ones that may stay: busy ones first, which are of use at once."""
    found = [s for s in servers if s.phase is Phase.DRAINING and not s.leaves]
    return tuple(s.name for s in sorted(found, key=lambda s: (-s.attempts, s.since, s.name))[:most])


def _withdrawn(live: Sequence[Server], surplus: int, rules: PoolRules, now: float) -> tuple[str, ...]:
    """Return those that still wait at their engine and that nobody wants any more, newest first."""
    found = [s for s in live if s.phase is Phase.PENDING and not s.attempts and now - s.since >= rules.cool_down_s]
    return tuple(s.name for s in sorted(found, key=lambda s: (-s.since, s.name))[: max(0, surplus)])


def _leaving(live: Sequence[Server], surplus: int, rules: PoolRules, now: float) -> tuple[str, ...]:
    """Return those that have been idle for long, longest first."""
    found = [s for s in live if s.phase is Phase.IDLE and now - s.since >= rules.cool_down_s]
    return tuple(s.name for s in sorted(found, key=lambda s: (s.since, s.name))[: max(0, surplus)])


def _above(live: Sequence[Server], rules: PoolRules, withdrawn: int) -> tuple[str, ...]:
    """Return those that are too many for a pool that was made smaller: they leave when their work is done."""
    above = len(live) - withdrawn - rules.most
    found = [s for s in live if s.phase in (Phase.IDLE, Phase.BUSY)]
    return tuple(s.name for s in sorted(found, key=lambda s: (s.attempts, s.since, s.name))[: max(0, above)])
