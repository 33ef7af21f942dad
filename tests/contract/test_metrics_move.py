"""Every metric that is documented moves with real traffic: a scheduler, an agent and a server, scraped as they work."""

import asyncio
import threading
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
from agent_fakes import TRAIN, WAIT_S, FakeScheduler, FakeTrainServer, lease

from nasmesh.agent.drivers.train import TrainDriver
from nasmesh.agent.loop import Agent
from nasmesh.agent.targets import LocalTarget
from nasmesh.clock import SystemClock
from nasmesh.errors import Unauthenticated, Unavailable
from nasmesh.rpc.access import ClientAccess
from nasmesh.rpc.channel import open_aio_channel
from nasmesh.store.memory import MemoryStore
from nasmesh.telemetry.catalog import AGENT, RPC, SCHEDULER, SERVER, Metric
from nasmesh.telemetry.exposition import serve_metrics
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import scheduler_service_pb2 as api
from nasmesh.v1 import scheduler_service_pb2_grpc as rpc
from nasmesh.v1 import search_pb2
from scheduler.journal.memory import MemoryDisk, MemoryJournal
from scheduler.outage import FAILURES
from scheduler.program import Options, Scheduler, start
from tests.builders import scheduling as make
from tests.builders.access import DAY_S, make_mesh
from tests.builders.addresses import free_address
from tests.builders.health import NOT_SERVING, health_of, until
from tests.builders.scheduler_calls import go, refused
from tests.builders.scheduler_server import ScriptedAgent, client, create, scripted
from tests.builders.scraping import Scrape, moved, scrape

GENERATE = search_pb2.TASK_KIND_GENERATE
TRIALS = 4
STUCK_S = 0.2


def names(metrics: Iterable[Metric]) -> set[str]:
    return {metric.name for metric in metrics}


class Looks:
    """Scrapes one address again and again, and keeps what moved in between."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.moved: set[str] = set()
        self.last: Scrape = {}

    def look(self) -> Scrape:
        """Scrape once; the first time nothing has moved yet."""
        found = scrape(self.address)
        if self.last:
            self.moved |= moved(self.last, found)
        self.last = found
        return found

    async def alook(self) -> Scrape:
        return await asyncio.to_thread(self.look)

    def until(self, says: Callable[[Scrape], bool]) -> None:
        """Scrape until something is the case."""
        pause, tries = threading.Event(), 0
        while not says(self.look()):
            tries += 1
            assert tries < 1000, self.last
            pause.wait(0.02)


async def leased(agent: ScriptedAgent, count: int) -> list[pb.Lease]:
    return [(await agent.hear("lease")).lease for _ in range(count)]


async def serve(disk: MemoryDisk, metrics: str) -> Scheduler:
    options = Options("127.0.0.1:0", "memory:", "memory:", metrics=metrics)
    return await start(options, journal=MemoryJournal(disk), store=MemoryStore(), stuck_s=STUCK_S)


async def generate(agent: ScriptedAgent) -> None:
    """Answer the first call of a search: one network more than trials are wanted is refused; twice, and too late."""
    await agent.want(GENERATE)
    (work,) = await leased(agent, 1)
    outcome = make.make_outcome(work)
    outcome.generate.trials[0].ClearField("network")
    outcome.generate.trials[0].refusal.reason = "TOO_LARGE"
    outcome.generate.trials[0].refusal.message = "as told"
    assert await agent.finish(outcome) == pb.OUTCOME_DISPOSITION_RECORDED
    assert await agent.finish(outcome) == pb.OUTCOME_DISPOSITION_DUPLICATE
    assert await agent.finish(make.make_failure(work)) == pb.OUTCOME_DISPOSITION_SUPERSEDED


async def work(scheduler: Scheduler, looks: Looks, disk: MemoryDisk) -> None:
    """Do with a scheduler what moves its metrics, and look in between."""
    await looks.alook()
    async with client(scheduler.address) as stub, health_of(scheduler.address) as health, AsyncExitStack() as stack:
        agent = await stack.enter_async_context(scripted(scheduler.address))
        await agent.greet(make.make_hello("a", slots=TRIALS))
        await create(stub, make.make_spec(max_trials=TRIALS, parallelism=TRIALS), search_id="s")
        found = await looks.alook()
        assert found["nasmesh_tasks"]["generate", "queued"] == 1.0
        await generate(agent)
        await agent.want(TRAIN, TRIALS)
        trainings = await leased(agent, TRIALS - 1)
        found = await looks.alook()
        assert found["nasmesh_tasks"]["train", "running"] == len(trainings) == FAILURES
        assert found["nasmesh_outcomes_total"] == {("recorded",): 1.0, ("duplicate",): 1.0, ("superseded",): 1.0}
        assert found["nasmesh_networks_refused_total"] == {("TOO_LARGE",): 1.0}
        for training in trainings:
            await agent.finish(make.make_failure(training, "STORE_DOWN", counted=False))
        found = await looks.alook()
        assert found["nasmesh_store_outage"][()] == 1.0
        assert found["nasmesh_attempt_failures_total"] == {("STORE_DOWN",): float(FAILURES)}
        disk.full = True
        spec = make.make_spec(max_trials=1)
        await refused(stub.CreateSearch(api.CreateSearchRequest(search_id="full", spec=spec)), Unavailable)
        await until(health, NOT_SERVING)
        found = await looks.alook()
        assert found["nasmesh_serving"][()] == 0.0
        assert found["nasmesh_commit_failures_total"][()] >= 1.0
    disk.full = False


async def forget(scheduler: Scheduler, looks: Looks) -> None:
    """Have an agent come back without the attempt that it held."""
    async with client(scheduler.address) as stub, scripted(scheduler.address) as agent:
        await agent.greet(make.make_hello("b"))
        await create(stub, make.make_spec(), search_id="t")
        await agent.want(GENERATE)
        await leased(agent, 1)
        await looks.alook()
        async with scripted(scheduler.address) as again:
            await again.greet(make.make_hello("b"))
            found = await looks.alook()
    assert found["nasmesh_attempts_lost_total"] == {("AGENT_FORGOT",): 1.0}


def test_scheduler_when_it_works_fails_and_starts_again_then_every_metric_of_it_has_moved() -> None:
    async def body() -> None:
        disk, metrics = MemoryDisk(), free_address()
        looks = Looks(metrics)
        scheduler = await serve(disk, metrics)
        await work(scheduler, looks, disk)
        await scheduler.stop(0)
        scheduler = await serve(disk, metrics)
        found = await looks.alook()
        assert found["nasmesh_epoch"][()] == 2.0
        await forget(scheduler, looks)
        await scheduler.stop(0)
        # Those of a scheduler that asks who calls: see below.
        assert looks.moved == names((*SCHEDULER, *RPC)) - {"nasmesh_calls_denied", "nasmesh_certificate_ends"}

    go(body())


def test_scheduler_when_it_refuses_a_stranger_then_counted_by_reason(tmp_path: Path) -> None:
    async def body() -> None:
        mesh, looks = make_mesh(tmp_path), Looks(free_address())
        options = Options("127.0.0.1:0", "memory:", "memory:", access=mesh.access(tokens=True), metrics=looks.address)
        scheduler = await start(options, store=MemoryStore())
        await looks.alook()
        async with open_aio_channel(scheduler.address, access=ClientAccess(mesh.authority.ca)) as channel:
            stub = rpc.SchedulerServiceStub(channel)
            await refused(stub.GetServerInfo(api.GetServerInfoRequest()), Unauthenticated)
        found = await looks.alook()
        await scheduler.stop(0)
        assert found["nasmesh_calls_denied_total"] == {("TOKEN_MISSING",): 1.0}
        refusal = (grpc.StatusCode.UNAUTHENTICATED.name, "/nasmesh.v1.SchedulerService/GetServerInfo")
        assert found["nasmesh_rpc_calls_total"] == {refusal: 1.0}
        assert "nasmesh_calls_denied" in looks.moved
        left_s = found["nasmesh_certificate_ends"]["tls-cert",] - SystemClock().wall()
        assert 0 < left_s <= 7 * DAY_S

    go(body())


def test_agent_and_server_when_they_train_then_every_metric_of_them_has_moved(tmp_path: Path) -> None:
    scheduler = FakeScheduler()
    server = FakeTrainServer(tmp_path / "jobs")
    agent = Agent(
        scheduler=scheduler.address,
        name="host-1",
        drivers=[TrainDriver(LocalTarget(server))],
        work_dir=tmp_path / "agent",
        drain_s=0.5,
    )
    metrics = serve_metrics("127.0.0.1:0", [agent.readings, lambda: table_readings(server)])
    looks = Looks(metrics.address)
    thread = threading.Thread(target=agent.run, daemon=True)
    try:
        looks.look()
        thread.start()
        scheduler.wait_for(scheduler.readies)
        scheduler.acknowledge = False
        scheduler.say(lease=lease("wait"))
        looks.until(lambda found: found["nasmesh_jobs"]["running",] == 1.0)
        assert looks.last["nasmesh_agent_held"][()] == 1.0
        scheduler.say(cancel=pb.CancelAttempt(token=lease("wait").token))
        looks.until(lambda found: found["nasmesh_jobs_ended_total"]["cancelled",] == 1.0)
        scheduler.say(lease=lease("echo"))
        looks.until(lambda found: found["nasmesh_agent_outcomes_spooled"][()] >= 1.0)
        assert looks.last["nasmesh_job_seconds_count"][()] >= 1.0
        started = looks.last["nasmesh_children_started_total"][()]
        scheduler.say(lease=lease("crash"))
        looks.until(lambda found: found["nasmesh_jobs_ended_total"]["failed",] == 1.0)
        scheduler.say(lease=lease("echo-again"))  # in a new child
        looks.until(lambda found: found["nasmesh_children_started_total"][()] > started)
        assert looks.last["nasmesh_slots"][()] == server.table.slots
    finally:
        agent.drain()
        thread.join(WAIT_S)
        metrics.close()
        server.table.close()
        scheduler.stop()
    assert looks.moved == names((*SERVER, *AGENT)) - {"nasmesh_slots"}


def table_readings(server: FakeTrainServer) -> Iterable[object]:
    return server.table.readings()
