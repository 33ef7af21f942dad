"""Specs, outcomes and simulated agents for tests of the scheduler."""

import hashlib
from collections.abc import Callable

from nasmesh import __version__
from nasmesh.errors import NasmeshError
from nasmesh.v1 import (
    dataset_pb2,
    evaluate_service_pb2,
    generate_service_pb2,
    job_pb2,
    measurement_pb2,
    object_pb2,
    search_pb2,
    train_service_pb2,
)
from nasmesh.v1 import dispatch_service_pb2 as pb

GENERATOR = "generators/fake"
# A generator so wide proposes the same networks in every search.
WIDE = 64
ALL_KINDS = (search_pb2.TASK_KIND_GENERATE, search_pb2.TASK_KIND_TRAIN, search_pb2.TASK_KIND_EVALUATE)


def make_ref(text: str, kind: str = "networks") -> object_pb2.ObjectRef:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return object_pb2.ObjectRef(key=f"{kind}/sha256/{digest[:2]}/{digest}.onnx", sha256=digest, size_bytes=len(text))


def make_network(text: str) -> search_pb2.Network:
    digest = hashlib.sha256(f"structure {text}".encode()).hexdigest()
    return search_pb2.Network(name=f"networks/{digest}", object=make_ref(text), parameters=1000, macs=5000)


def make_generator(**schema: object) -> generate_service_pb2.Generator:
    generator = generate_service_pb2.Generator(name=GENERATOR, version="1", spaces=["chain", "fixed"])
    generator.settings_schema.update(
        {
            "type": "object",
            "additionalProperties": False,
            "properties": schema or {"width": {"type": "integer", "minimum": 1, "default": 4}},
        }
    )
    return generator


def make_spec(*, max_trials: int = 4, parallelism: int = 2, final: bool = False) -> search_pb2.SearchSpec:
    spec = search_pb2.SearchSpec(parallelism=parallelism, seed=7)
    spec.data.dataset = "datasets/digits"
    spec.generator.generator = GENERATOR
    spec.space.chain.min_layers = 1
    spec.space.chain.max_layers = 3
    spec.space.chain.kernels.extend([3])
    spec.space.chain.channels.extend([8, 16])
    spec.objectives.add(metric="accuracy", goal=search_pb2.GOAL_MAXIMIZE)
    spec.budget.max_trials = max_trials
    spec.train.steps = 10
    if final:
        spec.final.train.steps = 50
    return spec


def make_hello(name: str, *, slots: int = 2, kinds: tuple[int, ...] = ALL_KINDS) -> pb.AgentHello:
    hello = pb.AgentHello(agent=f"agents/{name}", version=__version__)
    for kind in kinds:
        hello.slots.add(kind=search_pb2.TaskKind.ValueType(kind), slots=slots)
    hello.server.CopyFrom(
        job_pb2.Server(
            engine="fake",
            generators=[make_generator()],
            datasets=[dataset_pb2.Dataset(name="datasets/digits", available=True)],
        )
    )
    return hello


def make_measurement(metric: str, value: float, split: int) -> measurement_pb2.Measurement:
    return measurement_pb2.Measurement(metric=metric, value=value, split=measurement_pb2.Split.ValueType(split))


def generate_result(lease: pb.Lease, *, done: bool = False, count: int | None = None) -> pb.GenerateResult:
    """Answer a generate lease with networks of `network_text`; the state counts the results seen."""
    result = pb.GenerateResult(done=done, generator_version="1")
    if lease.HasField("finalize"):
        for source in lease.finalize.sources:
            result.trials.add(network=make_network(f"final of {source.name}"))
        return result
    if lease.HasField("admit"):
        proposal = lease.admit.proposal
        network = make_network(f"admitted {proposal.choices.values.get('network', lease.trial)}")
        result.trials.add(network=network, inherit_from=proposal.inherit_from)
        return result
    request = lease.generate.request
    seen = int(request.state or b"0") + len(request.results)
    result.state = str(seen).encode()
    for index in range(request.count if count is None else count):
        text = network_text(request, index)
        result.trials.add(network=make_network(text), proposal_id=f"{request.call}-{index}")
    return result


def network_text(request: generate_service_pb2.ProposeRequest, index: int) -> str:
    """Return what the bytes of a proposed network are."""
    width = request.settings.fields.get("width")
    family = "wide" if width is not None and width.number_value == WIDE else request.search
    return f"{family} {request.call} {index}"


def train_text(lease: pb.Lease) -> str:
    """Return what the bytes of a checkpoint are: other ones at every rung."""
    until = lease.train.until_step
    return f"{lease.trial} {lease.train.config.seed}" + (f" until {until}" if until else "")


def train_result(lease: pb.Lease) -> train_service_pb2.TrainResult:
    text = train_text(lease)
    return train_service_pb2.TrainResult(
        steps=lease.train.until_step or lease.train.config.steps,
        checkpoint=make_ref(text, "checkpoints"),
        model=make_ref(f"{text} model", "checkpoints"),
        measurements=[make_measurement("train_loss", 0.5, measurement_pb2.SPLIT_TRAIN)],
        device_time_s=1.5,
    )


def evaluate_result(lease: pb.Lease, accuracy: float | None = None) -> evaluate_service_pb2.EvaluateResult:
    number = int(lease.trial.rpartition("/")[2])
    value = (number * 37 % 100) / 100 if accuracy is None else accuracy
    if lease.evaluate.untrained:
        latency = make_measurement("latency_p50", number * 3 % 10, measurement_pb2.SPLIT_UNSPECIFIED)
        return evaluate_service_pb2.EvaluateResult(measurements=[latency], device_time_s=0.125)
    config = lease.evaluate.config
    found = [make_measurement("accuracy", value, config.split)]
    if config.further_split:  # another order than on the split itself
        found.append(make_measurement("accuracy", 1 - value, config.further_split))
    return evaluate_service_pb2.EvaluateResult(measurements=found, device_time_s=0.25)


def make_outcome(lease: pb.Lease) -> pb.AttemptOutcome:
    """Return a good outcome of whatever was leased."""
    outcome = pb.AttemptOutcome(token=lease.token)
    kind = lease.WhichOneof("work")
    if kind == "train":
        outcome.train.CopyFrom(train_result(lease))
    elif kind == "evaluate":
        outcome.evaluate.CopyFrom(evaluate_result(lease))
    else:
        outcome.generate.CopyFrom(generate_result(lease))
    return outcome


def make_failure(
    lease: pb.Lease, reason: str = "CHILD_CRASHED", *, retryable: bool = True, counted: bool = True
) -> pb.AttemptOutcome:
    failure = search_pb2.Failure(reason=reason, message="as told", retryable=retryable, counted=counted)
    return pb.AttemptOutcome(token=lease.token, failure=failure)


def make_infeasible(lease: pb.Lease, *, given: int = 2**30, needed: int = 0) -> pb.AttemptOutcome:
    """Return the outcome of an attempt that found its network too large for the device; `needed` 0: not by how much."""
    bound = search_pb2.Constraint(metric="train_memory_bytes", max=given)
    violation = search_pb2.ConstraintViolation(constraint=bound, value=needed or 3 * given, needed_memory_bytes=needed)
    return pb.AttemptOutcome(token=lease.token, infeasible=violation)


class Recorder:
    """A Session that keeps what it was sent."""

    def __init__(self, tell: Callable[[pb.WorkResponse], None] | None = None) -> None:
        self.sent: list[pb.WorkResponse] = []
        self.error: NasmeshError | None = None
        self._tell = tell

    def send(self, message: pb.WorkResponse) -> None:
        self.sent.append(message)
        if self._tell is not None:
            self._tell(message)

    def close(self, error: NasmeshError) -> None:
        self.error = error
