"""One training, assembled: everything that a job holds in memory, made from its request before the first step."""

import hashlib
from dataclasses import dataclass, field, replace

import onnx
import torch
from torch import fx

from nasmesh import training_config
from nasmesh.clock import Clock, derive_seed
from nasmesh.data.load import Splits, load
from nasmesh.data.preprocessing import Preprocessing, from_metadata
from nasmesh.errors import Invalid
from nasmesh.model.admission import admit
from nasmesh.model.engine.checkpoint import Checkpoint, load_checkpoint
from nasmesh.model.engine.convert import to_module
from nasmesh.model.engine.modules import Dropout
from nasmesh.model.metadata import DROP_PATH_KEY, metadata_value, named_values
from nasmesh.settings import home
from nasmesh.store.base import ObjectStore
from nasmesh.v1 import object_pb2, search_pb2, training_pb2
from nasmesh.v1 import train_service_pb2 as pb
from train_svc import compiling, compute, networks
from train_svc.agreement import check_config, check_fits
from train_svc.averaging import Average
from train_svc.feed import Feed, learned, training_rows
from train_svc.hooks import Alone, Hooks, Team
from train_svc.inheritance import take_weights
from train_svc.instruments import Instruments, attach
from train_svc.losses import Loss, loss_of
from train_svc.optimizer import Optimizer, undecayed_names
from train_svc.paths import Paths, insert_paths
from train_svc.samples import place_samples
from train_svc.scaling import LossScale
from train_svc.schedule import Length, training_length

# Version of the scalars in a checkpoint; one of another version is not continued.
SNAPSHOT_VERSION = 2


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

    `module` holds the state, `forward` computes with it, compiled or not. `epoch` tallies the epoch in work,
    `last_epoch` the last complete one. `validated` is what was last measured on the validation split, by metric, and
    after which update. `inherited` is what initial weights gave.
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
    forward: compiling.Forward
    loss: Loss
    inherited: search_pb2.InheritanceReport | None = None
    choice: compute.Choice = field(default_factory=compute.Choice)
    hooks: Hooks = field(default_factory=Hooks)
    team: Team = field(default_factory=Alone)
    paths: Paths | None = None
    scale: LossScale | None = None
    step: int = 0
    elapsed_s: float = 0.0
    epoch: Tally = field(default_factory=Tally)
    last_epoch: Tally = field(default_factory=Tally)
    validated: tuple[int, dict[str, float]] = (0, {})
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
    check_config(config, splits.info)
    loss = loss_of(config, splits.info.task)
    admitted = networks.take(store, request.network)
    model = admitted.model
    check_fits(model, splits.info)
    threads = compute.prepare(config.compute, macs_per_step=admitted.counts.macs * config.batch_size)
    device = compute.best_device()
    module = to_module(model, seed=derive_seed(config.seed, "weights"))
    inherited = None
    if request.HasField("initial_weights") and resumed is None:
        inherited = take_weights(module, fetch_checkpoint(store, request.initial_weights))
    paths = _drop_paths(module.to(device), model, config, device)
    drops_out = _set_dropout(module, config) or paths is not None
    entries = {prop.key: prop.value for prop in model.metadata_props}
    preprocessing = from_metadata(entries, channels=splits.samples.dims[0])
    feed = _feed(splits, config, preprocessing, device)
    length = training_length(config, samples=feed.samples, batch_size=feed.batch_size)
    instruments = attach(module, request.instrumentation, total_steps=length.total_steps)
    question = f"{request.network.sha256} {feed.batch_size // feed.parts} {threads} {device}"
    probed = _Probed(module, feed, length, question, observed=bool(request.instrumentation.probes))
    recorded = _recorded_arithmetic(resumed, identity) if resumed is not None else None
    choice = recorded or _choose_arithmetic(_policy(config), probed, clock)
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
        inherited=inherited,
        forward=compiling.compiled(module) if choice.compiled else module,
        loss=loss,
        choice=choice,
        hooks=Hooks([instruments.before_step], [instruments.after_backward], [instruments.after_step]),
        paths=paths,
        scale=LossScale(device) if choice.precision == "float16" else None,
        drops_out=drops_out,
    )


def _feed(splits: Splits, config: training_pb2.TrainConfig, preprocessing: Preprocessing, device: torch.device) -> Feed:
    """Return the batches of what is trained on."""
    rows = training_rows(splits, config)
    return Feed(place_samples(splits.samples, rows, device), learned(splits, rows, device), config, preprocessing)


def fetch_checkpoint(store: ObjectStore, ref: object_pb2.ObjectRef) -> Checkpoint:
    """Return a stored checkpoint after admission; raises Rejected, NotFound and Unavailable."""
    content = store.get(ref)
    admit(content, checkpoint=True)
    return load_checkpoint(content)


@dataclass(frozen=True, slots=True)
class _Probed:
    """What arithmetic is chosen for; `question` names all of it that timings depend on."""

    module: fx.GraphModule
    feed: Feed
    length: Length
    question: str
    observed: bool


def _policy(config: training_pb2.TrainConfig) -> training_pb2.ComputePolicy:
    """Return how arithmetic may be done; what several processes compute together is not compiled."""
    if config.distribution.processes <= 1:
        return config.compute
    policy = training_pb2.ComputePolicy()
    policy.CopyFrom(config.compute)
    policy.compile = training_pb2.COMPILE_MODE_NEVER
    return policy


def _choose_arithmetic(policy: training_pb2.ComputePolicy, probed: _Probed, clock: Clock) -> compute.Choice:
    options = compute.candidates(policy, total_steps=probed.length.total_steps)
    if len(options) == 1 and policy.compile == training_pb2.COMPILE_MODE_NEVER:
        return options[0]
    parts = probed.feed.parts  # one of them, as in training: all of a batch may be more than memory holds
    x = probed.feed.batch(probed.feed.draw(0), 0, parts=parts).x
    choice, directory = options[0], home() / "probes"
    if len(options) > 1:
        memory = compute.ProbeMemory(directory, f"{probed.question} {options}")
        measure = compute.probe_seconds(probed.module, x, compute.timer_of(x.device, clock))
        choice = compute.fastest(options, measure, memory)
    asked = compiling.Question(probed.module, choice, x, probed.length.total_steps * parts, probed.observed)
    memory = compute.ProbeMemory(directory, f"compile {probed.question} {choice}")
    return replace(choice, compiled=compiling.worthwhile(policy, asked, memory, clock))


def _recorded_arithmetic(checkpoint: Checkpoint, identity: str) -> compute.Choice:
    """Return the arithmetic of a checkpoint; raises Invalid (CHECKPOINT_MISMATCH) where it is of another training."""
    scalars = checkpoint.scalars
    if scalars.get("version") != SNAPSHOT_VERSION or scalars.get("identity") != identity:
        raise Invalid(
            "CHECKPOINT_MISMATCH",
            "resume_from: the checkpoint is of another training; leave it out, or use it as initial_weights",
            field="resume_from",
        )
    return compute.Choice(str(scalars["precision"]), str(scalars["layout"]), bool(scalars["compiled"]))


def _drop_paths(
    module: fx.GraphModule, model: onnx.ModelProto, config: training_pb2.TrainConfig, device: torch.device
) -> Paths | None:
    """Put drop-path behind the network's marks; raises Invalid (TRAIN_CONFIG_INVALID) where none were asked for."""
    marks = named_values(model, DROP_PATH_KEY)
    if config.drop_path_rate and metadata_value(model, DROP_PATH_KEY) is None:
        message = (
            "config.drop_path_rate: this network was built without drop-path marks; set drop_path in its space (cell,"
            " envelope), mark edges of an architecture of your own (Edge.drop_path), or leave the rate unset"
        )
        raise Invalid("TRAIN_CONFIG_INVALID", message, field="config.drop_path_rate")
    return insert_paths(module, marks, config.drop_path_rate, device)


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
