"""What a deployer remembers of a pool and its servers between two looks, and how a look changes it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nasmesh.errors import NasmeshError
from nasmesh.v1 import scheduler_service_pb2 as pb
from scheduler.deployers.base import Standing, State
from scheduler.deployers.planner import BURST, Phase, Server
from scheduler.deployers.rules import PoolRules

BACKOFF_S = 5.0
BACKOFF_CAP_S = 300.0
STEADY_S = 10.0
"""A server that was connected for so long, or had work, has come; one that ends before has failed to start."""

_WHY = 300


@dataclass(slots=True)
class Record:
    """One server: its phase and since when; what the engine said of it last; what was asked of it."""

    name: str
    phase: Phase
    since: float
    reason: str = ""
    attempts: int = 0
    was_here: bool = False
    here_since: float = 0.0
    listed: bool = False
    """By its engine, at least once."""
    drained: bool = False
    """By this deployer, in this life of it."""
    stopping: bool = False

    def enter(self, phase: Phase, now: float) -> None:
        """Note the phase that it is in now."""
        if phase is not self.phase:
            self.phase, self.since = phase, now

    def view(self) -> Server:
        """Return it as the planner sees it."""
        leaves = self.phase is Phase.DRAINING and not self.drained
        return Server(self.name, self.phase, self.since, self.attempts, self.was_here, leaves)


@dataclass(slots=True)
class Tally:
    """What a pool came to since the deployer's start, for metrics."""

    starts: int = 0
    failed_starts: int = 0
    stops: int = 0
    engine_errors: int = 0


@dataclass(slots=True)
class PoolRecord:
    """One pool: its servers by name, and starts that failed since one last succeeded."""

    rules: PoolRules
    tally: Tally = field(default_factory=Tally)
    away: bool = False
    """Its engine's last answer was an error, or has not come for long."""
    servers: dict[str, Record] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    failures: int = 0
    retry_at: float = 0.0
    why_failed: str = ""
    trouble: str = ""
    """What the engine said in the place of an answer; "": it has answered since."""
    wanted: int = 0

    @property
    def reason(self) -> str:
        """Why nothing is started, or what failed last; "": nothing is wrong."""
        return self.trouble or self.why_failed

    def may_start(self, now: float) -> int:
        """Return how many may be started: after a failure none for a while, then one until it has come."""
        if not self.failures:
            return BURST
        coming = any(r.phase in (Phase.PENDING, Phase.STARTING) and not r.was_here for r in self.servers.values())
        return 0 if now < self.retry_at or coming else 1

    def ordered(self, name: str, now: float) -> None:
        """Note that a server was asked for."""
        self.servers[name] = Record(name, Phase.PENDING, now)

    def told_to_end(self, name: str, now: float) -> None:
        """Note that a server is told to end."""
        self.tally.stops += 1
        self.servers[name].stopping = True
        self.servers[name].enter(Phase.STOPPING, now)

    def failed(self, why: str, now: float) -> None:
        """Note that a start failed; the next one waits, twice as long each time. Those that fail together are one."""
        self.why_failed = why[:_WHY]
        self.tally.failed_starts += 1
        if self.failures and now < self.retry_at:
            return
        self.failures += 1
        self.retry_at = now + min(BACKOFF_CAP_S, BACKOFF_S * 2 ** min(self.failures - 1, 16))

    def refused(self, error: NasmeshError) -> None:
        """Note that the engine gave no answer; what is known of its servers stays."""
        self.trouble = error.message[:_WHY]
        self.tally.engine_errors += 1

    def follow(self, agents: Mapping[str, pb.Agent], now: float) -> None:
        """Take in the pool's connected agents: all that is known of servers that somebody else starts."""
        self.servers = {name: self.servers.get(name) or Record(name, Phase.IDLE, now) for name in agents}
        for name, agent in agents.items():
            self._update(self.servers[name], None, agent, now)

    def look(self, standings: Sequence[Standing], agents: Mapping[str, pb.Agent], now: float) -> list[str]:
        """Take in what engine and scheduler say; returns the servers that are gone since the last look."""
        self.trouble = ""
        stand = {standing.name: standing for standing in standings}
        ended: list[str] = []
        for name, standing in stand.items():
            if standing.state is State.ENDED:
                if name not in self.gone:
                    self._note_end(name, standing.reason, now)
                    ended.append(name)
            elif name not in self.servers and name not in self.gone:
                self.ordered(name, now)
        for name, record in list(self.servers.items()):
            if not self._update(record, stand.get(name), agents.get(name), now):
                self._note_end(name, "its engine knows it no more", now)
                ended.append(name)
        self.gone &= stand.keys()
        return ended

    def _update(self, record: Record, standing: Standing | None, agent: pb.Agent | None, now: float) -> bool:
        """Take in what is said of one server; returns whether it is still there."""
        here = agent if agent is not None and agent.connected else None
        record.attempts = len(agent.attempts) if agent is not None else 0
        if standing is not None:
            record.listed, record.reason = True, standing.reason
        elif here is None and (record.listed or record.stopping or now - record.since > self.rules.start_timeout_s):
            return False
        if here is not None and not record.was_here:
            record.was_here, record.here_since = True, now
        if here is not None and self.failures and _has_come(record, now):
            self.failures, self.retry_at, self.why_failed = 0, 0.0, ""
        record.enter(_phase(record, standing, here), now)
        return True

    def _note_end(self, name: str, reason: str, now: float) -> None:
        self.gone.add(name)
        record = self.servers.pop(name, None)
        if record is not None and not record.stopping and not record.drained and not _has_come(record, now):
            when = "soon after it was there" if record.was_here else "before it was there"
            self.failed(f"{name} ended {when}: {reason or 'its engine does not say why'}", now)


def _has_come(record: Record, now: float) -> bool:
    return record.was_here and (record.attempts > 0 or now - record.here_since >= STEADY_S)


def _phase(record: Record, standing: Standing | None, agent: pb.Agent | None) -> Phase:
    if record.stopping:
        return Phase.STOPPING
    if agent is not None:
        if agent.draining:
            return Phase.DRAINING
        return Phase.BUSY if agent.attempts else Phase.IDLE
    if record.was_here or (standing is not None and standing.state is State.RUNNING):
        return Phase.STARTING
    return Phase.PENDING
