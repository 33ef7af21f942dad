"""Train and evaluate jobs in this process: requests, a context that records, and networks small enough for a second."""

from collections.abc import Callable

from nasmesh.clock import ManualClock, SystemClock
from nasmesh.jobs.context import Cancelled
from nasmesh.model.encode import to_bytes
from nasmesh.model.lower import lower
from nasmesh.store.keys import ObjectKind
from nasmesh.store.memory import MemoryStore
from nasmesh.v1 import architecture_pb2, dataset_pb2, object_pb2, training_pb2
from nasmesh.v1 import train_service_pb2 as pb
from tests.builders.architectures import activation, architecture, block, conv
from train_svc import job

DIGITS = dataset_pb2.DatasetSpec(dataset="datasets/digits")


class Context:
    """A job's context that keeps marks and calls `on_mark(progress, checkpoint)`, which may cancel or raise."""

    job_id = "job"
    memory_bytes = 0
    clock: ManualClock | None = None

    def __init__(self, on_mark: Callable[["Context"], None] = lambda _: None) -> None:
        self.marks: list[tuple[pb.TrainProgress, object_pb2.ObjectRef | None]] = []
        self.cancelled = False
        self._on_mark = on_mark

    def report(self, progress, *, checkpoint=None):
        self.marks.append((progress, checkpoint))
        self._on_mark(self)

    def wait(self, seconds):
        """Return at once; a clock that is set by hand moves on by the time."""
        if self.clock is not None:
            self.clock.advance(seconds)
        return self.cancelled

    def raise_if_cancelled(self):
        if self.cancelled:
            raise Cancelled

    @property
    def checkpoints(self) -> list[object_pb2.ObjectRef]:
        return [checkpoint for _, checkpoint in self.marks if checkpoint is not None]


def tiny(
    dims: tuple[int, ...] = (1, 8, 8), classes: int = 10, *, dropout: float = 0.1
) -> architecture_pb2.Architecture:
    """Two convolution units with a scaled skip, dropout and batch norm; 700 parameters."""
    first = architecture_pb2.ConvUnit(
        conv=conv(6, stride=2),
        norm=architecture_pb2.BatchNorm(scale=True, offset=True),
        activation=activation(),
        order=architecture_pb2.CONV_ORDER_CONV_NORM_ACT,
        dropout=architecture_pb2.Dropout(rate=dropout),
    )
    second = architecture_pb2.ConvUnit(conv=conv(12), norm=first.norm, activation=activation(), order=first.order)
    joined = architecture_pb2.Block(
        id="b",
        inputs=[
            architecture_pb2.Edge(source="a"),
            architecture_pb2.Edge(
                source="x",
                scale=architecture_pb2.EdgeScale(init_mean=0.5, init_std=0.01),
                resize=architecture_pb2.RESIZE_MAX_POOL_2X2,
            ),
        ],
        merge=architecture_pb2.MERGE_CONCAT,
        operation=architecture_pb2.Operation(conv_unit=second),
    )
    result = architecture(
        dims,
        "fc",
        block("a", "x", conv_unit=first),
        joined,
        block("gap", "b", global_pool=architecture_pb2.GlobalPool(kind=architecture_pb2.POOL_KIND_AVERAGE)),
        block("fc", "gap", linear=architecture_pb2.Linear(features=classes, bias=True)),
    )
    result.preprocessing.mean.extend([0.3] * dims[0])
    result.preprocessing.std.extend([0.4] * dims[0])
    return result


def headed() -> architecture_pb2.Architecture:
    """The tiny network with an auxiliary classifier on its first block, and a branch that training may drop."""
    result = tiny()
    result.blocks[1].inputs[0].drop_path = True
    pooled = architecture_pb2.GlobalPool(kind=architecture_pb2.POOL_KIND_AVERAGE)
    result.blocks.append(block("gap2", "a", global_pool=pooled))
    result.blocks.append(block("fc2", "gap2", linear=architecture_pb2.Linear(features=10, bias=True)))
    result.auxiliary_outputs.append("fc2")
    return result


def plain() -> architecture_pb2.Architecture:
    """A network whose samples do not see each other: no batch norm, no dropout."""
    unit = architecture_pb2.ConvUnit(
        conv=conv(6, stride=2), activation=activation(), order=architecture_pb2.CONV_ORDER_CONV_NORM_ACT
    )
    result = architecture(
        (1, 8, 8),
        "fc",
        block("a", "x", conv_unit=unit),
        block("gap", "a", global_pool=architecture_pb2.GlobalPool(kind=architecture_pb2.POOL_KIND_AVERAGE)),
        block("fc", "gap", linear=architecture_pb2.Linear(features=10, bias=True)),
    )
    result.preprocessing.mean.append(0.3)
    result.preprocessing.std.append(0.4)
    return result


def flat() -> architecture_pb2.Architecture:
    """Pixels to logits: what the compiler needs least time for."""
    result = architecture(
        (1, 8, 8),
        "fc",
        block("pixels", "x", flatten=architecture_pb2.Flatten()),
        block("fc", "pixels", linear=architecture_pb2.Linear(features=10, bias=True)),
    )
    result.preprocessing.mean.append(0.3)
    result.preprocessing.std.append(0.4)
    return result


def stored(store: MemoryStore, network: architecture_pb2.Architecture | None = None) -> object_pb2.ObjectRef:
    """Put a network's object and return its reference."""
    return store.put(ObjectKind.NETWORK, to_bytes(lower(network or tiny())))


def request(network: object_pb2.ObjectRef, *, training_id: str = "t", **config: object) -> pb.StartTrainingRequest:
    """Return a short training of digits; `config` are fields of TrainConfig."""
    config.setdefault("batch_size", 100)
    if "epochs" not in config:
        config.setdefault("steps", 30)
    return pb.StartTrainingRequest(
        training_id=training_id, network=network, config=training_pb2.TrainConfig(**config), data=DIGITS
    )


def run(start: pb.StartTrainingRequest, store: MemoryStore, context: Context | None = None) -> pb.TrainResult:
    """Train in this process."""
    return job.train(start, context or Context(), store, SystemClock())
