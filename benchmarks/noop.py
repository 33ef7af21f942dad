"""A search whose work is nothing: its spec, its agents and their outcomes, so that only orchestration is measured."""

import hashlib
from collections.abc import Sequence
from typing import TypeAlias

from nasmesh import __version__
from nasmesh.v1 import dataset_pb2, measurement_pb2, object_pb2, search_pb2
from nasmesh.v1 import dispatch_service_pb2 as pb

GENERATOR = "generators/nothing"
DATASET = "datasets/digits"
OTHER_DATASET = "datasets/fashion-mnist"
GENERATE = search_pb2.TASK_KIND_GENERATE
TRAIN = search_pb2.TASK_KIND_TRAIN
EVALUATE = search_pb2.TASK_KIND_EVALUATE
Kind: TypeAlias = search_pb2.TaskKind.ValueType


def spec(*, max_trials: int, parallelism: int, dataset: str = DATASET) -> search_pb2.SearchSpec:
    """Return a search of networks that nobody builds."""
    result = search_pb2.SearchSpec(parallelism=parallelism, seed=7)
    result.data.dataset = dataset
    result.generator.generator = GENERATOR
    result.space.chain.min_layers = 1
    result.space.chain.max_layers = 3
    result.space.chain.kernels.extend([3])
    result.space.chain.channels.extend([8, 16])
    result.objectives.add(metric="accuracy", goal=search_pb2.GOAL_MAXIMIZE)
    result.budget.max_trials = max_trials
    result.train.steps = 10
    result.cache = search_pb2.CACHE_MODE_REPEAT  # networks come again: what is measured is doing them
    return result


def hello(name: str, kinds: Sequence[Kind], *, slots: int = 1, ahead: int = 0, dataset: str = DATASET) -> pb.AgentHello:
    """Return how an agent introduces itself; a data set of its own keeps it to the searches on that."""
    message = pb.AgentHello(agent=f"agents/{name}", version=__version__, accepts_batches=True)
    for kind in kinds:
        message.slots.add(kind=kind, slots=slots, ahead=ahead)
    message.server.engine = "nothing"
    message.server.datasets.append(dataset_pb2.Dataset(name=dataset, available=True))
    if GENERATE in kinds:
        generator = message.server.generators.add(name=GENERATOR, version="1", spaces=["chain"])
        generator.settings_schema.update({"type": "object"})
    return message


class Outcomes:
    """Makes a good outcome of any lease; what does not depend on the lease is made once."""

    def __init__(self, *, in_flight_below: int, at_most: int = 0) -> None:
        """Answer for a generator that wants to be asked while fewer trials than this are in flight.

        It proposes as many as it is asked for, or `at_most` at once.
        """
        self._in_flight_below = in_flight_below
        self._at_most = at_most
        self._train = pb.AttemptOutcome()
        self._train.train.checkpoint.CopyFrom(_object("trained", "checkpoints"))
        self._train.train.measurements.add(metric="train_loss", value=0.5, split=measurement_pb2.SPLIT_TRAIN)
        self._train.train.device_time_s = 0.001
        self._evaluate = pb.AttemptOutcome()
        found = self._evaluate.evaluate.measurements.add(metric="accuracy", split=measurement_pb2.SPLIT_VALIDATION)
        found.value = 0.5
        self._evaluate.evaluate.device_time_s = 0.001

    def of(self, lease: pb.Lease) -> pb.AttemptOutcome:
        """Return the outcome of a lease; valid until the next call."""
        kind = lease.WhichOneof("work")
        if kind == "generate":
            return self._proposals(lease)
        outcome = self._train if kind == "train" else self._evaluate
        outcome.token.CopyFrom(lease.token)
        return outcome

    def _proposals(self, lease: pb.Lease) -> pb.AttemptOutcome:
        request = lease.generate.request
        outcome = pb.AttemptOutcome(token=lease.token)
        outcome.generate.generator_version = "1"
        outcome.generate.state = str(request.call).encode()
        outcome.generate.next_call.in_flight_below = self._in_flight_below
        for index in range(min(request.count, self._at_most or request.count)):
            network = outcome.generate.trials.add(proposal_id=f"{request.call}-{index}").network
            network.object.CopyFrom(_object(f"{request.search} {request.call} {index}", "networks"))
            network.name = f"networks/{network.object.sha256}"
            network.parameters, network.macs = 1000, 5000
        return outcome


def _object(text: str, kind: str) -> object_pb2.ObjectRef:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return object_pb2.ObjectRef(key=f"{kind}/sha256/{digest[:2]}/{digest}.onnx", sha256=digest, size_bytes=100)
