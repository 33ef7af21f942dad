"""A whole search whose servers a deployer has an engine start: nobody, a search, servers come, servers leave."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nasmesh.client import parse_spec
from nasmesh.v1 import search_pb2
from tests.builders.deploying import Pools, deployer, nobody
from tests.e2e.mesh import OPEN, Mesh

SPEC = """
data: { dataset: datasets/digits }
generator: { generator: generators/random, settings: { draws: 1000 } }
space: { cell: { nodes: 3, cells: [1, 1], width: 4 } }
objectives: [{ metric: accuracy, goal: GOAL_MAXIMIZE }]
budget: { maxTrials: 6 }
parallelism: 3
evaluate: { table: tables/digits-cell, tableSeed: -1, latency: false }
seed: 5
"""
_POOLS = """
period: 0.3s
store: dir:{home}/objects
pools:
  - {{ name: gen, kind: TASK_KIND_GENERATE, maxServers: 1, coolDown: 4s, workDir: {home}/work, {engine} }}
  - {{ name: eval, kind: TASK_KIND_EVALUATE, maxServers: 1, slots: 3, coolDown: 4s, workDir: {home}/work, {engine} }}
"""


def names(pools: Pools) -> set[str]:
    """Return the names of all servers."""
    return {server.name for pool in pools.values() for server in pool.servers}


@contextmanager
def scheduler_alone(home: Path) -> Iterator[Mesh]:
    """Run a scheduler and nobody else."""
    running = Mesh(home)
    OPEN.append(running)
    try:
        running.start("scheduler")
        yield running
    finally:
        running.close()


def search_through(mesh: Mesh, engine: str) -> set[str]:
    """Run a search on servers of this engine (YAML of a pool) and wait until they have left; returns their names."""
    with deployer(mesh, _POOLS.format(home=mesh.home, engine=engine)) as keeper, mesh.client() as client:
        seen = names(keeper.until(lambda pools: bool(pools["gen"].servers)))
        client.create_search(parse_spec(SPEC), search_id="one")
        seen |= names(keeper.until(lambda pools: bool(pools["eval"].servers)))
        for _ in client.watch("one"):
            seen |= names(keeper.pools())
        search = client.get_search("one")
        assert search.state == search_pb2.SEARCH_STATE_SUCCEEDED, search.reason
        assert search.trials.succeeded == 6
        keeper.until(nobody)
        assert not [agent.name for agent in client.agents() if agent.connected]
        assert keeper.stop() == 0
    return seen
