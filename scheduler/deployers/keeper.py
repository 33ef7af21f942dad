"""One look after the other: ask scheduler and engines, plan, act.

A server is stopped in two looks: it is drained, and once the scheduler says that it holds nothing and takes nothing, it
is told to end. Where scheduler or engine give no answer, nothing is done about what they would know.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from nasmesh.clock import Clock
from nasmesh.errors import NasmeshError, NotFound
from nasmesh.logs import get_logger
from nasmesh.v1 import job_pb2
from nasmesh.v1 import scheduler_service_pb2 as pb
from scheduler.deployers.base import Standing
from scheduler.deployers.board import Board, pool_status
from scheduler.deployers.orders import make_order, new_name
from scheduler.deployers.planner import Phase, Plan, Pool, Server, Spare, Work, plan
from scheduler.deployers.posts import ENGINE_S, Post
from scheduler.deployers.records import PoolRecord
from scheduler.deployers.rules import GENERATE

OFFER_S = 15.0
"""How often what could be started is said again."""

_LABEL = "pool"
_log = get_logger("deployer")


class SchedulerCalls(Protocol):
    """What a deployer asks of a scheduler; nasmesh.client.Client does it."""

    def demand(self) -> pb.GetDemandResponse:
        """Say what work there is."""
        ...

    def agents(self) -> Iterable[pb.Agent]:
        """Yield the agents."""
        ...

    def offer_servers(self, deployer: str, offers: Iterable[pb.ServerOffer]) -> None:
        """Say which servers could be started."""
        ...

    def drain_agent(self, agent: str) -> pb.Agent:
        """Give an agent no more work."""
        ...

    def undrain_agent(self, agent: str) -> pb.Agent:
        """Give an agent work again."""
        ...


class Told(NamedTuple):
    """Whose servers they are, and what they are told: where scheduler and object store are ("": their own default)."""

    deployer: str
    scheduler: str
    store: str = ""


class Keeper:
    """Keeps the pools of one deployer."""

    def __init__(self, posts: Sequence[Post], calls: SchedulerCalls, clock: Clock, told: Told) -> None:
        """Keep these pools; nothing is asked yet."""
        self.board = Board(told.deployer)
        self._told = told
        self._posts = {post.pool.name: post for post in posts}
        self._calls = calls
        self._clock = clock
        self._offered: tuple[float, Sequence[pb.ServerOffer]] = (float("-inf"), ())
        self._trouble = ""

    def look(self) -> None:
        """Look once at everything and act on it; engines and schedulers that are away are told of in the board."""
        try:
            demand, agents = self._calls.demand(), {_id(agent): agent for agent in self._calls.agents()}
        except NasmeshError as error:
            self._note_trouble(error)
            self._show()
            return
        self._trouble = ""
        seen = self._standings()
        now = self._clock.monotonic()
        for post in self._posts.values():
            self._take_in(post, seen.get(post.pool.name), agents, now)
        self._plan(demand, agents, seen, now)
        self._offer(now)
        self._show()

    def close(self) -> None:
        """Let the engines go; servers run on."""
        for post in self._posts.values():
            post.close()

    # --- asking -----------------------------------------------------------------------------------------------------

    def _standings(self) -> dict[str, Sequence[Standing]]:
        """Return what the engines say, by pool; pools whose engine gives no answer are left out."""
        now = self._clock.monotonic()
        for post in self._posts.values():
            post.ask()
        found: dict[str, Sequence[Standing]] = {}
        for name, post in self._posts.items():
            left_s = max(0.0, now + ENGINE_S - self._clock.monotonic())
            standings = post.answer(left_s, self._clock.monotonic())
            if standings is not None:
                found[name] = standings
        return found

    def _take_in(
        self, post: Post, standings: Sequence[Standing] | None, agents: Mapping[str, pb.Agent], now: float
    ) -> None:
        if standings is not None and post.engine is not None:
            failures = post.record.failures
            for name in post.record.look(standings, agents, now):
                _log.info("server_gone", pool=post.pool.name, server=name)
                self._quietly(self._calls.undrain_agent, name)  # else the scheduler would remember its drain for ever
            if post.record.failures > failures:
                _log.warning("start_failed", pool=post.pool.name, why=post.record.reason)
        for agent in agents.values():
            if _is_of(agent, post.pool.name):
                post.acquaintance.meet(agent.server)
                break

    # --- planning ---------------------------------------------------------------------------------------------------

    def _plan(
        self,
        demand: pb.GetDemandResponse,
        agents: Mapping[str, pb.Agent],
        seen: Mapping[str, Sequence[Standing]],
        now: float,
    ) -> None:
        pools = [self._view(post, agents, now) for post in self._posts.values() if post.pool.name in seen]
        works = [Work(d.kind, d.need, max(1, d.servers), d.owner, d.queued + d.running) for d in demand.demands]
        plans = plan(pools, works, list(self._spares(agents)), now, outage=demand.store_outage)
        for name, planned in plans.items():
            post = self._posts[name]
            post.record.wanted = planned.wanted
            if post.engine is not None:
                self._act(post, planned, now)

    def _view(self, post: Post, agents: Mapping[str, pb.Agent], now: float) -> Pool:
        record, known = post.record, post.acquaintance.server
        rules = record.rules
        servers = tuple(server.view() for server in record.servers.values())
        if post.engine is None:  # there, as far as the scheduler can tell
            servers = tuple(_connected(name, agent) for name, agent in agents.items() if _is_of(agent, rules.name))
        serves = rules.serves
        if serves is None:
            serves = post.acquaintance.serves(generators=rules.kind == GENERATE)
        return Pool(
            rules,
            servers,
            serves,
            record.may_start(now),
            known is not None,
        )

    def _spares(self, agents: Mapping[str, pb.Agent]) -> Iterable[Spare]:
        """Yield the servers of nobody's pool, and what those that are leaving still work on."""
        own = {name: post for post in self._posts.values() for name in post.record.servers}
        for name, agent in agents.items():
            label = self._posts.get(agent.labels.get(_LABEL, ""))
            if not agent.connected or (label is not None and label.engine is None):
                continue
            record = own[name].record.servers[name] if name in own else None
            if record is not None and record.phase not in (Phase.DRAINING, Phase.STOPPING):
                continue
            for slots in agent.slots:
                count = len(agent.attempts) if agent.draining else slots.slots
                serves = _serves(agent.server, generators=slots.kind == GENERATE)
                yield Spare(slots.kind, count, serves, bool(agent.server.gang_address))

    # --- acting -----------------------------------------------------------------------------------------------------

    def _act(self, post: Post, planned: Plan, now: float) -> None:
        record = post.record
        for name in planned.undrain:
            if self._quietly(self._calls.undrain_agent, name) is not None:
                record.servers[name].drained = False
                record.servers[name].enter(Phase.IDLE, now)
                _log.info("server_called_back", pool=post.pool.name, server=name)
        for name in planned.drain:
            if self._drain(record, name) is not None:
                _log.info("server_drained", pool=post.pool.name, server=name)
        stop = [name for name in planned.stop if self._may_stop(record, name)]
        start = [new_name(post.pool.name) for _ in range(planned.start)]
        for name in planned.late:
            record.failed(f"{name} was not there {record.rules.start_timeout_s:g} s after it began to run", now)
            _log.warning("start_failed", pool=post.pool.name, why=record.reason)
        for name in stop:
            record.servers[name].stopping = True
            record.servers[name].enter(Phase.STOPPING, now)
        for name in start:
            record.ordered(name, now)
        again = [name for name, server in record.servers.items() if server.stopping and name not in stop]
        orders = [make_order(post.pool, name, scheduler=self._told.scheduler, store=self._told.store) for name in start]
        post.act(orders, [*stop, *again], now)

    def _drain(self, record: PoolRecord, name: str) -> pb.Agent | None:
        agent = self._quietly(self._calls.drain_agent, name)
        if agent is not None:
            record.servers[name].drained = True
        return agent

    def _may_stop(self, record: PoolRecord, name: str) -> bool:
        """Say whether a server may be told to end: it holds nothing, and will be given nothing."""
        server = record.servers[name]
        if server.phase is Phase.DRAINING:
            return True
        try:
            return not self._calls.drain_agent(name).attempts
        except NotFound:  # it has never been there
            return True
        except NasmeshError as error:
            self._note_trouble(error)
            return False

    def _quietly(self, call: Callable[[str], pb.Agent], name: str) -> pb.Agent | None:
        """Call the scheduler about a server; None where it does not know it, or gives no answer."""
        try:
            return call(name)
        except NotFound:
            return None
        except NasmeshError as error:
            self._note_trouble(error)
            return None

    # --- telling ----------------------------------------------------------------------------------------------------

    def _offer(self, now: float) -> None:
        offers = [
            pb.ServerOffer(kind=post.pool.kind, server=post.acquaintance.server)
            for post in self._posts.values()
            if post.acquaintance.server is not None and post.pool.max_servers and not post.record.failures
        ]
        then, before = self._offered
        if not offers and not before:
            return
        if offers == before and now - then < OFFER_S:
            return
        try:
            self._calls.offer_servers(self._told.deployer, offers)
            self._offered = (now, offers)
        except NasmeshError as error:
            self._note_trouble(error)

    def _note_trouble(self, error: NasmeshError) -> None:
        if error.message != self._trouble:
            self._trouble = error.message
            _log.warning("scheduler_refused", reason=error.reason, why=error.message)

    def _show(self) -> None:
        now = self._clock.monotonic()
        self.board.show([pool_status(p.record, p.kind_name, now) for p in self._posts.values()], self._trouble)


def _id(agent: pb.Agent) -> str:
    return agent.name.removeprefix("agents/")


def _serves(server: job_pb2.Server, *, generators: bool) -> frozenset[str] | None:
    if generators:
        return frozenset(generator.name for generator in server.generators)
    return frozenset(d.name for d in server.datasets if d.available) if server.datasets else None


def _is_of(agent: pb.Agent, pool: str) -> bool:
    return agent.connected and agent.labels.get(_LABEL) == pool


def _connected(name: str, agent: pb.Agent) -> Server:
    phase = Phase.DRAINING if agent.draining else Phase.BUSY if agent.attempts else Phase.IDLE
    return Server(name, phase, attempts=len(agent.attempts))
