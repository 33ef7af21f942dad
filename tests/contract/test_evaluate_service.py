"""EvaluateService over real gRPC, with evaluations in real child processes."""

import pytest

from evaluate_svc.service import EvaluateServicer
from nasmesh.errors import Conflict, Invalid, NotFound
from nasmesh.model.encode import to_bytes
from nasmesh.model.engine.checkpoint import write_back
from nasmesh.model.engine.convert import to_module
from nasmesh.model.lower import lower
from nasmesh.rpc.channel import errors_from_rpc
from nasmesh.rpc.server import Service
from nasmesh.store.keys import ObjectKind
from nasmesh.v1 import evaluate_service_pb2 as pb
from nasmesh.v1 import evaluate_service_pb2_grpc as rpc
from nasmesh.v1 import evaluation_pb2, job_pb2, measurement_pb2
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
