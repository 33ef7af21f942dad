"""Two real schedulers on one PostgreSQL: whoever leads is killed or cut off, again and again, and the other goes on."""

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

from nasmesh.clock import seeded_random
from tests.builders.addresses import free_address
from tests.builders.postgres_server import PostgresServer
from tests.chaos.kills import Report, conclude, searched
from tests.chaos.programs import Program

# What befalls the leader: a kill at its commits or at any moment, or the end of one of its connections by the server.
WAYS = ("random", "before_commit", "after_commit", "lock", "writer")
TAKE_OVER_S = 10.0
_LOOK_S = 0.01
_WAIT_S = 60.0
_END = {
    "lock": "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted",
    "writer": "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'nasmesh'"
    " AND pid NOT IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')",
}


@dataclass(slots=True)
class Takeovers(Report):
    """What a Report tells, and how long nobody led each time, in seconds."""

    gaps: list[float] = field(default_factory=list)

    def told(self) -> str:
        longest = f"longest gap {max(self.gaps):.2f} s, mean {sum(self.gaps) / len(self.gaps):.2f} s"
        return Report.told(self).replace("T4:", f"T4 with a standby on PostgreSQL ({longest}):")


class Pair:
    """Two programs, of which one leads."""

    def __init__(self, home: Path, journal: str) -> None:
        self.addresses = [free_address(), free_address()]
        base = ["-m", "scheduler", "--standby", "--journal", journal, "--store", f"dir:{home / 'objects'}"]
        self._programs = [
            Program(home, f"scheduler-{number}", [*base, "--listen", address])
            for number, address in enumerate(self.addresses)
        ]
        self._stood = [0, 0]
        self.leader = 0

    async def start(self, number: int, **environment: str) -> None:
        self._stood[number] = self._standings(number)
        self._programs[number].start(**environment)

    async def serving(self, number: int) -> bool:
        return await asyncio.to_thread(self._programs[number].await_serving)

    async def standing(self, number: int) -> bool:
        """Return once a program has found that the other leads; False where that one has died before."""
        until = time.monotonic() + _WAIT_S
        while self._standings(number) == self._stood[number]:
            assert time.monotonic() < until, self._programs[number].log.read_text()[-2000:]
            if self._programs[1 - number].exit_code() is not None:
                return False
            await asyncio.sleep(_LOOK_S)
        return True

    def _standings(self, number: int) -> int:
        log = self._programs[number].log
        return log.read_text().count('"standing_by"') if log.exists() else 0

    async def ended(self, number: int, *, killed: bool) -> float:
        """Return when a program has ended: by a kill, or by itself, which it must within its time."""
        program = self._programs[number]
        until = time.monotonic() + _WAIT_S
        while program.exit_code() is None:
            assert time.monotonic() < until, program.log.read_text()[-2000:]
            await asyncio.sleep(_LOOK_S)
        now = time.monotonic()
        assert (program.exit_code() < 0) == killed, program.log.read_text()[-2000:]
        program.kill()
        return now

    def kill(self, number: int) -> None:
        self._programs[number].kill()

    def close(self) -> None:
        for program in self._programs:
            program.close()


async def take_over(home: Path, server: PostgresServer, strikes: int, *, seed: int) -> Takeovers:
    """Strike the leader so many times while searches run; then let them end and check everything."""
    began = time.perf_counter()
    report = Takeovers()
    journal = server.create(f"takeovers_{seed % 10_000}")
    pair = Pair(home, journal)
    try:
        async with searched(",".join(pair.addresses), report):
            await pair.start(0)
            assert await pair.serving(0)
            await _strike(pair, server, journal, strikes, seed, report)
    finally:
        pair.close()
    conclude(home, report, began, journal)
    return report


async def _strike(pair: Pair, server: PostgresServer, journal: str, strikes: int, seed: int, report: Takeovers) -> None:
    rng = seeded_random(seed)
    database = journal.partition("?")[0].rpartition("/")[2]
    for number in range(strikes):
        # A failpoint is for the one that leads next, and was armed when that was started; the first has none.
        following = WAYS[(number + 1) % len(WAYS)]
        way = WAYS[number % len(WAYS)]
        leader, other = pair.leader, 1 - pair.leader
        armed = (
            {"NASMESH_FAILPOINT": f"{following}:kill:{rng.randint(200, 600)}"} if following.endswith("commit") else {}
        )
        await pair.start(other, **armed)
        stands = await pair.standing(other)
        if way == "random":
            await asyncio.sleep(rng.uniform(0.0, 0.4))
            pair.kill(leader)
            died = time.monotonic()
        elif way in _END:
            with server.connect(database) as db:
                assert db.execute(_END[way]).fetchall()
            died = await pair.ended(leader, killed=False)
        else:
            died = await pair.ended(leader, killed=True)
        assert await pair.serving(other)
        if stands:  # else it was still being started when the leader died by its failpoint
            report.gaps.append(time.monotonic() - died)
        report.kills[way] = report.kills.get(way, 0) + 1
        pair.leader = other
