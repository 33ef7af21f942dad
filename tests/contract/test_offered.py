"""What a search names and no server has is refused when it is made: a loss by name, what a table does not hold."""

import pytest

from nasmesh.errors import Invalid, NasmeshError, Unavailable
from nasmesh.v1 import job_pb2, measurement_pb2, search_pb2
from nasmesh.v1 import scheduler_service_pb2 as pb
from tests.builders import scheduling as make
from tests.builders.scheduler_calls import go, refused
from tests.builders.scheduler_server import client, running, scripted

TABLE = "tables/small"


def _create(hello: make.pb.AgentHello, spec: search_pb2.SearchSpec) -> search_pb2.Search:
    """Return the search that a scheduler makes which knows this one agent."""
    found = []

    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, scripted(scheduler.address) as agent:
            await agent.greet(hello)
            found.append((await stub.CreateSearch(pb.CreateSearchRequest(spec=spec))).search)

    go(body())
    return found[0]


def _refused(hello: make.pb.AgentHello, spec: search_pb2.SearchSpec, kind: type[NasmeshError]) -> NasmeshError:
    found = []

    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, scripted(scheduler.address) as agent:
            await agent.greet(hello)
            for validate_only in (True, False):
                request = pb.CreateSearchRequest(spec=spec, validate_only=validate_only)
                found.append(await refused(stub.CreateSearch(request), kind))
            assert not (await stub.ListSearches(pb.ListSearchesRequest())).searches

    go(body())
    first, second = found
    assert (first.reason, first.field, first.message) == (second.reason, second.field, second.message)
    return second


def _trainer(*losses: str) -> make.pb.AgentHello:
    hello = make.make_hello("one")
    hello.server.losses.extend(losses)
    return hello


def test_loss_when_no_train_server_has_it_then_absent_with_those_that_are() -> None:
    spec = make.make_spec()
    spec.train.loss = "focl"
    error = _refused(_trainer("cross_entropy", "focal"), spec, Unavailable)
    assert (error.reason, error.field) == ("LOSS_ABSENT", "spec.train.loss")
    assert "no train server has a loss focl (they have cross_entropy, focal); did you mean focal?" in error.message
    assert "start that server again" in error.message
    spec.train.loss = "focal"
    assert _create(_trainer("cross_entropy", "focal"), spec).spec.train.loss == "focal"


def test_loss_when_only_the_final_training_names_it_then_that_field_is_named() -> None:
    spec = make.make_spec(final=True)
    spec.final.train.loss = "focal"
    error = _refused(_trainer("cross_entropy"), spec, Unavailable)
    assert (error.reason, error.field) == ("LOSS_ABSENT", "spec.final.train.loss")


def test_loss_when_a_server_does_not_name_its_losses_or_trains_nothing_then_somebody_may_have_it() -> None:
    spec = make.make_spec()
    spec.train.loss = "focal"
    assert _create(_trainer(), spec).name
    others = (search_pb2.TASK_KIND_GENERATE, search_pb2.TASK_KIND_EVALUATE)
    assert _create(make.make_hello("one", kinds=others), spec).name


def _table_server(*, splits: tuple[str, ...] = ("VALIDATION", "TEST"), told: bool = True) -> make.pb.AgentHello:
    hello = make.make_hello("one")
    hello.server.tables.append(TABLE)
    hello.server.generators[0].spaces.append("cell")
    if told:
        held = job_pb2.BenchmarkTable(name=TABLE, dataset="datasets/digits", trainings=3)
        held.space.chain.min_layers = 1
        for split in splits:
            held.figures.add(metric="accuracy", split=measurement_pb2.Split.Value(f"SPLIT_{split}"))
        held.figures.add(metric="latency_p50")
        hello.server.table_contents.append(held)
    return hello


def _table_spec() -> search_pb2.SearchSpec:
    spec = make.make_spec()
    spec.ClearField("train")
    spec.evaluate.table = TABLE
    spec.objectives.add(metric="parameters", goal=search_pb2.GOAL_MINIMIZE)
    spec.constraints.add(metric="latency_p50", max=5)
    return spec


def _other_data(spec: search_pb2.SearchSpec) -> None:
    spec.data.dataset = "datasets/synthetic"


def _other_space(spec: search_pb2.SearchSpec) -> None:
    spec.space.cell.nodes = 3


def _seed(spec: search_pb2.SearchSpec) -> None:
    spec.evaluate.table_seed = 3


def _bound(spec: search_pb2.SearchSpec) -> None:
    spec.constraints.add(metric="ece", max=0.5)


def _final(spec: search_pb2.SearchSpec) -> None:
    spec.final.top_k = 1


@pytest.mark.parametrize(
    ("change", "splits", "reason", "field", "told"),
    [
        (_other_data, ("VALIDATION",), "TABLE_DATA_MISMATCH", "spec.data.dataset", "made with datasets/digits, not"),
        (_other_space, ("VALIDATION",), "TABLE_SPACE_MISMATCH", "spec.space", "of a chain space, not cell"),
        (_seed, ("VALIDATION",), "TABLE_SEED_ABSENT", "spec.evaluate.table_seed", "use 0 to 2, or -1 for their mean"),
        (_bound, ("VALIDATION",), "TABLE_METRIC_ABSENT", "spec.constraints[1].metric", "it has accuracy, latency_p50,"),
        (_final, ("VALIDATION",), "TABLE_SPLIT_ABSENT", "spec.final", "only on SPLIT_VALIDATION; leave final out"),
        (lambda _: None, ("TEST",), "TABLE_SPLIT_ABSENT", "spec.evaluate.table", "use another table"),
    ],
)
def test_table_when_it_cannot_answer_the_search_then_refused_with_what_it_holds(change, splits, reason, field, told):
    spec = _table_spec()
    change(spec)
    error = _refused(_table_server(splits=splits), spec, Invalid)
    assert (error.reason, error.field) == (reason, field)
    assert f"{TABLE} " in error.message
    assert told in error.message
    assert _create(_table_server(told=False), spec).name  # one that does not say what is in it may hold it


def test_table_when_it_holds_what_the_search_asks_for_then_made() -> None:
    spec = _table_spec()
    spec.final.top_k = 1
    spec.evaluate.table_seed = 2
    assert _create(_table_server(), spec).name


def test_table_when_one_of_two_servers_holds_enough_of_it_then_made() -> None:
    spec = _table_spec()
    spec.final.top_k = 1
    short, whole = _table_server(splits=("VALIDATION",)), _table_server()
    whole.agent = "agents/two"

    async def body() -> None:
        async with (
            running() as scheduler,
            client(scheduler.address) as stub,
            scripted(scheduler.address) as one,
            scripted(scheduler.address) as two,
        ):
            await one.greet(short)
            await two.greet(whole)
            assert (await stub.CreateSearch(pb.CreateSearchRequest(spec=spec))).search.name

    go(body())
