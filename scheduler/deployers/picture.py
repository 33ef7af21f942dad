"""What the planner is shown: pools with their servers, servers of nobody's pool, and the work there is. Pure."""

from collections.abc import Iterable, Iterator, Mapping

from nasmesh.memory import given_bytes
from nasmesh.v1 import scheduler_service_pb2 as pb
from scheduler.deployers.acquaintance import served_by
from scheduler.deployers.planner import Phase, Pool, Spare, Work
from scheduler.deployers.posts import Post
from scheduler.deployers.records import Record
from scheduler.deployers.rules import GENERATE

_LABEL = "pool"


def agents_of(pool: str, agents: Mapping[str, pb.Agent]) -> dict[str, pb.Agent]:
    """Return the connected agents that say that they are of a pool."""
    return {name: agent for name, agent in agents.items() if agent.connected and agent.labels.get(_LABEL) == pool}


def works(demands: Iterable[pb.Demand]) -> list[Work]:
    """Return the work there is, what waits and what runs."""
    return [
        Work(
            d.kind,
            d.need,
            max(1, d.servers),
            d.owner,
            d.queued + d.running,
            d.needed_memory_bytes,
            max(1, d.slots),  # 0: a scheduler of a version before this one
        )
        for d in demands
    ]


def pool_view(post: Post, agents: Mapping[str, pb.Agent], now: float) -> Pool:
    """Return a pool; of one whose engine is away, the servers that the scheduler sees."""
    record, rules, known = post.record, post.record.rules, post.acquaintance.known
    servers = [server for name, server in record.servers.items() if not record.away or _is_connected(agents.get(name))]
    serves = rules.serves
    if serves is None:
        serves = post.acquaintance.serves(generators=rules.kind == GENERATE)
    return Pool(
        rules,
        tuple(server.view() for server in servers),
        serves,
        record.may_start(now),
        known=post.acquaintance.server is not None,
        away=record.away,
        gives_bytes=given_bytes(known) if known is not None else 0,
    )


def spares(posts: Iterable[Post], agents: Mapping[str, pb.Agent]) -> Iterator[Spare]:
    """Yield the servers of nobody's pool, and what those that are leaving still work on."""
    own: dict[str, Record] = {name: record for post in posts for name, record in post.record.servers.items()}
    for name, agent in agents.items():
        record = own.get(name)
        if not agent.connected or (record is not None and record.phase not in (Phase.DRAINING, Phase.STOPPING)):
            continue
        for slots in agent.slots:
            count = len(agent.attempts) if agent.draining else slots.slots
            serves = served_by(agent.server, generators=slots.kind == GENERATE)
            yield Spare(slots.kind, count, serves, bool(agent.server.gang_address), given_bytes(agent.server))


def _is_connected(agent: pb.Agent | None) -> bool:
    return agent is not None and agent.connected
