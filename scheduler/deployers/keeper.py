"""One look after the other: ask scheduler and engines, plan, act.

A server is stopped in two looks: it is drained, and once the scheduler says that it holds nothing and takes nothing, it
is told to end. Where scheduler or engine give no answer, nothing is done about what they would know.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import wait
from typing import NamedTuple, Protocol

from nasmesh.clock import Clock
from nasmesh.errors import NasmeshError, NotFound
from nasmesh.logs import get_logger
from nasmesh.v1 import scheduler_service_pb2 as pb
from scheduler.deployers.base import Standing
from scheduler.deployers.board import Board, pool_status
from scheduler.deployers.metrics import LookTally, readings
from scheduler.deployers.orders import make_order, new_name
from scheduler.deployers.picture import agents_of, pool_view, spares, works
from scheduler.deployers.planner import Phase, Plan, plan
from scheduler.deployers.posts import Post
from scheduler.deployers.records import PoolRecord

OFFER_S = 15.0
"""How often what could be started is said again."""

PATIENCE_S = 2.0
"""How long a look waits for engines that it has just asked or told; who takes longer is heard at a later look."""

_CLOSE_S = 5.0
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

    def __init__(
        self,
        posts: Sequence[Post],
        calls: SchedulerCalls,
        clock: Clock,
        told: Told,
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Keep these pools; nothing is asked yet."""
        self.board = Board(told.deployer)
        self._told = told
        self._posts = {post.pool.name: post for post in posts}
        self._calls = calls
        self._clock = clock
        self._patience_s = patience_s
        self._offered: tuple[float, Sequence[pb.ServerOffer]] = (float("-inf"), ())
        self._trouble = ""
        self._tally = LookTally()

    def look(self) -> None:
        """Look once at everything and act on it; engines and schedulers that are away are told of in the board."""
        began = self._clock.monotonic()
        try:
            demand, agents = self._calls.demand(), {_id(agent): agent for agent in self._calls.agents()}
        except NasmeshError as error:
            self._note_trouble(error)
            self._tally.failed += 1
        else:
            self._trouble = ""
            self._look_at(demand, agents)
            self._tally.demands = demand.demands
        self._tally.seconds.observe(self._clock.monotonic() - began)
        self._show()

    def close(self) -> None:
        """Let the engines go once they are through with what they were told, or after some seconds; servers run on."""
        self._wait(self._posts.values(), _CLOSE_S)
        for post in self._posts.values():
            post.close()

    def _look_at(self, demand: pb.GetDemandResponse, agents: Mapping[str, pb.Agent]) -> None:
        """Hear the engines, plan, and act where an engine has answered."""
        standings = self._standings()
        now = self._clock.monotonic()
        for post in self._posts.values():
            self._take_in(post, standings.get(post.pool.name), agents, now)
        posts = self._posts.values()
        pools = [pool_view(post, agents, now) for post in posts]
        plans = plan(pools, works(demand.demands), list(spares(posts, agents)), now, outage=demand.store_outage)
        for name, planned in plans.items():
            self._posts[name].record.wanted = planned.wanted
            if name in standings:
                self._act(self._posts[name], planned, now)
        acted = [self._posts[name] for name in standings]
        self._wait(acted, self._patience_s)
        for post in acted:
            post.settle(self._clock.monotonic())
        self._offer(now)

    # --- asking -----------------------------------------------------------------------------------------------------

    def _standings(self) -> dict[str, Sequence[Standing]]:
        """Return what the engines say, by pool; pools whose engine gives no answer now are left out.

        Only those that are asked now are waited for, so that one that hangs holds up one look, and for a moment.
        """
        now = self._clock.monotonic()
        asked = [post for post in self._posts.values() if post.ask(now)]
        self._wait(asked, self._patience_s)
        now = self._clock.monotonic()
        answers = {name: post.answer(now) for name, post in self._posts.items() if post.engine is not None}
        return {name: standings for name, standings in answers.items() if standings is not None}

    def _wait(self, posts: Iterable[Post], timeout_s: float) -> None:
        wait([call for post in posts for call in post.outstanding], timeout_s)

    def _take_in(
        self, post: Post, standings: Sequence[Standing] | None, agents: Mapping[str, pb.Agent], now: float
    ) -> None:
        own = agents_of(post.pool.name, agents)
        if post.engine is None:
            post.record.follow(own, now)
        elif standings is not None:
            failures = post.record.failures
            for name in post.record.look(standings, agents, now):
                _log.info("server_gone", pool=post.pool.name, server=name)
                self._quietly(self._calls.undrain_agent, name)  # else the scheduler would remember its drain for ever
            if post.record.failures > failures:
                _log.warning("start_failed", pool=post.pool.name, why=post.record.reason)
        for agent in own.values():
            post.acquaintance.meet(agent.server)
            break

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
            record.told_to_end(name, now)
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
            agent = self._calls.drain_agent(name)
            server.drained = True
            return not agent.attempts
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
            pb.ServerOffer(kind=post.pool.kind, server=post.acquaintance.known)
            for post in self._posts.values()
            if post.acquaintance.known is not None and post.pool.max_servers and not post.record.failures
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
        posts = self._posts.values()
        pools = [pool_status(post.record, post.kind_name, now) for post in posts]
        told = readings(pools, [post.record for post in posts], self._tally)
        self.board.show(pools, told, trouble=self._trouble, is_known=self._tally.demands is not None)


def _id(agent: pb.Agent) -> str:
    return agent.name.removeprefix("agents/")
