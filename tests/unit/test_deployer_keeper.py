"""The keeper's looks over a mesh in memory: servers come, fail, are lost and leave, and no promise is ever broken."""

from itertools import pairwise
from pathlib import Path

import pytest

from nasmesh.clock import ManualClock, seeded_random
from nasmesh.errors import Invalid, NotFound, Unavailable
from nasmesh.keda import externalscaler_pb2 as keda
from nasmesh.keda.externalscaler_pb2_grpc import ExternalScalerStub
from nasmesh.rpc.channel import errors_from_rpc, open_channel
from nasmesh.rpc.server import serve_threads
from nasmesh.v1 import deployer_service_pb2 as pb
from nasmesh.v1.deployer_service_pb2_grpc import DeployerServiceStub
from scheduler.deployers.base import Order, Resources
from scheduler.deployers.service import services
from tests.builders.deployed import FakeMesh, keeping, until_gone

POOL = """
pools:
  - { name: train, kind: TASK_KIND_TRAIN, minServers: 0, maxServers: 4, coolDown: 5s, startTimeout: 20s, local: {} }
"""
EXTERNAL = POOL + "  - { name: keda, kind: TASK_KIND_TRAIN, maxServers: 3, external: {} }\n"
SEEDS = range(12)


def fake(seed: int = 1, **more: object) -> FakeMesh:
    return FakeMesh(ManualClock(), seeded_random(seed), most=4, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_work_is_done_nobody_is_stopped_at_work_and_all_leave(seed: int, tmp_path: Path) -> None:
    mesh = fake(seed, waiting=30, fails=0.2)
    with keeping(mesh, tmp_path, POOL) as keeper:
        for look in range(150):
            mesh.scheduler_away = mesh.rng.random() < 0.1
            mesh.engine_away = mesh.rng.random() < 0.1
            keeper.look()
            mesh.pass_time()
            if mesh.rng.random() < 0.05 and mesh.alive():
                mesh.kill(mesh.rng.choice(mesh.alive()))
            if look == 100:
                mesh.waiting += 10
        mesh.scheduler_away = mesh.engine_away = False
        mesh.fails = 0.0
        until_gone(keeper, mesh)
    assert not mesh.breaks, f"seed {seed}: {mesh.breaks}"
    assert mesh.done == 40
    assert len(mesh.servers) > 4, "some were started anew"
    drained = {name for name, one in mesh.servers.items() if one.drained}
    assert not drained, "drains of servers that are gone are taken back, else they would be remembered for ever"


def test_a_restarted_keeper_goes_on_with_the_servers_there_are(tmp_path: Path) -> None:
    mesh = fake(waiting=8)
    with keeping(mesh, tmp_path, POOL) as first:
        for _ in range(8):
            first.look()
            mesh.pass_time()
    before = set(mesh.servers)
    with keeping(mesh, tmp_path, POOL) as second:
        second.look()
        assert {server.name for server in second.board.read().pools[0].servers} <= before
        assert set(mesh.servers) == before, "nobody is started beside those that are there"
        until_gone(second, mesh)
    assert not mesh.breaks


def test_while_the_scheduler_is_away_nothing_is_done_and_it_is_told(tmp_path: Path) -> None:
    mesh = fake(waiting=2, scheduler_away=True)
    with keeping(mesh, tmp_path, POOL) as keeper:
        keeper.look()
        assert not mesh.servers
        assert keeper.board.read().trouble == "the scheduler gives no answer"
        mesh.scheduler_away = False
        keeper.look()
        assert len(mesh.servers) == 2
        assert not keeper.board.read().trouble


def test_an_engine_that_is_away_is_told_of_and_asked_again(tmp_path: Path) -> None:
    mesh = fake(waiting=2, engine_away=True)
    with keeping(mesh, tmp_path, POOL) as keeper:
        keeper.look()
        (pool,) = keeper.board.read().pools
        assert pool.reason == "the engine gives no answer"
        mesh.engine_away = False
        keeper.look()
        (pool,) = keeper.board.read().pools
        assert (len(pool.servers), pool.reason, pool.failed_starts) == (2, "", 0)


def test_what_can_never_fit_is_tried_ever_more_rarely(tmp_path: Path) -> None:
    mesh = fake(waiting=4, refuses=True)
    with keeping(mesh, tmp_path, POOL) as keeper:
        tried = []
        for _ in range(120):
            before = keeper.board.read()
            keeper.look()
            (pool,) = keeper.board.read().pools
            if before.pools and pool.failed_starts > before.pools[0].failed_starts:
                tried.append(mesh.clock.monotonic())
            mesh.clock.advance(1.0)
        gaps = [round(b - a) for a, b in pairwise(tried)]
        assert gaps == sorted(gaps)
        assert len(tried) <= 5
        assert "9 GPUs are asked for" in pool.reason
        assert pool.retry_delay.seconds > 0
        mesh.refuses = False
        mesh.clock.advance(300.0)
        until_gone(keeper, mesh)
    assert mesh.done == 4


def test_what_has_been_seen_is_offered(tmp_path: Path) -> None:
    mesh = fake(waiting=1)
    with keeping(mesh, tmp_path, POOL) as keeper:
        until_gone(keeper, mesh)
        assert [[d.name for d in offer.server.datasets] for offer in mesh.offers] == [["datasets/digits"]]
    with keeping(mesh, tmp_path, POOL) as again:
        mesh.offers = []
        again.look()
        assert len(mesh.offers) == 1, "known from the file, with no server there"


def test_what_settings_tell_is_offered_before_a_server_was_seen(tmp_path: Path) -> None:
    mesh = fake()
    told = POOL.replace("local: {}", "serves: [datasets/digits], arguments: [--memory=8GiB], local: {}")
    with keeping(mesh, tmp_path, told) as keeper:
        keeper.look()
        (offer,) = mesh.offers
        assert [d.name for d in offer.server.datasets] == ["datasets/digits"]
        assert [device.job_memory_bytes for device in offer.server.devices] == [8 << 30]
        assert not mesh.servers, "nobody asks for one"
        mesh.waiting, mesh.needed_bytes = 1, 9 << 30
        keeper.look()
        assert not mesh.servers, "they would give too little"
        mesh.needed_bytes = 8 << 30
        keeper.look()
        assert len(mesh.servers) == 1


def test_work_that_needs_memory_starts_servers_of_the_pool_whose_settings_say_that_they_give_it(tmp_path: Path) -> None:
    pools = "".join(
        f"  - {{ name: {name}, kind: TASK_KIND_TRAIN, maxServers: 4, {told} local: {{}} }}\n"
        for name, told in (
            ("unsaid", ""),
            ("small", "serves: [datasets/digits], arguments: [--memory, 4GiB],"),
            ("large", "serves: [datasets/digits], arguments: [--memory, 64GiB],"),
        )
    )
    mesh = fake(waiting=2, needed_bytes=8 << 30)
    with keeping(mesh, tmp_path, f"pools:\n{pools}") as keeper:
        keeper.look()
        assert {fake.order.pool for fake in mesh.servers.values()} == {"large"}
        assert len(mesh.servers) == 2


def test_keda_is_told_nothing_until_it_is_known_what_work_there_is(tmp_path: Path) -> None:
    mesh = fake(waiting=6, scheduler_away=True)
    with keeping(mesh, tmp_path, EXTERNAL) as keeper:
        running = serve_threads(services(keeper.board), "127.0.0.1:0")
        try:
            with open_channel(running.address) as channel:
                scaler, ref = ExternalScalerStub(channel), keda.ScaledObjectRef(scalerMetadata={"pool": "keda"})
                for why in ("it has not looked yet", "the scheduler gives no answer"):
                    with pytest.raises(Unavailable, match=why) as caught, errors_from_rpc():
                        scaler.IsActive(ref)
                    assert caught.value.reason == "DEMAND_UNKNOWN"
                    keeper.look()
                mesh.scheduler_away = False
                keeper.look()
                mesh.scheduler_away = True
                keeper.look()
                assert scaler.IsActive(ref).result, "what was known stays"
        finally:
            running.stop(0)


def test_servers_of_an_external_pool_are_shown_as_the_scheduler_sees_them(tmp_path: Path) -> None:
    mesh = fake(waiting=3)
    with keeping(mesh, tmp_path, EXTERNAL.replace("maxServers: 4", "maxServers: 0")) as keeper:
        for name in ("keda-a", "keda-b", "keda-c"):
            mesh.start(Order(name, "keda", (), {}, Resources(), {}))
            mesh.put_to_work(name)
        mesh.servers["keda-b"].held = mesh.servers["keda-c"].held = 0
        mesh.drain_agent("keda-b")
        keeper.look()
        shown = keeper.board.read().pools[1]
        assert [(server.name, server.state) for server in shown.servers] == [
            ("keda-a", pb.POOL_SERVER_STATE_BUSY),
            ("keda-b", pb.POOL_SERVER_STATE_DRAINING),
            ("keda-c", pb.POOL_SERVER_STATE_IDLE),
        ]
        assert shown.wanted == 1
        mesh.servers["keda-a"].held, mesh.servers["keda-b"].held = 0, 1
        mesh.servers["keda-c"].connected = False
        keeper.look()
        shown = keeper.board.read().pools[1]
        assert [server.name for server in shown.servers] == ["keda-a", "keda-b"]
        assert shown.wanted == 0, "what one that leaves still works on asks for nobody"
        assert not mesh.undrained


def test_keda_is_told_how_many_servers_an_external_pool_should_have(tmp_path: Path) -> None:
    mesh = fake()
    with keeping(mesh, tmp_path, EXTERNAL) as keeper:
        running = serve_threads(services(keeper.board), "127.0.0.1:0")
        try:
            with open_channel(running.address) as channel:
                scaler, ref = ExternalScalerStub(channel), keda.ScaledObjectRef(scalerMetadata={"pool": "keda"})
                keeper.look()
                assert not scaler.IsActive(ref).result
                changes = scaler.StreamIsActive(ref, timeout=60)
                assert not next(changes).result
                mesh.waiting = 6  # 4 for the pool before it in the file
                keeper.look()
                assert next(changes).result
                changes.cancel()
                assert scaler.IsActive(ref).result
                (spec,) = scaler.GetMetricSpec(ref).metricSpecs
                assert (spec.targetSize, spec.targetSizeFloat) == (1, 1.0)
                asked = keda.GetMetricsRequest(scaledObjectRef=ref, metricName=spec.metricName)
                (value,) = scaler.GetMetrics(asked).metricValues
                assert (value.metricValue, value.metricValueFloat) == (2, 2.0)
                with pytest.raises(NotFound, match="known: train, keda"), errors_from_rpc():
                    scaler.IsActive(keda.ScaledObjectRef(scalerMetadata={"pool": "none"}))
                with pytest.raises(Invalid, match="name the pool"), errors_from_rpc():
                    scaler.IsActive(keda.ScaledObjectRef())
                shown = DeployerServiceStub(channel).ListPools(pb.ListPoolsRequest())
                assert [(pool.name, pool.engine, pool.wanted) for pool in shown.pools] == [
                    ("train", "fake", 4),
                    ("keda", "external", 2),
                ]
        finally:
            running.stop(0)
