"""Between jobs and the messages of the train contract; and what a start request must satisfy before it is a job."""

from nasmesh import training_config
from nasmesh.data import catalog
from nasmesh.data.load import dataset_resources
from nasmesh.errors import Invalid
from nasmesh.host import compute_device, describe_server, package_version
from nasmesh.jobs.table import JobView
from nasmesh.store.keys import check_ref
from nasmesh.training_rules import processes_here
from nasmesh.v1 import job_pb2
from nasmesh.v1 import train_service_pb2 as pb
from train_svc import loss_names
from train_svc.address import check_place

# Longer than any checkpoint takes to write; whoever waits for it should not have to guess.
_LONGEST_GRACE_S = 600.0


def check_start(request: pb.StartTrainingRequest, *, slots: int, gang_address: str = "") -> pb.StartTrainingRequest:
    """Return a request that is worth a job on a server of so many slots that others reach at `gang_address`.

    Raises Invalid (TRAIN_CONFIG_INVALID, DATASET_UNKNOWN, DATASET_SPEC_INVALID, OBJECT_REF_INVALID,
    OBJECT_KEY_MISMATCH, FIELD_INVALID, GANG_REFUSED).
    """
    if not request.HasField("network"):
        raise Invalid("OBJECT_REF_INVALID", "network: name the object to train", field="network")
    for name in ("network", "initial_weights", "resume_from"):
        if request.HasField(name):
            check_ref(getattr(request, name), field=name)
    catalog.check(request.data, field="data")
    training_config.check(request.config, "config")
    processes = slots_of(request)
    if processes > slots:
        message = f"config.distribution.processes: {processes} take as many slots, this server has {slots}"
        raise Invalid("TRAIN_CONFIG_INVALID", message, field="config.distribution.processes")
    loss_names.check_known(request.config.loss)
    if request.until_step < 0:
        message = f"until_step: {request.until_step} is below 0; 0 trains to the end"
        raise Invalid("FIELD_INVALID", message, field="until_step")
    check_place(request, gang_address)
    training_config.check_instrumentation(request.instrumentation, "instrumentation")
    return request


def slots_of(request: pb.StartTrainingRequest) -> int:
    """Return how many slots a training takes: one for each of its processes here."""
    return processes_here(request.config)


def to_training(view: JobView) -> pb.Training:
    """Return a job as a training."""
    return pb.Training(
        training_id=view.job_id,
        state=view.state,
        progress=pb.TrainProgress.FromString(view.progress) if view.progress else None,
        checkpoint=view.checkpoint,
        result=pb.TrainResult.FromString(view.result) if view.result else None,
        failure=view.failure,
        sequence=view.sequence,
        violation=view.violation,
    )


def server(slots: int, memory_bytes: int = 0, gang_address: str = "") -> job_pb2.Server:
    """Return what this server says of itself; `memory_bytes`: what jobs may hold together on the device they use."""
    found = describe_server(f"torch {package_version('torch')}", slots=slots, datasets=dataset_resources())
    for device in found.devices:
        if device.id == compute_device().id:
            device.job_memory_bytes = memory_bytes
    found.gang_address = gang_address
    found.losses.extend(loss_names.names_known())
    return found


def grace_s(request: pb.CancelTrainingRequest) -> float | None:
    """Return how long a cancelled training may take, if its caller says; raises Invalid (FIELD_INVALID)."""
    if not request.HasField("grace"):
        return None
    seconds = request.grace.seconds + request.grace.nanos / 1e9
    if not 0 < seconds <= _LONGEST_GRACE_S:
        raise Invalid("FIELD_INVALID", f"grace: {seconds:g} s is not above 0 and at most 10 minutes", field="grace")
    return seconds
