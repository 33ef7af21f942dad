"""GetDemand and OfferServers of a real scheduler: what waits by what it needs, and searches for servers to come."""

import pytest

from nasmesh.clock import ManualClock
from nasmesh.errors import Invalid, Unavailable
from nasmesh.v1 import job_pb2, search_pb2
from nasmesh.v1 import scheduler_service_pb2 as pb
from scheduler.agents import KEEP_GONE_S, AgentEntry, Agents
from scheduler.domain import TaskKind
from scheduler.offers import OFFER_KEEP_S, Offers
from tests.builders import scheduling as make
from tests.builders.scheduler_calls import go, refused
from tests.builders.scheduler_server import client, create, has_generator, running, scripted

GENERATE, TRAIN = search_pb2.TASK_KIND_GENERATE, search_pb2.TASK_KIND_TRAIN


def offer(kind: search_pb2.TaskKind.ValueType = GENERATE, *datasets: str) -> pb.ServerOffer:
    made = pb.ServerOffer(kind=kind)
    if kind == GENERATE:
        made.server.generators.append(make.make_generator())
    for name in datasets:
        made.server.datasets.add(name=name, available=True)
    return made


def test_demand_counts_what_waits_and_what_runs_by_what_it_needs() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, scripted(scheduler.address) as agent:
            assert not (await stub.GetDemand(pb.GetDemandRequest())).demands
            await agent.greet(make.make_hello("generator", kinds=(GENERATE,)))
            await create(stub, make.make_spec(max_trials=3, parallelism=3))
            (waiting,) = (await stub.GetDemand(pb.GetDemandRequest())).demands
            assert (waiting.kind, waiting.need, waiting.servers) == (GENERATE, make.GENERATOR, 1)
            assert (waiting.queued, waiting.running, waiting.owner) == (1, 0, "")
            assert waiting.oldest_queued_s >= 0
            await agent.want(GENERATE)
            lease = (await agent.hear("lease")).lease
            (at_work,) = (await stub.GetDemand(pb.GetDemandRequest())).demands
            assert (at_work.queued, at_work.running, at_work.oldest_queued_s) == (0, 1, 0.0)
            await agent.finish(make.make_outcome(lease))
            (train,) = [d for d in (await stub.GetDemand(pb.GetDemandRequest())).demands if d.kind == TRAIN]
            assert (train.need, train.queued, train.running) == ("datasets/digits", 3, 0)

    go(body())


def test_tasks_of_a_paused_search_ask_for_nobody() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, scripted(scheduler.address) as agent:
            await agent.greet(make.make_hello("generator", kinds=(GENERATE,)))
            search = await create(stub, make.make_spec())
            await stub.PauseSearch(pb.PauseSearchRequest(name=search.name))
            assert not (await stub.GetDemand(pb.GetDemandRequest())).demands
            await stub.ResumeSearch(pb.ResumeSearchRequest(name=search.name))
            assert len((await stub.GetDemand(pb.GetDemandRequest())).demands) == 1

    go(body())


def test_a_trial_over_several_servers_says_how_many() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, scripted(scheduler.address) as agent:
            await agent.greet(make.make_hello("generator", kinds=(GENERATE,)))
            spec = make.make_spec(max_trials=1, parallelism=1)
            spec.train.distribution.processes = 2
            spec.train.distribution.across_hosts = True
            await create(stub, spec)
            await agent.want(GENERATE)
            await agent.finish(make.make_outcome((await agent.hear("lease")).lease))
            (train,) = [d for d in (await stub.GetDemand(pb.GetDemandRequest())).demands if d.kind == TRAIN]
            assert (train.servers, train.queued) == (2, 1)

    go(body())


def test_a_search_is_taken_for_a_generator_that_is_offered() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub:
            request = pb.CreateSearchRequest(spec=make.make_spec())
            error = await refused(stub.CreateSearch(request), Unavailable)
            assert error.reason == "GENERATOR_ABSENT"
            await stub.OfferServers(pb.OfferServersRequest(deployer="here", offers=[offer()]))
            await has_generator(stub)
            assert (await stub.CreateSearch(request)).search.name
            await stub.OfferServers(pb.OfferServersRequest(deployer="here"))
            assert not (await stub.ListGenerators(pb.ListGeneratorsRequest())).generators

    go(body())


def test_data_of_offered_train_servers_counts_as_there() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, scripted(scheduler.address) as agent:
            worker = make.make_hello("worker")
            worker.server.datasets[0].name = "datasets/cifar10"
            await agent.greet(worker)
            await has_generator(stub)
            request = pb.CreateSearchRequest(spec=make.make_spec())
            assert (await refused(stub.CreateSearch(request), Unavailable)).reason == "DATASET_ABSENT"
            offers = [offer(TRAIN, "datasets/digits")]
            await stub.OfferServers(pb.OfferServersRequest(deployer="here", offers=offers))
            assert (await stub.CreateSearch(request)).search.name
            listed = (await stub.ListDatasets(pb.ListDatasetsRequest())).datasets
            assert [d.available for d in listed if d.name == "datasets/digits"] == [True]

    go(body())


def test_an_offer_holds_for_a_minute_and_is_checked() -> None:
    clock = ManualClock()
    offers = Offers(clock)
    offers.put(pb.OfferServersRequest(deployer="here", offers=[offer()]))
    assert [g.name for g in offers.generators([])] == [make.GENERATOR]
    clock.advance(OFFER_KEEP_S)
    assert not offers.generators([])
    strange = offer()
    strange.server.generators[0].settings_schema.update({"$ref": "http://192.0.2.1/"})
    for request, field in (
        (pb.OfferServersRequest(offers=[offer()]), "deployer"),
        (pb.OfferServersRequest(deployer="x" * 64), "deployer"),
        (pb.OfferServersRequest(deployer="here", offers=[pb.ServerOffer()]), "offers.0.kind"),
        (pb.OfferServersRequest(deployer="here", offers=[offer()] * 65), "offers"),
        (pb.OfferServersRequest(deployer="here", offers=[strange]), f"offers.0.server.{make.GENERATOR}"),
    ):
        with pytest.raises(Invalid) as caught:
            offers.put(request)
        assert (caught.value.reason, caught.value.field) == ("OFFER_INVALID", field)
    for number in range(64):
        offers.put(pb.OfferServersRequest(deployer=f"d{number}"))
    with pytest.raises(Invalid, match="others offer servers already"):
        offers.put(pb.OfferServersRequest(deployer="one-more"))


def test_agents_that_left_long_ago_are_forgotten_unless_they_hold_work() -> None:
    agents, day = Agents(), KEEP_GONE_S

    def come(name: str, at: float, seen_us: int = 0) -> None:
        """Come and go at once."""
        agents.put(AgentEntry(name, {TaskKind.TRAIN: 1}, job_pb2.Server(), {}, None, seen_us, gone_s=at), at)

    for number in range(50):
        come(f"agents/train-{number:06x}", number)
    agents.grant("agents/train-000007", "t1", TaskKind.TRAIN)
    come("agents/train-new", day / 2)
    assert len(list(agents.all())) == 51
    come("agents/train-later", 0.6 * day, seen_us=10**18)
    assert len(list(agents.all())) == 52, "a wall clock that was set forward makes nobody be gone for long"
    come("agents/train-newer", 2 * day)
    left = [known.name for known in agents.all()]
    assert left == ["agents/train-000007", "agents/train-newer"]
    assert agents.release("agents/train-000007", "t1") is not None
