"""`nasmesh top`: what it draws fits its terminal and says what matters; the command against a real scheduler."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from clients.cli.display.moment import Moment, progress, rates
from clients.cli.display.top import render
from nasmesh.v1 import dispatch_service_pb2, search_pb2
from nasmesh.v1 import scheduler_service_pb2 as pb
from tests.builders import scheduling as make
from tests.builders.scheduler_calls import go
from tests.builders.scheduler_server import client, create, running, working

ROOT = Path(__file__).resolve().parents[2]
NOW_S = 1_700_000_100.0


def activity(**more: object) -> pb.SchedulerActivity:
    doing = pb.SchedulerActivity(outcomes_recorded=1000, events=5000, commits=300, commit_p50_s=0.0012, serving=True)
    doing.tasks.add(kind=search_pb2.TASK_KIND_TRAIN, queued=12, running=3)
    for name, value in more.items():
        setattr(doing, name, value)
    return doing


def moment(
    doing: pb.SchedulerActivity, *, at_s: float = 100.0, epoch: int = 1, agents: int = 2, searches: int = 1
) -> Moment:
    doing.connected_agents = agents
    info = pb.GetServerInfoResponse(version="0.1", epoch=epoch, journal="sqlite", store="directory", activity=doing)
    info.start_time.FromSeconds(1_700_000_000)
    mesh = []
    for number in range(agents):
        agent = pb.Agent(name=f"agents/host-{number}", connected=number != 1)
        agent.slots.append(dispatch_service_pb2.AgentSlots(kind=search_pb2.TASK_KIND_TRAIN, slots=4))
        agent.last_seen_time.FromSeconds(1_700_000_040)
        mesh.append(agent)
    found = [search_pb2.Search(name=f"searches/s{n}", state=search_pb2.SEARCH_STATE_RUNNING) for n in range(searches)]
    for search in found:
        search.spec.budget.max_trials = 40
        search.trials.succeeded = 10
    return Moment(at_s, NOW_S, info, tuple(mesh), tuple(found))


def drawn(now: Moment, *, width: int = 100, rows: int | None = None, away_s: float | None = None) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False)
    console.print(render(now, rates(None, now), address="127.0.0.1:7400", rows=rows, away_s=away_s))
    return out.getvalue()


def test_display_when_all_is_well_then_says_so_and_shows_every_part() -> None:
    text = drawn(moment(activity()))
    for part in ("serving", "up 1:40", "12", "train", "s0", "10/40", "host-0", "connected", "away", "1.20 ms"):
        assert part in text
    assert "\x1b" not in text, "no colours in a pipe"
    assert "down" not in text


def test_display_when_nothing_was_committed_yet_then_a_dash_and_no_time() -> None:
    text = drawn(moment(activity(commits=0, commit_p50_s=0.0)))
    assert "commit p50 –" in text
    assert "0.00 ms" not in text


def test_display_when_the_store_is_down_or_health_bad_then_it_is_written_large() -> None:
    text = drawn(moment(activity(store_outage=True, serving=False)))
    assert "NOT SERVING" in text
    assert "the object store is down" in text


def test_display_when_the_scheduler_is_away_then_says_for_how_long() -> None:
    assert "no answer for 12 s" in drawn(moment(activity()), away_s=12.0)


@pytest.mark.parametrize(("width", "rows"), [(80, 24), (120, 40), (60, 20)])
def test_display_when_the_mesh_is_large_then_fits_the_terminal(width: int, rows: int) -> None:
    doing = activity()
    doing.failures["CHILD_CRASHED"] = 12
    doing.store_outage = True
    doing.oldest_queued_s = 3.0
    lines = drawn(moment(doing, agents=300, searches=40), width=width, rows=rows).splitlines()
    assert all(len(line) <= width for line in lines)
    assert len(lines) < rows
    assert any("more; 300 agents connected" in line for line in lines)


def test_rates_when_the_scheduler_restarted_between_then_none() -> None:
    old = moment(activity())
    new = moment(activity(outcomes_recorded=1500, events=7000), at_s=110.0)
    speed = rates(old, new)
    assert speed is not None
    assert (speed.tasks, speed.events, speed.commits) == (50.0, 200.0, 0.0)
    assert rates(old, moment(activity(outcomes_recorded=3), at_s=120.0, epoch=2)) is None
    assert rates(None, new) is None


def test_progress_when_a_search_has_no_bound_then_none() -> None:
    assert progress(search_pb2.Search()) is None
    assert progress(moment(activity()).searches[0]) == 0.25


def command(address: str, *flags: str) -> list[str]:
    return [sys.executable, "-m", "clients.cli.main", "top", "--scheduler", address, *flags]


def environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("NASMESH_")}


def test_command_when_asked_once_then_one_object_with_what_is_there() -> None:
    async def body() -> None:
        async with (
            running() as scheduler,
            client(scheduler.address) as stub,
            working(scheduler.address, lambda _: None),
        ):
            await create(stub, make.make_spec(max_trials=2), search_id="seen")
            done = await asyncio.to_thread(
                subprocess.run,
                command(scheduler.address, "--once", "--json"),
                capture_output=True,
                text=True,
                env=environment(),
                cwd=ROOT,
                timeout=30,
            )
            assert done.returncode == 0, done.stderr
            shown = json.loads(done.stdout)
            assert [search["name"] for search in shown["searches"]] == ["searches/seen"]
            assert shown["scheduler"]["activity"]["connectedAgents"] == "1"
            assert [agent["name"] for agent in shown["agents"]] == ["agents/worker"]

    go(body())


def test_command_when_in_a_pipe_then_a_line_a_look_also_over_a_restart_and_an_end_on_a_signal(tmp_path: Path) -> None:
    async def body() -> None:
        journal = tmp_path / "journal.db"
        async with running(journal) as scheduler:
            address = scheduler.address
            process = await asyncio.create_subprocess_exec(
                *command(address, "--json", "--every", "0.2"),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment(),
                cwd=ROOT,
                limit=1 << 22,
            )
            assert process.stdout is not None
            assert process.stderr is not None
            first = json.loads(await process.stdout.readline())
            second = json.loads(await process.stdout.readline())
            assert first["perSecond"] is None
            assert second["perSecond"]["tasks"] == 0.0
            await scheduler.stop(0)
            assert b"no server answers" in await process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130

    go(body())


def test_command_when_nobody_answers_then_a_sentence_and_exit_code_3() -> None:
    done = subprocess.run(
        command("127.0.0.1:1", "--once"), capture_output=True, text=True, env=environment(), cwd=ROOT, timeout=30
    )
    assert done.returncode == 3
    assert "no server answers at 127.0.0.1:1" in done.stderr
