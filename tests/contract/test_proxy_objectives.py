"""A proxy as an objective of a real scheduler: what agents report of it ranks, and where it is missing is told."""

from nasmesh.errors import Invalid
from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import scheduler_service_pb2 as pb
from nasmesh.v1 import search_pb2, training_pb2
from tests.builders import scheduling as make
from tests.builders.scheduler_calls import SUCCEEDED, go, refused
from tests.builders.scheduler_server import client, create, ended, running, trials_of, working

VALUES = {1: 5.0, 2: None, 3: 80.0, 4: 20.0}


def _spec() -> search_pb2.SearchSpec:
    spec = make.make_spec(max_trials=len(VALUES), parallelism=2)
    spec.objectives[0].metric = "grad_norm"
    spec.instrumentation.proxies.append(training_pb2.ZERO_COST_PROXY_GRAD_NORM)
    return spec


def _measuring(lease: dispatch_pb.Lease) -> dispatch_pb.AttemptOutcome:
    """Answer as an agent whose train server measures the plan's proxy, where the network has a finite one."""
    outcome = make.make_outcome(lease)
    if lease.HasField("train"):
        assert list(lease.train.instrumentation.proxies) == [training_pb2.ZERO_COST_PROXY_GRAD_NORM]
        value = VALUES[int(lease.trial.rpartition("/")[2])]
        if value is not None:
            outcome.train.measurements.add(metric="grad_norm", value=value)
    return outcome


def test_search_when_a_proxy_is_its_objective_then_the_measured_value_ranks_and_a_missing_one_fails_once() -> None:
    scored = []

    def script(lease: dispatch_pb.Lease) -> dispatch_pb.AttemptOutcome:
        if lease.HasField("evaluate"):
            scored.append(lease.trial)
        return _measuring(lease)

    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, working(scheduler.address, script):
            search = await ended(stub, (await create(stub, _spec())).name)
            assert (search.state, search.best_trial) == (SUCCEEDED, f"{search.name}/trials/3")
            assert "best is trial 3 with grad_norm 80" in search.reason
            second = (await trials_of(stub, search.name))[1]
            assert (second.outcome, second.failure.reason) == (search_pb2.TRIAL_OUTCOME_FAILED, "PROXY_UNDEFINED")
            assert sorted(scored) == [f"{search.name}/trials/{number}" for number in VALUES]

    go(body())


def test_create_when_no_plan_measures_the_proxy_then_refused_with_the_plan() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, working(scheduler.address):
            await create(stub, make.make_spec())
            spec = _spec()
            spec.ClearField("instrumentation")
            error = await refused(stub.CreateSearch(pb.CreateSearchRequest(spec=spec)), Invalid)
            assert [violation.field for violation in error.violations] == ["spec.objectives[0].metric"]
            assert "instrumentation.proxies: [ZERO_COST_PROXY_GRAD_NORM]" in error.message

    go(body())
