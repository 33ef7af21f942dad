"""T4: real generate, train and evaluate servers and a stand-alone agent, each killed again and again by SIGKILL."""

import asyncio
import time
from pathlib import Path

from nasmesh.clock import derive_seed, seeded_random
from tests.builders import scheduling as make
from tests.builders.addresses import free_address
from tests.chaos import witness
from tests.chaos.kills import Report, conclude, create, finish
from tests.chaos.programs import Program, scheduler

KINDS = ("generate", "train", "evaluate", "agent")
TRIALS = 8


def victims(home: Path, address: str, target: str) -> dict[str, Program]:
    """Return the programs that are killed: three servers with their agents, and an agent before another server."""
    found = {kind: service(home, kind, kind, "--scheduler", address) for kind in ("generate", "train", "evaluate")}
    flags = ["--scheduler", address, "--target", target, "--name", "alone", "--work-dir", str(home / "alone")]
    found["agent"] = Program(home, "agent", ["-m", "nasmesh.agent", *flags], served=False)
    return found


def service(home: Path, name: str, kind: str, *flags: str) -> Program:
    """Return a toy server that keeps its name and directory from life to life."""
    command = ["-m", "tests.chaos.toy_service", kind, "--name", name, "--work-dir", str(home / name), *flags]
    if "--listen" not in flags:
        command += ["--listen", "127.0.0.1:0"]
    return Program(home, name, command)


async def kill_services(home: Path, kills: int, *, seed: int) -> Report:
    """Kill each program so many times while searches run one after another; then check everything."""
    began = time.perf_counter()
    report = Report()
    address, target = free_address(), free_address()
    control, beside = scheduler(home, address), service(home, "beside", "train", "--listen", target)
    killed = victims(home, address, target)
    client = witness.Client(address, report.history)
    names: list[str] = []
    searching: asyncio.Task[None] | None = None
    try:
        for program in (control, beside):
            program.start()
            assert await asyncio.to_thread(program.await_serving)
        searching = asyncio.create_task(_search(client, names))
        await asyncio.gather(*(_strike(kind, program, kills, seed, report) for kind, program in killed.items()))
        searching.cancel()
        await asyncio.wait([searching], timeout=60)
        await asyncio.wait_for(finish(client, names, report, TRIALS), 120 * max(1, len(names)))
    finally:
        if searching is not None:
            searching.cancel()
        for program in (*killed.values(), beside, control):
            program.close()
    conclude(home, report, began)
    return report


async def _strike(kind: str, program: Program, kills: int, seed: int, report: Report) -> None:
    """Kill one program so many times, each time a while after it serves; it is alive in the end."""
    rng = seeded_random(derive_seed(seed, kind))
    for _ in range(kills):
        program.start()
        if kind == "agent":
            await asyncio.sleep(0.6)  # it serves nothing; by then it has mostly said hello
        else:
            assert await asyncio.to_thread(program.await_serving)
        await asyncio.sleep(rng.uniform(0.2, 1.2))
        assert not program.has_died()
        program.kill()
        report.kills[kind] = report.kills.get(kind, 0) + 1
    program.start()
    if kind != "agent":
        assert await asyncio.to_thread(program.await_serving)


async def _search(client: witness.Client, names: list[str]) -> None:
    while True:
        name = f"s{len(names) + 1}"
        await create(client, name, make.make_spec(max_trials=TRIALS, parallelism=3), names)
        await client.follow("first", name)
