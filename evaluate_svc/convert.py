"""Between jobs and the messages of the evaluate contract; and what a start request must satisfy."""

from evaluate_svc import further, torch_engine
from nasmesh import evaluate_config
from nasmesh.data import catalog
from nasmesh.data.load import dataset_resources
from nasmesh.errors import Invalid
from nasmesh.host import describe_server, package_version
from nasmesh.jobs.table import JobView
from nasmesh.store.keys import check_ref
from nasmesh.tables import shelf
from nasmesh.tables.table import Outline
from nasmesh.v1 import evaluate_service_pb2 as pb
from nasmesh.v1 import evaluation_pb2, job_pb2, measurement_pb2


def check_start(request: pb.StartEvaluationRequest) -> pb.StartEvaluationRequest:
    """Return a request that is worth a job.

    Raises Invalid (EVALUATE_CONFIG_INVALID, DATASET_UNKNOWN, DATASET_SPEC_INVALID, OBJECT_REF_INVALID,
    OBJECT_KEY_MISMATCH, ENGINE_ABSENT, METRIC_UNKNOWN), NotFound (TABLE_UNKNOWN).
    """
    if not request.HasField("model"):
        raise Invalid("OBJECT_REF_INVALID", "model: name the trained network to score", field="model")
    check_ref(request.model, field="model")
    catalog.check(request.data, field="data")
    evaluate_config.check(request.config, "config")
    further.check(request.config.metrics)
    if request.config.engine == evaluation_pb2.EVALUATE_ENGINE_TORCH:
        torch_engine.check_present()
    if request.config.table and request.untrained:
        message = "untrained: a table measures nothing; leave it out, or config.table"
        raise Invalid("EVALUATE_CONFIG_INVALID", message, field="untrained")
    if request.config.table:
        shelf.path_of(request.config.table)
    return request


def to_evaluation(view: JobView) -> pb.Evaluation:
    """Return a job as an evaluation."""
    return pb.Evaluation(
        evaluation_id=view.job_id,
        state=view.state,
        progress=pb.EvaluateProgress.FromString(view.progress) if view.progress else None,
        result=pb.EvaluateResult.FromString(view.result) if view.result else None,
        failure=view.failure,
        sequence=view.sequence,
        violation=view.violation,
    )


def server(slots: int) -> job_pb2.Server:
    """Return what this server says of itself."""
    engine = f"onnxruntime {package_version('onnxruntime')}"
    found = describe_server(engine, slots=slots, datasets=dataset_resources())
    found.tables.extend(f"tables/{name}" for name in shelf.names())
    found.metrics.extend(sorted(further.names_known()))
    found.table_contents.extend(_contents(name, table) for name, table in shelf.outlines().items())
    return found


def _contents(name: str, table: Outline) -> job_pb2.BenchmarkTable:
    return job_pb2.BenchmarkTable(
        name=f"tables/{name}",
        dataset=table.about.dataset,
        trainings=table.trainings,
        figures=[
            job_pb2.TableFigure(metric=metric, split=measurement_pb2.Split.ValueType(split))
            for metric, split in table.figures
        ],
        space=table.space,
    )
