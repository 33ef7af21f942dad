"""A whole specification from data, a bound and a time: what a person would write who knows the examples."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clients.cli.display.view import duration_in_words
from nasmesh import spaces
from nasmesh.errors import Invalid
from nasmesh.spaces.envelope_network import encode, initial_network
from nasmesh.v1 import architecture_pb2, dataset_pb2, evaluation_pb2, measurement_pb2, search_pb2, space_pb2
from nasmesh.v1 import training_pb2 as train_pb

# Shares of the time: the search phase, then one final training; the rest is admission, scoring and starting.
SEARCH_SHARE, FINAL_SHARE = 0.4, 0.45
# Multiply-accumulates that a training does in a second on two processor cores, with a margin: only how much of the data
# a search trial sees follows from it; the final training is fitted to what the search measured.
_MACS_PER_S = 4e9
_PASSES = 3.0  # forward and backward
_NAC_TRIALS, _RANDOM_TRIALS = 6, 12
_WIDTHS = (32, 24, 16, 12, 8, 6, 4)
_SMALL = 5000
_NAMES = 12
_TABLE_MACS, _CHAIN_MACS = 50_000, 2_000_000  # where nothing was counted
_PICTURES = (dataset_pb2.SAMPLE_KIND_UNSPECIFIED, dataset_pb2.SAMPLE_KIND_IMAGE)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person says: largest network (0: no bound), seconds for everything, seed, whether in 8 bits as well."""

    max_parameters: int = 0
    budget_s: float = 1200.0
    seed: int = 1
    int8: bool = False


@dataclass(frozen=True, slots=True)
class Start:
    """What a search begins with: parameters and multiply-accumulates of the first network; 0: not counted."""

    parameters: int = 0
    macs: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """A specification, and in sentences what was inferred and from what."""

    spec: search_pb2.SearchSpec
    reasons: Sequence[str]


def infer(dataset: dataset_pb2.Dataset, wish: Wish, generators: Sequence[str]) -> Plan:
    """Return the specification of a search on a data set, given the generators that there are.

    Raises Invalid (BOUND_TOO_SMALL) where no network of the space can be that small.
    """
    spec = search_pb2.SearchSpec(seed=wish.seed, parallelism=1)
    spec.data.dataset = dataset.name
    samples = sum(part.samples for part in dataset.splits if part.split == measurement_pb2.SPLIT_TRAIN) or 1
    reasons = [_told(dataset, samples)]
    is_picture = dataset.kind in _PICTURES and len(dataset.sample_dims) == 3
    if is_picture and "generators/nac" in generators:
        start = _envelope(spec, dataset, wish, samples)
        reasons.append(
            f"algorithm: nac, on {len(spec.space.envelope.stages)} stages of cells, {spec.space.envelope.stem.width} "
            f"channels wide at first; it starts from {start.parameters:,} parameters"
        )
    else:
        start = _chain(spec, dataset, wish)
        reasons.append(f"algorithm: random, on chains of up to {spec.space.chain.max_layers} layers")
    goal = search_pb2.GOAL_MINIMIZE if dataset.targets else search_pb2.GOAL_MAXIMIZE
    spec.objectives.add(metric="rmse" if dataset.targets else "accuracy", goal=goal)
    if wish.max_parameters:
        spec.constraints.add(metric="parameters", max=wish.max_parameters)
        reasons.append(f"bound: at most {wish.max_parameters:,} parameters, the final network's too")
    _training(spec, dataset, wish, samples, start)
    reasons.append(
        f"time: at most {duration_in_words(wish.budget_s * SEARCH_SHARE)} to search ({_epochs(spec.train.epochs)} of "
        f"{spec.train.data_fraction:.0%} of the data a network), about "
        f"{duration_in_words(spec.final.max_train_time_s)} to train the best fully, then the test split once"
    )
    if wish.int8:
        spec.final.evaluate.quantization = evaluation_pb2.QUANTIZATION_STATIC
    return Plan(spec, reasons)


def _told(dataset: dataset_pb2.Dataset, samples: int) -> str:
    kind = dataset_pb2.SampleKind.Name(dataset.kind or dataset_pb2.SAMPLE_KIND_IMAGE)
    task = (
        f"{dataset.targets} target{'s' if dataset.targets > 1 else ''} (regression)"
        if dataset.targets
        else f"{dataset.classes} classes"
    )
    dims = "x".join(map(str, dataset.sample_dims))
    word = kind.removeprefix("SAMPLE_KIND_").lower()
    told = f"data: {dataset.name}, {samples:,} {word} samples of {dims} to train on, {task}"
    if dataset.channel_names:
        names = ", ".join(dataset.channel_names[:_NAMES]) + (" …" if len(dataset.channel_names) > _NAMES else "")
        told += f", from {names}"
    return f"{told}; content {dataset.content_digest}" if dataset.content_digest else told


def _epochs(number: float) -> str:
    return "1 epoch" if number == 1 else f"{number:.3g} epochs"


def _envelope(spec: search_pb2.SearchSpec, dataset: dataset_pb2.Dataset, wish: Wish, samples: int) -> Start:
    """Set the space and the algorithm for pictures: the widest start that leaves room to grow, in time and in size."""
    spec.generator.generator = "generators/nac"
    spec.generator.settings.update(
        {"iterations": _NAC_TRIALS - 1, "weights": "inherit" if samples < _SMALL else "scratch"}
    )
    spec.budget.max_iterations = _NAC_TRIALS
    start = Start()
    for width in _WIDTHS:
        space = envelope_of(dataset.sample_dims, width)
        start = _counted(space, dataset)
        spec.space.CopyFrom(space)
        if _affordable(start, wish, samples):
            return start
    if wish.max_parameters and start.parameters > wish.max_parameters:
        raise Invalid(
            "BOUND_TOO_SMALL",
            f"--max-params: the smallest network of the inferred space has {start.parameters:,} parameters; allow more "
            "or write a specification",
            field="max_params",
        )
    return start


def envelope_of(dims: Sequence[int], width: int) -> space_pb2.Space:
    """Return the envelope space for pictures: halved until about 7 pixels are left, most cells where maps are small."""
    stages = max(2, min(5, 1 + round(math.log2(max(1, min(dims[1:])) / 7))))
    envelope = space_pb2.EnvelopeSpace(palette=["1x1", "3x3", "3x3sep", "5x5"], branch_dropout=0.0, head_dropout=0.2)
    for stage in range(stages):
        # At full resolution one cell is as much arithmetic as several later on.
        construct = stage > 0
        envelope.stages.add(initial_cells=1, max_cells=2 if construct else 1, construct=construct)
    envelope.stem.width, envelope.stem.kernel, envelope.stem.local_response_norm = width, 3, False
    return space_pb2.Space(envelope=envelope)


def _affordable(start: Start, wish: Wish, samples: int) -> bool:
    """Say whether a start network leaves room: half of the size, and a tenth of an epoch for every search trial."""
    if wish.max_parameters and start.parameters > 0.5 * wish.max_parameters:
        return False
    each = wish.budget_s * SEARCH_SHARE / (_NAC_TRIALS + 2)
    return start.macs * _PASSES * samples * 0.1 <= each * _MACS_PER_S


def _counted(space: space_pb2.Space, dataset: dataset_pb2.Dataset) -> Start:
    """Return what the first network of an envelope space has; nothing where onnx, which counts, is not installed."""
    try:
        from nasmesh.model.counting import count
        from nasmesh.model.lower import lower
    except ModuleNotFoundError:
        return Start()
    full = spaces.complete(space)
    values = encode(full.envelope, initial_network(full.envelope))
    built = spaces.build(
        full,
        values,
        input_dims=list(dataset.sample_dims),
        classes=dataset.classes or dataset.targets,
        preprocessing=architecture_pb2.Preprocessing(),
    )
    counts = count(lower(built))
    return Start(counts.parameters, counts.macs)


def _chain(spec: search_pb2.SearchSpec, dataset: dataset_pb2.Dataset, wish: Wish) -> Start:
    """Set the space and the algorithm for series, tables, and pictures where there is no nac."""
    is_table = len(dataset.sample_dims) == 1
    spec.generator.generator = "generators/random"
    spec.budget.max_trials = _RANDOM_TRIALS
    chain = spec.space.chain
    chain.min_layers, chain.max_layers, chain.pooling = 1, 4 if is_table else 6, not is_table
    chain.kernels.extend([1] if is_table else [3, 5])
    widest = 256 if not wish.max_parameters else max(8, int(math.sqrt(wish.max_parameters / (1 if is_table else 27))))
    widths = [width for width in (8, 16, 32, 64, 128, 256) if width <= widest] or [4]
    chain.channels.extend(widths if is_table else [width for width in widths if width <= 64])
    return Start()


def _training(
    spec: search_pb2.SearchSpec, dataset: dataset_pb2.Dataset, wish: Wish, samples: int, start: Start
) -> None:
    """Set how search trials and the final network are trained."""
    trials = _NAC_TRIALS if spec.budget.max_iterations else _RANDOM_TRIALS
    each = wish.budget_s * SEARCH_SHARE / (trials + 2)
    macs = start.macs or (_TABLE_MACS if len(dataset.sample_dims) == 1 else _CHAIN_MACS)
    passes = each * _MACS_PER_S / (macs * _PASSES * samples)  # over the whole split
    train, final = spec.train, spec.final
    train.epochs = min(10.0 if samples < _SMALL else 2.0, max(1.0, passes))
    train.data_fraction = min(1.0, max(0.02, round(passes / train.epochs, 3)))
    train.batch_size = 64
    _optimizer(train.optimizer, 0.05, 3e-4)
    train.schedule.kind = train_pb.SCHEDULE_KIND_COSINE
    train.clip_norm = 5.0
    final.pick = search_pb2.FINAL_PICK_LAST if spec.budget.max_iterations else search_pb2.FINAL_PICK_BEST
    final.max_train_time_s = wish.budget_s * FINAL_SHARE
    final.train.epochs = 100.0 if samples < _SMALL else 30.0
    final.train.data_fraction = 1.0
    final.train.batch_size = 64 if samples < _SMALL else 128
    _optimizer(final.train.optimizer, 0.1, 5e-4)
    final.train.schedule.kind = train_pb.SCHEDULE_KIND_COSINE
    final.train.schedule.warmup_steps = max(10, min(400, samples // 100))
    final.train.include_validation = True
    final.train.compute.precision = train_pb.PRECISION_AUTO
    for name, value in _augmentation(dataset):
        setattr(final.train.augmentation, name, value)
    spec.budget.max_wall_time_s = wish.budget_s * SEARCH_SHARE


def _optimizer(optimizer: train_pb.OptimizerConfig, rate: float, decay: float) -> None:
    optimizer.kind, optimizer.learning_rate = train_pb.OPTIMIZER_KIND_NESTEROV, rate
    optimizer.momentum, optimizer.weight_decay = 0.9, decay


def _augmentation(dataset: dataset_pb2.Dataset) -> Iterator[tuple[str, object]]:
    """Yield what changes no class: shifts, and mirroring of colour pictures, which are photographs and no writing."""
    if dataset.kind not in _PICTURES:
        return
    yield "crop_padding", max(1, min(dataset.sample_dims[1:]) // 8)
    if dataset.sample_dims[0] == 3:
        yield "flip", True
