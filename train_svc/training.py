"""One training, assembled: everything that a job holds in memory, made from its request before the first step."""

import hashlib
from dataclasses import dataclass, field

import onnx
import torch
from torch import fx

from nasmesh import training_config
from nasmesh.clock import Clock, derive_seed
from nasmesh.data.load import Splits, load
from nasmesh.data.preprocessing import Preprocessing, from_metadata
from nasmesh.errors import Invalid, Rejected
from nasmesh.model.admission import admit
from nasmesh.model.engine.checkpoint import Checkpoint, inherit, load_checkpoint
from nasmesh.model.engine.convert import to_module
from nasmesh.model.engine.modules import Dropout
from nasmesh.model.initializers import data_inputs
from nasmesh.settings import home
from nasmesh.store.base import ObjectStore
from nasmesh.v1 import object_pb2, training_pb2
from nasmesh.v1 import train_service_pb2 as pb
from train_svc import compute
from train_svc.averaging import Average
from train_svc.feed import Feed, training_samples
from train_svc.instruments import Instruments, attach
from train_svc.optimizer import Optimizer, undecayed_names
from train_svc.schedule import Length, training_length

# Version of the scalars in a checkpoint; one of another version is not continued.
SNAPSHOT_VERSION = 1


@dataclass(slots=True)
class Tally:
    """Sums over the samples seen since it was last cleared."""

    loss: float = 0.0
    correct: float = 0.0
    samples: float = 0.0

    def add(self, other: "Tally") -> None:
        """Add another tally to this one."""
        self.loss += other.loss
        self.correct += other.correct
        self.samples += other.samples

    @property
    def mean_loss(self) -> float:
        """Mean loss a sample; 0 before the first."""
        return self.loss / self.samples if self.samples else 0.0

    @property
    def accuracy(self) -> float:
        """Share classified right; 0 before the first sample."""
        return self.correct / self.samples if self.samples else 0.0


@dataclass(slots=True)
class Training:
    """One training. `step` counts the updates done; `elapsed_s` the seconds of earlier attempts.

    `epoch` tallies the epoch in work, `last_epoch` the last complete one.
    """

    config: training_pb2.TrainConfig
    identity: str
    model: onnx.ModelProto
    module: fx.GraphModule
    splits: Splits
    preprocessing: Preprocessing
    device: torch.device
    threads: int
    feed: Feed
    length: Length
    optimizer: Optimizer
    average: Average | None
    instruments: Instruments
    choice: compute.Choice = field(default_factory=compute.Choice)
    step: int = 0
    elapsed_s: float = 0.0
    epoch: Tally = field(default_factory=Tally)
    last_epoch: Tally = field(default_factory=Tally)
    drops_out: bool = False


def assemble(
    request: pb.StartTrainingRequest, store: ObjectStore, clock: Clock, *, resumed: Checkpoint | None = None
) -> Training:
    """Return a training at its first step, in the arithmetic of `resumed` where there is one.

    Raises Invalid (TRAIN_CONFIG_INVALID, INSTRUMENTATION_INVALID, CHECKPOINT_MISMATCH), Rejected, NotFound
    (DATASET_ABSENT, OBJECT_MISSING).
    """
    training_config.check(request.config)
    training_config.check_instrumentation(request.instrumentation)
    config = training_config.complete(request.config)
    identity = _identity(request, config)
    splits = load(request.data, store)
    admitted = admit(store.get(request.network), checkpoint=True)
    model = admitted.model
    check_fits(model, splits)
    threads = compute.prepare(config.compute, macs_per_step=admitted.counts.macs * config.batch_size)
    device = compute.best_device()
    module = to_module(model, seed=derive_seed(config.seed, "weights"))
    if request.HasField("initial_weights") and resumed is None:
        inherit(module, fetch_checkpoint(store, request.initial_weights))
    module.to(device)
    drops_out = _set_dropout(module, config)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    preprocessing = from_metadata(entries, channels=splits.samples.dims[0])
    feed = Feed(*training_samples(splits, config, device), config, preprocessing)
    length = training_length(config, samples=feed.samples, batch_size=feed.batch_size)
    instruments = attach(module, request.instrumentation, total_steps=length.total_steps)
    if resumed is None:
        question = f"{request.network.sha256} {feed.batch_size} {threads} {device}"
        choice = _choose_arithmetic(config.compute, module, feed, length, question, clock)
    else:
        choice = _recorded_arithmetic(resumed, identity)
    # Before anything keeps tensors of the module: moving it to another layout replaces them.
    choice.place(module)
    return Training(
        config=config,
        identity=identity,
        model=model,
        module=module,
        splits=splits,
        preprocessing=preprocessing,
        device=device,
        threads=threads,
        feed=feed,
        length=length,
        optimizer=Optimizer(module.named_parameters(), config.optimizer, undecayed=undecayed_names(model)),
        average=Average(module, config.ema_decay) if config.ema_decay else None,
        instruments=instruments,
        choice=choice,
        drops_out=drops_out,
    )


def fetch_checkpoint(store: ObjectStore, ref: object_pb2.ObjectRef) -> Checkpoint:
    """Return a stored checkpoint after admission; raises Rejected, NotFound and Unavailable."""
    content = store.get(ref)
    admit(content, checkpoint=True)
    return load_checkpoint(content)


def _choose_arithmetic(
    policy: training_pb2.ComputePolicy, module: fx.GraphModule, feed: Feed, length: Length, question: str, clock: Clock
) -> compute.Choice:
    options = compute.candidates(policy, total_steps=length.total_steps)
    if len(options) == 1:
        return options[0]
    memory = compute.ProbeMemory(home() / "probes", f"{question} {options}")
    return compute.fastest(options, compute.probe_seconds(module, feed.batch(feed.draw(0), 0), clock), memory)


def _recorded_arithmetic(checkpoint: Checkpoint, identity: str) -> compute.Choice:
    """Return the arithmetic of a checkpoint; raises Invalid (CHECKPOINT_MISMATCH) where it is of another training."""
    scalars = checkpoint.scalars
    if scalars.get("version") != SNAPSHOT_VERSION or scalars.get("identity") != identity:
        raise Invalid(
            "CHECKPOINT_MISMATCH",
            "resume_from: the checkpoint is of another training; leave it out, or use it as initial_weights",
            field="resume_from",
        )
    return compute.Choice(str(scalars["precision"]), str(scalars["layout"]))


def check_fits(model: onnx.ModelProto, splits: Splits) -> None:
    """Raise Rejected (NETWORK_DATA_MISMATCH) where the network does not take the samples or tell the classes apart."""
    (data_name,) = data_inputs(model)
    data = next(value for value in model.graph.input if value.name == data_name)
    takes = tuple(dim.dim_value for dim in data.type.tensor_type.shape.dim)[1:]
    gives = tuple(dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim)[1:]
    name, dims, classes = splits.info.name, splits.info.sample_dims, splits.info.classes
    # 0 stands for a dimension that the object leaves open.
    if len(takes) != len(dims) or any(have not in (0, want) for have, want in zip(takes, dims, strict=True)):
        message = f"network: it takes samples of {list(takes)}, datasets/{name} has {list(dims)}"
        raise Rejected("NETWORK_DATA_MISMATCH", message, field="network")
    if len(gives) != 1 or gives[0] not in (0, classes):
        message = f"network: it gives logits of {list(gives)}, datasets/{name} has {classes} classes"
        raise Rejected("NETWORK_DATA_MISMATCH", message, field="network")


def _set_dropout(module: fx.GraphModule, config: training_pb2.TrainConfig) -> bool:
    """Apply the rate that replaces the network's own; return whether anything is dropped at all."""
    layers = [layer for layer in module.modules() if isinstance(layer, Dropout)]
    for layer in layers:
        if config.HasField("dropout_rate"):
            layer.rate = config.dropout_rate
    return any(layer.rate > 0 for layer in layers)


def _identity(request: pb.StartTrainingRequest, config: training_pb2.TrainConfig) -> str:
    """Return a digest of all that decides the weights: a checkpoint continues only the training that it is of."""
    kept = training_pb2.TrainConfig()
    kept.CopyFrom(config)
    kept.ClearField("checkpoint_interval_s")
    content = hashlib.sha256(request.network.sha256.encode())
    content.update(request.initial_weights.sha256.encode())
    for message in (kept, request.data, request.instrumentation):
        part = message.SerializeToString(deterministic=True)
        content.update(len(part).to_bytes(8, "big") + part)
    return content.hexdigest()
