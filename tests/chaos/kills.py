"""T4: a real scheduler killed by SIGKILL, at random moments and around its commits, while agents and a client go on."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nasmesh.clock import seeded_random
from nasmesh.v1.search_pb2 import TRIAL_OUTCOME_STOPPED, SearchSpec
from tests.builders import scheduling as make
from tests.builders.addresses import free_address
from tests.chaos import witness
from tests.chaos.programs import Program, scheduler
from tests.e2e.mesh import ROOT
from tests.sim.history import Leased, Listed, Observation, faults

POINTS = ("before_commit", "after_commit", "after_recovery", "")
TRIALS = 12
_LOOK_S = 0.01


@dataclass(slots=True)
class Report:
    """What was killed, and what was seen."""

    kills: dict[str, int] = field(default_factory=dict)
    searches: int = 0
    trials: int = 0
    history: list[Observation] = field(default_factory=list)
    seconds: float = 0.0

    def told(self) -> str:
        kills = " ".join(f"{key or 'random'}={count}" for key, count in sorted(self.kills.items()))
        listed = [seen for seen in self.history if isinstance(seen, Listed)]
        reused = sum(bool(seen.reused) for seen in listed)
        stopped = sum(seen.outcome == TRIAL_OUTCOME_STOPPED for seen in listed)
        gangs = len({(seen.task, seen.attempt) for seen in self.history if isinstance(seen, Leased) and seen.size > 1})
        return (
            f"T4: {sum(self.kills.values())} kills ({kills}), {self.searches} searches, {self.trials} trials,"
            f" {reused} of them reused, {stopped} stopped early, {gangs} gangs, {len(self.history)} observations,"
            f" {self.seconds:.1f} s"
        )


async def kill_scheduler(home: Path, kills: int, *, seed: int) -> Report:
    """Kill a scheduler so many times while searches run one after another; then let them end and check everything."""
    began = time.perf_counter()
    report = Report()
    address = free_address()
    victim = scheduler(home, address)
    try:
        async with searched(address, report):
            await _strike(victim, kills, seed, report)
            victim.start()
            victim.await_serving()
    finally:
        victim.close()
    conclude(home, report, began)
    return report


@asynccontextmanager
async def searched(address: str, report: Report) -> AsyncIterator[None]:
    """Have agents work and searches run for the length of a block that kills; then see them to their end."""
    client = witness.Client(address, report.history)
    names: list[str] = []
    searching = asyncio.create_task(search(client, names))
    try:
        async with witness.working(address, report.history):
            yield
            while len(names) < 2:  # the last one begins after the last kill
                await witness.again()
            searching.cancel()
            await asyncio.wait([searching], timeout=60)
            await asyncio.wait_for(finish(client, names, report, TRIALS), 120)
    finally:
        searching.cancel()


async def _strike(victim: Program, kills: int, seed: int, report: Report) -> None:
    rng = seeded_random(seed)
    for number in range(kills):
        point = POINTS[number % len(POINTS)]
        after = rng.randint(1, 25)
        failpoint = f"{point}:kill:{1 if point == 'after_recovery' else after}"
        victim.start(**({"NASMESH_FAILPOINT": failpoint} if point else {}))
        if await asyncio.to_thread(victim.await_serving):
            until = time.monotonic() + (20.0 if point else rng.uniform(0.0, 0.4))
            while not victim.has_died() and time.monotonic() < until:
                await asyncio.sleep(_LOOK_S)
            assert not point or victim.has_died(), f"{failpoint} was not reached: {victim.log.read_text()[-2000:]}"
        victim.kill()
        report.kills[point] = report.kills.get(point, 0) + 1


async def search(client: witness.Client, names: list[str]) -> None:
    """Run pairs of equal searches one after the other, a watcher or two on each, until cancelled."""
    while True:
        name, twin = f"s{len(names) + 1}", f"s{len(names) + 2}"
        spec = make.make_spec(max_trials=TRIALS, parallelism=4)
        spec.train.seed = len(names)
        if len(names) % 6 == 0:  # in the first pair, and every third, two agents train each network together
            spec.train.distribution.processes, spec.train.distribution.across_hosts = 2, True
            spec.train.batch_size = 12
        if len(names) % 4:  # every other pair is compared at rungs on its way
            spec.early_stopping.asynchronous_halving.reduction = 2
        spec.generator.settings["width"] = make.WIDE
        for one in (name, twin):
            await create(client, one, spec, names)
        await asyncio.gather(client.follow("first", name), client.follow("second", name), client.follow("first", twin))


async def create(client: witness.Client, name: str, spec: SearchSpec, names: list[str]) -> None:
    """Create a search and note its name, also where the caller is cancelled: what exists is seen to its end."""

    async def noted() -> None:
        await client.create(name, spec)
        names.append(name)

    creating = asyncio.create_task(noted())
    try:
        await asyncio.shield(creating)
    except asyncio.CancelledError:
        await creating
        raise


async def finish(client: witness.Client, names: list[str], report: Report, count: int) -> None:
    """See searches to their end, each with so many trials, and read what came of them."""
    for name in names:
        await client.follow("late", name)
        trials = await client.read(name)
        assert len(trials) == count
        witness.check_results(trials)
        report.trials += len(trials)
    report.searches = len(names)


def conclude(home: Path, report: Report, began: float, journal: str = "") -> None:
    """Check the journal and what was seen, of programs that have ended; `began` is by time.perf_counter."""
    check_journal(journal or home)
    wrong = list(faults(report.history))
    assert not wrong, wrong[:5]
    report.seconds = time.perf_counter() - began


def check_journal(at: Path | str) -> None:
    """Have `nasmesh admin check` read the journal whole: that of a directory, or of a URL."""
    journal = at if isinstance(at, str) else str(at / "journal.db")
    command = [sys.executable, "-m", "clients.cli.main", "admin", "check", "--journal", journal]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
