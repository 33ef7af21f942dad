"""A pool's rules, as the planner goes by them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import zip_longest

from nasmesh.v1 import deployer_pb2 as pb
from nasmesh.v1 import search_pb2

GENERATE, TRAIN, EVALUATE = (
    search_pb2.TASK_KIND_GENERATE,
    search_pb2.TASK_KIND_TRAIN,
    search_pb2.TASK_KIND_EVALUATE,
)
EXTERNAL = "external"
DEFAULT_COOL_DOWN_S = 60.0
DEFAULT_START_TIMEOUT_S = 120.0
DEFAULT_STOP_GRACE_S = 30.0


@dataclass(frozen=True, slots=True)
class PoolRules:
    """What the planner must know of a pool; times in seconds.

    `serves` names data sets or generators that its servers have, None: not said. `takes_gangs`: whether its servers
    take part in trainings over several.
    """

    name: str
    kind: int
    most: int
    least: int = 0
    slots: int = 1
    cool_down_s: float = DEFAULT_COOL_DOWN_S
    start_timeout_s: float = DEFAULT_START_TIMEOUT_S
    stop_grace_s: float = DEFAULT_STOP_GRACE_S
    serves: frozenset[str] | None = None
    takes_gangs: bool = False
    owner_limit: int = 0
    owner_limits: Mapping[str, int] = field(default_factory=dict)
    external: bool = False

    def most_for(self, owner: str) -> int:
        """Return how many servers an owner's work may start."""
        if owner in self.owner_limits:
            return min(self.most, self.owner_limits[owner])
        return min(self.most, self.owner_limit) if self.owner_limit else self.most


def argument(pool: pb.ServerPool, flag: str) -> str | None:
    """Return what a pool's arguments give its servers for a flag; None where they do not, "" where it has no value."""
    given = None
    for word, after in zip_longest(pool.arguments, pool.arguments[1:], fillvalue=""):
        name, is_one, value = word.partition("=")
        if name == flag:
            given = value if is_one else after
    return given


def rules_of(pool: pb.ServerPool) -> PoolRules:
    """Return the rules of a pool that was checked and completed (see config)."""
    gangs = argument(pool, "--gang-listen") is not None
    return PoolRules(
        name=pool.name,
        kind=pool.kind,
        most=pool.max_servers,
        least=pool.min_servers,
        slots=pool.slots,
        cool_down_s=pool.cool_down.ToMilliseconds() / 1000,
        start_timeout_s=pool.start_timeout.ToMilliseconds() / 1000,
        stop_grace_s=pool.stop_grace.ToMilliseconds() / 1000,
        serves=frozenset(pool.serves) if pool.serves else None,
        takes_gangs=gangs or "NASMESH_GANG_LISTEN" in pool.environment,
        owner_limit=pool.max_servers_per_owner,
        owner_limits={limit.owner: limit.max_servers for limit in pool.owner_limits},
        external=pool.WhichOneof("engine") == EXTERNAL,
    )
