"""A metric by name that no evaluate server has is refused when the search is made, not after each training."""

from nasmesh.errors import Unavailable
from nasmesh.v1 import scheduler_service_pb2 as pb
from tests.builders import scheduling as make
from tests.builders.scheduler_calls import go, refused
from tests.builders.scheduler_server import client, running, scripted


def test_create_when_no_evaluate_server_has_the_metric_then_absent_with_those_that_are() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, scripted(scheduler.address) as agent:
            spec = make.make_spec(final=True)
            spec.final.evaluate.metrics.append("weighted_cost")
            hello = make.make_hello("one")
            hello.server.metrics.append("macro_f1")
            await agent.greet(hello)
            error = await refused(stub.CreateSearch(pb.CreateSearchRequest(spec=spec)), Unavailable)
            assert (error.reason, error.field) == ("METRIC_ABSENT", "spec.final.evaluate.metrics[0]")
            assert "weighted_cost (they have macro_f1)" in error.message
            spec.final.evaluate.metrics[:] = ["macro_f1"]
            assert (await stub.CreateSearch(pb.CreateSearchRequest(spec=spec))).search.name

    go(body())


def test_create_when_a_server_does_not_name_its_metrics_then_it_may_have_any() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, scripted(scheduler.address) as agent:
            spec = make.make_spec()
            spec.evaluate.metrics.append("weighted_cost")
            await agent.greet(make.make_hello("one"))
            assert (await stub.CreateSearch(pb.CreateSearchRequest(spec=spec))).search.name

    go(body())
