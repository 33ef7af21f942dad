"""T5: a real S3 server behind a proxy that does harm, killed and stopped besides: nothing acknowledged is lost."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nasmesh.clock import Clock, SystemClock, new_seed, seeded_random
from nasmesh.store.s3_calls import Patience
from tests.builders.s3_proxy import FAULTS
from tests.builders.s3_servers import KINDS, S3Server
from tests.builders.s3_stores import Servers, new_bucket, servers_below
from tests.chaos.s3_faults import PART_BYTES, Life

QUICK = Patience(connect_s=0.5, read_s=0.25, tries=3, pause_s=0.005)
PATIENT = Patience(connect_s=0.5, read_s=0.5, tries=3, pause_s=0.02)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    yield from servers_below(tmp_path_factory.mktemp("s3"))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_faults_of_every_kind(
    kind: str, servers: Servers, request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    count = (10_000 if request.config.getoption("--long") else 500) // len(KINDS)
    seed = new_seed()
    print(f"seed {seed}")
    bucket, proxy = new_bucket(servers.server(kind)), servers.proxy(kind)
    store = bucket.store(endpoint=proxy.endpoint, patience=QUICK, part_bytes=PART_BYTES)
    life = Life(store, proxy, bucket.name, seed=seed, rate=0.25)
    life.run(count)
    life.settle(bucket.store())
    tally = life.tally
    record_property("counts", tally.line(kind, seed))
    assert tally.operations.total() == count
    assert set(tally.faults) == set(FAULTS)
    assert 0 < tally.refused < count // 2


@pytest.mark.timeout(3600)
def test_kills_and_stops_of_the_server(
    tmp_path: Path, request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    long = request.config.getoption("--long")
    kills, stops, stop_s, count = (30, 5, 20.0, 1200) if long else (2, 1, 2.0, 60)
    seed = new_seed()
    print(f"seed {seed}")
    for own in servers_below(tmp_path):
        server, proxy = own.server("weed"), own.proxy("weed")
        bucket = new_bucket(server)
        store = bucket.store(endpoint=proxy.endpoint, patience=PATIENT, part_bytes=PART_BYTES)
        life = Life(store, proxy, bucket.name, seed=seed, rate=0.02)
        strike = Striker(server, life, seed, count, kills=kills, stops=stops, stop_s=stop_s)
        life.run(count, between=strike)
        strike.heal()
        life.settle(bucket.store())
        record_property("counts", life.tally.line("killed", seed))
        assert (life.tally.kills, life.tally.stops) == (kills, stops)


class Striker:
    """Kills a server, or stops it for a while, before operations chosen by a seed; it comes back some later."""

    def __init__(
        self,
        server: S3Server,
        life: Life,
        seed: int,
        count: int,
        *,
        kills: int,
        stops: int,
        stop_s: float,
        clock: Clock | None = None,
    ) -> None:
        chosen = seeded_random(seed).sample(range(5, count - 5, 5), kills + stops)
        self._kills, self._stops = set(chosen[:kills]), set(chosen[kills:])
        self._server, self._life, self._stop_s = server, life, stop_s
        self._clock = clock or SystemClock()
        self._killed_at = -1
        self._resume = 0.0

    def __call__(self, number: int) -> None:
        """Strike, or undo what was done, before an operation."""
        if self._killed_at >= 0 and number >= self._killed_at + 3:
            self.heal()
        if self._resume and self._clock.monotonic() >= self._resume:
            self.heal()
        if number in self._kills:
            self.heal()
            self._server.kill()
            self._killed_at = number
            self._life.tally.kills += 1
        elif number in self._stops:
            self.heal()
            self._server.pause()
            self._resume = self._clock.monotonic() + self._stop_s
            self._life.tally.stops += 1
            while self._clock.monotonic() < self._resume:
                self._life.step()

    def heal(self) -> None:
        """Have the server run."""
        if self._killed_at >= 0:
            self._server.start()
            self._killed_at = -1
        if self._resume:
            self._server.resume()
            self._resume = 0.0
