"""Work for toy servers' children: a tenth of a second, with a checkpoint in the middle, and always the same results."""

import re
import threading

from nasmesh.jobs.context import JobContext
from nasmesh.v1 import dispatch_service_pb2, evaluate_service_pb2, train_service_pb2
from tests.builders import scheduling as make

WORK_S = 0.06
_JOB = re.compile(r"(.+)-t(\d+)-(train|evaluate)\b.*")


def lease_of(job_id: str) -> dispatch_service_pb2.Lease:
    """Return as much of the lease of a job as the toy results depend on."""
    found = _JOB.fullmatch(job_id)
    assert found is not None, job_id
    return dispatch_service_pb2.Lease(trial=f"searches/{found[1]}/trials/{found[2]}")


def train(request: bytes, context: JobContext) -> bytes:
    """Train."""
    order = train_service_pb2.StartTrainingRequest.FromString(request)
    lease = lease_of(order.training_id)
    lease.train.config.CopyFrom(order.config)
    lease.train.until_step = order.until_step
    for step in (1, 2):
        threading.Event().wait(WORK_S)
        half = make.make_ref(f"{lease.trial} at {step}", "checkpoints")
        context.report(train_service_pb2.TrainProgress(step=step), checkpoint=half)
        context.raise_if_cancelled()
    return make.train_result(lease).SerializeToString()


def evaluate(request: bytes, context: JobContext) -> bytes:
    """Score."""
    order = evaluate_service_pb2.StartEvaluationRequest.FromString(request)
    threading.Event().wait(WORK_S)
    context.raise_if_cancelled()
    lease = lease_of(order.evaluation_id)
    lease.evaluate.config.CopyFrom(order.config)
    return make.evaluate_result(lease).SerializeToString()
