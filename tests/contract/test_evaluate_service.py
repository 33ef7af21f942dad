"""EvaluateService over real gRPC, with evaluations in real child processes."""

import json

import pytest

from evaluate_svc.service import EvaluateServicer
from nasmesh import spaces
from nasmesh.agent.attempt import Attempt
from nasmesh.agent.drivers.evaluate import EvaluateDriver
from nasmesh.agent.spool import Spool
from nasmesh.agent.targets import LocalTarget
from nasmesh.errors import Conflict, Invalid, NotFound
from nasmesh.jobs.table import ChildLimits, JobTable, Memory
from nasmesh.model.encode import to_bytes
from nasmesh.model.engine.checkpoint import write_back
from nasmesh.model.engine.convert import to_module
from nasmesh.model.lower import lower
from nasmesh.rpc.channel import errors_from_rpc
from nasmesh.rpc.server import Service
from nasmesh.store.keys import ObjectKind
from nasmesh.tables import shelf
from nasmesh.v1 import architecture_pb2, dispatch_service_pb2, evaluation_pb2, job_pb2, measurement_pb2
from nasmesh.v1 import evaluate_service_pb2 as pb
from nasmesh.v1 import evaluate_service_pb2_grpc as rpc
from tests.builders import training_jobs as jobs
from tests.builders.serving import serving


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    def service(table):
        return Service("nasmesh.v1.EvaluateService", rpc.add_EvaluateServiceServicer_to_server, EvaluateServicer(table))

    directory = tmp_path_factory.mktemp("evaluate")
    stub = rpc.EvaluateServiceStub
    with serving(directory, noun="evaluation", work="evaluate_svc.job:run", service=service, stub=stub) as running:
        model = lower(jobs.tiny())
        weighted = write_back(model, to_module(model, seed=1).state_dict())
        running.model = running.store.put(ObjectKind.CHECKPOINT, to_bytes(weighted))
        yield running


def _request(server, evaluation_id, **config):
    return pb.StartEvaluationRequest(
        evaluation_id=evaluation_id,
        model=server.model,
        config=evaluation_pb2.EvaluateConfig(latency_runs=5, **config),
        data=jobs.DIGITS,
    )


def _watch(server, evaluation_id):
    request = pb.WatchEvaluationRequest(evaluation_id=evaluation_id)
    return [response.evaluation for response in server.stub.WatchEvaluation(request, timeout=60)]


def test_evaluation_when_started_then_ends_with_measurements(server):
    server.stub.StartEvaluation(_request(server, "whole", split=measurement_pb2.SPLIT_TEST))
    last = _watch(server, "whole")[-1]
    assert last.state == job_pb2.JOB_STATE_SUCCEEDED, last.failure
    assert last.progress.samples == last.progress.total_samples == 359
    found = {m.metric: m for m in last.result.measurements}
    assert found["accuracy"].split == measurement_pb2.SPLIT_TEST
    assert 0 <= found["accuracy"].value < 0.5
    assert found["latency_p50"].value > 0
    assert server.stub.GetEvaluation(pb.GetEvaluationRequest(evaluation_id="whole")).evaluation == last


def test_evaluation_when_started_again_then_is_the_same_and_another_body_is_refused(server):
    server.stub.StartEvaluation(_request(server, "twice", latency=False))
    _watch(server, "twice")
    again = server.stub.StartEvaluation(_request(server, "twice", latency=False)).evaluation
    assert again.state == job_pb2.JOB_STATE_SUCCEEDED
    with pytest.raises(Conflict) as caught, errors_from_rpc():
        server.stub.StartEvaluation(_request(server, "twice", latency=True))
    assert caught.value.reason == "EVALUATION_ID_REUSED"


def test_start_when_the_request_is_wrong_then_names_the_field(server):
    wrong = {
        "config.threads": _request(server, "wrong", threads=0),
        "config.batch_size": _request(server, "wrong", batch_size=-1),
        "data.dataset": _request(server, "wrong"),
        "model": _request(server, "wrong"),
    }
    wrong["data.dataset"].data.dataset = "datasets/nothing"
    wrong["model"].model.sha256 = "0" * 64
    for field, request in wrong.items():
        with pytest.raises(Invalid) as caught, errors_from_rpc():
            server.stub.StartEvaluation(request)
        assert [violation.field for violation in caught.value.violations] == [field]


def test_evaluation_when_the_network_is_weightless_then_fails_with_the_reason(server):
    request = _request(server, "weightless")
    request.model.CopyFrom(jobs.stored(server.store))
    server.stub.StartEvaluation(request)
    last = _watch(server, "weightless")[-1]
    assert (last.state, last.failure.reason) == (job_pb2.JOB_STATE_FAILED, "NETWORK_WEIGHTLESS")
    assert not last.failure.retryable


def test_evaluation_when_it_wants_more_memory_than_there_is_then_outside_with_numbers(server, tmp_path):
    most = 32 << 20  # less than what a child holds that has imported its work
    limits, memory = ChildLimits(memory_bytes=most), Memory(metric="evaluate_memory_bytes", each=most)
    table = JobTable(
        work="evaluate_svc.job:run",
        slots=1,
        directory=tmp_path / "jobs",
        environment={"NASMESH_HOME": str(tmp_path), "NASMESH_STORE": f"dir:{server.directory / 'objects'}"},
        limits=limits,
        memory=memory,
    )
    lease = dispatch_service_pb2.Lease(token={"task": "large", "attempt": 1, "epoch": 1})
    lease.evaluate.model.CopyFrom(server.model)
    lease.evaluate.data.CopyFrom(jobs.DIGITS)
    lease.evaluate.config.latency_runs = 100_000  # it is at work when somebody looks at what it holds
    target = LocalTarget(EvaluateServicer(table))
    found = EvaluateDriver(target).run(Attempt(lease, spool=Spool(tmp_path / "agent"), reported=lambda: None))
    (ended,) = table.list()
    assert (ended.state, ended.failure.reason) == (job_pb2.JOB_STATE_FAILED, "CHILD_OUT_OF_MEMORY")
    bound = found.infeasible.constraint
    assert (bound.metric, bound.max, found.infeasible.value > most) == ("evaluate_memory_bytes", most, True)
    table.close()


def test_evaluation_when_cancelled_and_deleted_then_is_unknown(server):
    server.stub.StartEvaluation(_request(server, "gone", batch_size=1))
    server.stub.CancelEvaluation(pb.CancelEvaluationRequest(evaluation_id="gone"))
    assert _watch(server, "gone")[-1].state in (job_pb2.JOB_STATE_CANCELLED, job_pb2.JOB_STATE_SUCCEEDED)
    server.stub.DeleteEvaluation(pb.DeleteEvaluationRequest(evaluation_id="gone"))
    with pytest.raises(NotFound) as caught, errors_from_rpc():
        server.stub.GetEvaluation(pb.GetEvaluationRequest(evaluation_id="gone"))
    assert caught.value.reason == "EVALUATION_UNKNOWN"


def test_list_and_server_when_asked_then_answer(server):
    server.stub.StartEvaluation(_request(server, "listed", latency=False))
    _watch(server, "listed")
    page = server.stub.ListEvaluations(pb.ListEvaluationsRequest(page_size=1))
    assert [one.evaluation_id for one in page.evaluations] == ["listed"]
    about = server.stub.GetServer(pb.EvaluateServiceGetServerRequest()).server
    assert about.engine.startswith("onnxruntime 1.")
    with pytest.raises(Invalid) as caught, errors_from_rpc():
        server.stub.ListEvaluations(pb.ListEvaluationsRequest(page_token="!"))
    assert caught.value.reason == "PAGE_TOKEN_INVALID"


def test_evaluation_when_all_is_asked_for_then_a_real_child_measures_it(server):
    """Where nothing may be unpickled: neither quantisation, nor PyTorch, nor the measuring of memory needs it."""
    asked = {"metrics": ["macro_f1"], "throughput_batch_sizes": [16], "memory": True}
    whole = _request(server, "everything", quantization=evaluation_pb2.QUANTIZATION_STATIC, **asked)
    server.stub.StartEvaluation(whole)
    last = _watch(server, "everything")[-1]
    assert last.state == job_pb2.JOB_STATE_SUCCEEDED, last.failure
    found = {m.metric: m.value for m in last.result.measurements}
    wanted = {"macro_f1", "throughput_b16", "peak_memory_bytes", "int8_accuracy", "int8_size_bytes", "int8_latency_p50"}
    assert wanted | {"accuracy_low", "accuracy_high", "ece"} <= found.keys()
    assert json.loads(server.store.get(last.result.report))["samples"] == last.progress.samples
    assert len(server.store.get(last.result.quantized)) == found["int8_size_bytes"]
    server.stub.StartEvaluation(_request(server, "torch", engine=evaluation_pb2.EVALUATE_ENGINE_TORCH, latency=False))
    by_torch = _watch(server, "torch")[-1]
    assert by_torch.state == job_pb2.JOB_STATE_SUCCEEDED, by_torch.failure
    accuracy = next(m.value for m in by_torch.result.measurements if m.metric == "accuracy")
    assert accuracy == pytest.approx(found["accuracy"], abs=0.01)


def _table_request(server, evaluation_id, **config):
    """Ask our own table for one of its networks."""
    table = shelf.load("tables/digits-cell")
    network = spaces.build(
        table.space,
        table.values_of(88),
        input_dims=(1, 8, 8),
        classes=10,
        preprocessing=architecture_pb2.Preprocessing(),
    )
    return pb.StartEvaluationRequest(
        evaluation_id=evaluation_id,
        model=jobs.stored(server.store, network),
        config=evaluation_pb2.EvaluateConfig(table="tables/digits-cell", **config),
        data=jobs.DIGITS,
        choices=table.values_of(88),
    )


@pytest.mark.parametrize("split", [measurement_pb2.SPLIT_VALIDATION, measurement_pb2.SPLIT_TEST])
def test_evaluation_when_a_table_is_asked_then_it_answers_with_what_training_cost(server, split):
    table = shelf.load("tables/digits-cell")
    name = f"table-{split}"
    server.stub.StartEvaluation(_table_request(server, name, split=split, table_seed=3))
    last = _watch(server, name)[-1]
    assert last.state == job_pb2.JOB_STATE_SUCCEEDED, last.failure
    found = {m.metric: m for m in last.result.measurements}
    assert found["accuracy"].value == table.value(("accuracy", split), 88, 3)
    assert found["accuracy"].split == split
    assert found["parameters"].value == table.parameters[88]
    assert last.result.device_time_s == table.cost_s(88, 3)
    assert last.result.environment["table"] == "tables/digits-cell"
    assert not last.result.HasField("report")


def test_evaluation_when_a_table_cannot_answer_then_says_why(server):
    other = _table_request(server, "t-data")
    other.data.dataset = "datasets/fashion-mnist"
    unnamed = _table_request(server, "t-unnamed")
    unnamed.ClearField("choices")
    wrong = _table_request(server, "t-network")
    wrong.model.CopyFrom(jobs.stored(server.store))
    absent = _table_request(server, "t-seed", table_seed=5)
    requests = {
        "TABLE_DATA_MISMATCH": other,
        "NETWORK_NOT_IN_TABLE": wrong,
        "TABLE_SEED_ABSENT": absent,
    }
    for reason, request in requests.items():
        server.stub.StartEvaluation(request)
        last = _watch(server, request.evaluation_id)[-1]
        assert (last.state, last.failure.reason) == (job_pb2.JOB_STATE_FAILED, reason)
        assert not last.failure.retryable
    server.stub.StartEvaluation(unnamed)
    assert _watch(server, "t-unnamed")[-1].failure.reason == "NETWORK_NOT_IN_TABLE"
    request = _table_request(server, "t-unknown")
    request.config.table = "tables/nothing"
    with pytest.raises(NotFound) as caught, errors_from_rpc():
        server.stub.StartEvaluation(request)
    assert caught.value.reason == "TABLE_UNKNOWN"


def test_start_when_a_metric_is_unknown_here_then_refused_at_once(server):
    with pytest.raises(Invalid) as caught, errors_from_rpc():
        server.stub.StartEvaluation(_request(server, "metric", metrics=["brier", "perplexity"]))
    assert caught.value.reason == "METRIC_UNKNOWN"
    assert [violation.field for violation in caught.value.violations] == ["config.metrics[1]"]
