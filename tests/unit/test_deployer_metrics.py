"""Every metric of a deployer moves with what happens to its pools, and says what there is."""

from pathlib import Path

from nasmesh.clock import ManualClock, seeded_random
from nasmesh.telemetry.catalog import DEPLOYER
from nasmesh.telemetry.exposition import serve_metrics
from tests.builders.deployed import FakeMesh, keeping, until_gone
from tests.builders.scraping import Scrape, moved, scrape

POOL = """
pools:
  - { name: train, kind: TASK_KIND_TRAIN, maxServers: 4, coolDown: 5s, startTimeout: 20s, local: {} }
"""


def test_every_metric_of_a_deployer_moves(tmp_path: Path) -> None:
    mesh = FakeMesh(ManualClock(), seeded_random(3), waiting=3)
    seen: set[str] = set()
    with keeping(mesh, tmp_path, POOL) as keeper:
        served = serve_metrics("127.0.0.1:0", [keeper.board.readings])
        last: Scrape = {}

        def look() -> Scrape:
            nonlocal last
            keeper.look()
            found = scrape(served.address)
            seen.update(moved(last, found))
            last = found
            return found

        try:
            assert not scrape(served.address).get("nasmesh_pool_servers"), "nothing has been looked at"
            mesh.scheduler_away = True
            found = look()
            assert found["nasmesh_deployer_looks_failed_total"][()] == 1
            assert found["nasmesh_pool_starts_total"] == {("train",): 0}, "a rate needs a value before the first"
            mesh.scheduler_away, mesh.engine_away = False, True
            found = look()
            assert found["nasmesh_pool_engine_errors_total"] == found["nasmesh_pool_engine_away"] == {("train",): 1}
            assert found["nasmesh_deployer_demand"]["train", "queued"] == 3
            mesh.engine_away, mesh.refuses = False, True
            found = look()
            assert found["nasmesh_pool_engine_away"] == {("train",): 0}
            assert found["nasmesh_pool_failed_starts_total"] == {("train",): 1}, "of three that are alike"
            mesh.refuses = False
            mesh.clock.advance(60.0)
            found = look()
            assert found["nasmesh_pool_starts_total"] == {("train",): 1}, "one at a time after a failure"
            assert found["nasmesh_pool_servers"]["train", "pending"] == 1
            assert found["nasmesh_pool_servers_wanted"] == {("train",): 3}
            (name,) = mesh.servers
            mesh.put_to_work(name)
            found = look()
            assert found["nasmesh_deployer_demand"] == {
                ("evaluate", "queued"): 0,
                ("evaluate", "running"): 0,
                ("generate", "queued"): 0,
                ("generate", "running"): 0,
                ("train", "queued"): 2,
                ("train", "running"): 1,
            }
            assert found["nasmesh_pool_servers"]["train", "busy"] == 1
            until_gone(keeper, mesh)
            found = look()
            assert not any(found["nasmesh_pool_servers"].values())
            assert found["nasmesh_pool_stops_total"] == found["nasmesh_pool_starts_total"] == {("train",): 3}
            assert found["nasmesh_deployer_look_seconds_count"][()] > 5
        finally:
            served.close()
    assert seen == {metric.name for metric in DEPLOYER}
