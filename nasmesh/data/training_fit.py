"""What of a training's control parameters a data set has no use for. Pure Python: the scheduler refuses by it, too."""

from collections.abc import Iterator

from nasmesh.data.info import CLASSIFICATION, IMAGE, REGRESSION, SERIES, DatasetInfo
from nasmesh.v1 import dataset_pb2
from nasmesh.v1 import training_pb2 as pb

LOSSES = {
    "cross_entropy": CLASSIFICATION,
    "binary_cross_entropy": CLASSIFICATION,
    "mean_squared_error": REGRESSION,
    "mean_absolute_error": REGRESSION,
    "huber": REGRESSION,
}
"""The built-in losses, and the task that each is for."""

DEFAULT_LOSS = {CLASSIFICATION: "cross_entropy", REGRESSION: "mean_squared_error"}

# What an augmentation is for; mixup is for all.
_IMAGES_ONLY = ("crop_padding", "flip", "cutout", "brightness", "contrast", "saturation", "rand_augment_operations")
_RGB = 3
_TASK_NAMES = {CLASSIFICATION: "classification", REGRESSION: "regression"}


def data_faults(config: pb.TrainConfig, info: DatasetInfo) -> Iterator[tuple[str, str]]:
    """Yield every field of a complete configuration that does not go with this data, and why."""
    yield from _augmentation_faults(config.augmentation, info)
    yield from loss_faults(config, info.task)


def loss_faults(config: pb.TrainConfig, task: dataset_pb2.LearningTask.ValueType) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a built-in loss for a task; what an installed one is for, nobody knows."""
    task = task or CLASSIFICATION
    name = config.loss or DEFAULT_LOSS[task]
    if name not in LOSSES:
        return
    if LOSSES[name] != task:
        fitting = ", ".join(sorted(known for known, whose in LOSSES.items() if whose == task))
        yield "loss", f"{name} is not for {_TASK_NAMES[task]}; use one of {fitting}"
    elif config.label_smoothing and name != "cross_entropy":
        yield "label_smoothing", f"goes with cross_entropy only, not with {name}"


def _augmentation_faults(how: pb.AugmentationConfig, info: DatasetInfo) -> Iterator[tuple[str, str]]:
    kind = info.kind or IMAGE
    for name in _IMAGES_ONLY if kind != IMAGE else ():
        if getattr(how, name):
            yield f"augmentation.{name}", f"is for images, and datasets/{info.name} has none"
    if how.shift and kind != SERIES:
        yield "augmentation.shift", f"is for series, and datasets/{info.name} has none"
    if how.noise and kind == IMAGE:
        yield "augmentation.noise", f"is for series and tables, and datasets/{info.name} has images"
    if how.cutmix and len(info.sample_dims) < 2:
        yield "augmentation.cutmix", f"needs samples with positions, and datasets/{info.name} has columns"
    if how.saturation and kind == IMAGE and info.sample_dims[0] != _RGB:
        yield (
            "augmentation.saturation",
            f"is for colour images, and datasets/{info.name} has {info.sample_dims[0]} channel",
        )
