"""Engines that hang, break, or answer late: pools of other engines go on, and no work is given to two pools."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path

import pytest

from nasmesh.clock import ManualClock, seeded_random
from nasmesh.v1 import deployer_service_pb2 as pb
from scheduler.deployers.keeper import Keeper
from scheduler.deployers.posts import ENGINE_S
from tests.builders.deployed import FakeMesh, OnePool, keeping, until_gone

POOLS = """
pools:
  - { name: first, kind: TASK_KIND_TRAIN, maxServers: 2, coolDown: 5s, startTimeout: 20s, local: {} }
  - { name: second, kind: TASK_KIND_TRAIN, maxServers: 8, coolDown: 5s, startTimeout: 20s, local: {} }
"""
SOON_S = 0.3
"""How long looks wait here; what a slow machine answers later is heard at a later look."""
WITHIN_S = 90.0


@pytest.fixture
def gates() -> Iterator[list[threading.Event]]:
    """Gates of engines; all are opened in the end, so that no thread is left behind."""
    made: list[threading.Event] = []
    yield made
    for gate in made:
        gate.set()


def two(gates: list[threading.Event], waiting: int) -> tuple[FakeMesh, OnePool, OnePool]:
    """Return a mesh and the engines of its two pools, both open."""
    mesh = FakeMesh(ManualClock(), seeded_random(7), waiting=waiting)
    first, second = OnePool(mesh, "first"), OnePool(mesh, "second")
    for engine in (first, second):
        engine.gate.set()
        gates.append(engine.gate)
    return mesh, first, second


def look_until(keeper: Keeper, mesh: FakeMesh, holds: Callable[[], bool], *, seconds: float) -> None:
    """Look, with this time in between by the mesh's clock, and servers that do nothing meanwhile."""
    ends, pause = time.monotonic() + WITHIN_S, threading.Event()
    while time.monotonic() < ends:
        keeper.look()
        mesh.clock.advance(seconds)
        if holds():
            return
        pause.wait(0.005)
    raise AssertionError(keeper.board.read())


def finish(mesh: FakeMesh, home: Path, *engines: OnePool) -> None:
    """Have a deployer that is started again see the work done and the servers gone."""
    with keeping(mesh, home, POOLS, *engines) as patient:
        until_gone(patient, mesh)
    assert not mesh.breaks


def shown(keeper: Keeper) -> dict[str, pb.PoolStatus]:
    return {pool.name: pool for pool in keeper.board.read().pools}


def own(mesh: FakeMesh, pool: str) -> list[str]:
    return [name for name, fake in mesh.servers.items() if fake.order.pool == pool]


def test_pools_of_other_engines_go_on_while_one_hangs(gates: list[threading.Event], tmp_path: Path) -> None:
    mesh, first, second = two(gates, waiting=6)
    first.gate.clear()
    with keeping(mesh, tmp_path, POOLS, first, second, patience_s=SOON_S) as keeper:
        began = mesh.clock.monotonic()
        # If looks waited for the one that hangs, this would take hours, and the test's own limit would end it.
        look_until(keeper, mesh, lambda: len(own(mesh, "second")) == 4, seconds=0.01)
        for _ in range(5):
            keeper.look()
        assert len(own(mesh, "second")) == 4, "two tasks are left to the first, which may only be slow"
        look_until(keeper, mesh, lambda: len(own(mesh, "second")) == 6, seconds=1.0)
        assert mesh.clock.monotonic() - began >= ENGINE_S
        assert shown(keeper)["first"].reason == f"the one engine has given no answer for more than {ENGINE_S:.0f} s"
        assert not shown(keeper)["second"].reason
        first.gate.set()
        look_until(keeper, mesh, lambda: not shown(keeper)["first"].reason, seconds=0.01)
        mesh.waiting += 2
        look_until(keeper, mesh, lambda: len(own(mesh, "first")) == 2, seconds=0.01)
        assert len(own(mesh, "second")) == 6
    finish(mesh, tmp_path, first, second)
    assert mesh.done == 8


def test_an_engine_that_hangs_is_waited_for_once(
    gates: list[threading.Event], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[Future[object]] = []

    def spy(calls: Iterable[Future[object]], timeout_s: float) -> None:
        waited.extend(calls)
        wait(waited, timeout_s)

    monkeypatch.setattr("scheduler.deployers.keeper.wait", spy)
    mesh, first, second = two(gates, waiting=0)
    first.gate.clear()
    with keeping(mesh, tmp_path, POOLS, first, second, patience_s=SOON_S) as keeper:
        keeper.look()
        answered, hangs = wait(waited, return_when=FIRST_COMPLETED)
        assert (len(answered), len(hangs)) == (1, 1)
        waited.clear()
        for _ in range(20):
            keeper.look()
        assert not hangs & set(waited)
        assert waited, "the other was asked each time"
        first.gate.set()


def test_servers_of_an_engine_that_is_away_keep_their_work(gates: list[threading.Event], tmp_path: Path) -> None:
    mesh, first, second = two(gates, waiting=2)
    with keeping(mesh, tmp_path, POOLS, first, second, patience_s=SOON_S) as keeper:
        look_until(keeper, mesh, lambda: len(own(mesh, "first")) == 2, seconds=0.01)
        for name in own(mesh, "first"):
            mesh.put_to_work(name)
        busy = [pb.POOL_SERVER_STATE_BUSY] * 2
        look_until(keeper, mesh, lambda: [s.state for s in shown(keeper)["first"].servers] == busy, seconds=0.01)
        first.gate.clear()
        look_until(keeper, mesh, lambda: bool(shown(keeper)["first"].reason), seconds=3.0)
        keeper.look()
        assert shown(keeper)["first"].wanted == 2
        assert not own(mesh, "second"), "what runs at an engine that is away asks for no other server"
        mesh.kill(own(mesh, "first")[0])
        look_until(keeper, mesh, lambda: len(own(mesh, "second")) == 1, seconds=0.01)
        first.gate.set()
    finish(mesh, tmp_path, first, second)


def test_an_engine_that_hangs_over_orders_is_heard_later(gates: list[threading.Event], tmp_path: Path) -> None:
    mesh, first, second = two(gates, waiting=2)
    orders: list[str] = []

    def start(order: object) -> None:
        first.gate.clear()
        orders.append(str(order))
        OnePool.start(first, order)  # type: ignore[arg-type]

    first.start = start  # type: ignore[method-assign]
    with keeping(mesh, tmp_path, POOLS, first, second, patience_s=SOON_S) as keeper:
        look_until(keeper, mesh, lambda: bool(orders), seconds=0.01)
        for _ in range(5):
            keeper.look()
        assert [server.state for server in shown(keeper)["first"].servers] == [pb.POOL_SERVER_STATE_PENDING] * 2
        assert not own(mesh, "second"), "they are on their way"
        del first.start
        first.gate.set()
        look_until(keeper, mesh, lambda: len(own(mesh, "first")) == 2, seconds=0.01)
    finish(mesh, tmp_path, first, second)
    assert mesh.done == 2


def test_an_engine_whose_library_breaks_is_told_of_and_ends_nobody(
    gates: list[threading.Event], tmp_path: Path
) -> None:
    mesh, first, second = two(gates, waiting=6)
    first.breaks = "metadata"
    with keeping(mesh, tmp_path, POOLS, first, second) as keeper:
        look_until(keeper, mesh, lambda: len(own(mesh, "second")) == 6, seconds=0.01)
        assert shown(keeper)["first"].reason == "the one engine failed: KeyError: 'metadata'"
        first.breaks = ""
        keeper.look()
        assert not shown(keeper)["first"].reason


HANGS = """
import sys
from pathlib import Path
from threading import Event
from nasmesh.clock import ManualClock, seeded_random
from scheduler.deployers import keeper
from tests.builders.deployed import FakeMesh, OnePool, keeping
keeper._CLOSE_S = 0.1
mesh = FakeMesh(ManualClock(), seeded_random(1), waiting=1)
with keeping(mesh, Path(sys.argv[1]), sys.argv[2], OnePool(mesh, "first"), patience_s=0.1) as kept:
    kept.look()
print("looked")
"""


def test_a_deployer_ends_while_an_engine_hangs(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    pools = "\n".join(POOLS.splitlines()[:3])
    done = subprocess.run(
        [sys.executable, "-c", HANGS, str(tmp_path), pools],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "looked\n"), done.stderr
