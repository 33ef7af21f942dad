"""What is known of a data set without its samples. Pure Python: scheduler and agents import this, never numpy."""

from dataclasses import dataclass

from nasmesh.v1 import dataset_pb2 as pb

IMAGE = pb.SAMPLE_KIND_IMAGE
SERIES = pb.SAMPLE_KIND_SERIES
TABLE = pb.SAMPLE_KIND_TABLE
CLASSIFICATION = pb.LEARNING_TASK_CLASSIFICATION
REGRESSION = pb.LEARNING_TASK_REGRESSION


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """One data set: images are uint8 of `sample_dims` (channels, height, width), series and tables float32.

    Labels are 0..classes-1; for regression `classes` is 0 and `targets` numbers are predicted, each in units of its
    `target_std` around its `target_mean`. `mean` and `std` are per channel (or column), of images on the 0..1 scale,
    over the non-test samples, or all where there is no test split. `samples` counts all but the test split of the data
    set's own, which has `test_samples` (0: none defined). `split_sizes` are train, validation and test under default
    fractions and seed 0; `digest` is the SHA-256 over the raw samples and labels, which a reader must arrive at (empty:
    not known beforehand); `obtain` says how to get the samples. `class_counts` are empty where nobody counted.
    """

    name: str
    description: str
    sample_dims: tuple[int, ...]
    classes: int
    has_test_split: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    samples: int
    test_samples: int
    split_sizes: tuple[int, int, int]
    digest: str
    obtain: str
    kind: pb.SampleKind.ValueType = IMAGE
    task: pb.LearningTask.ValueType = CLASSIFICATION
    targets: int = 0
    class_names: tuple[str, ...] = ()
    class_counts: tuple[int, ...] = ()
    target_mean: tuple[float, ...] = ()
    target_std: tuple[float, ...] = ()
    grouped: bool = False

    @property
    def outputs(self) -> int:
        """Numbers that a network gives for a sample: logits, or targets."""
        return self.targets if self.task == REGRESSION else self.classes

    @property
    def full_scale(self) -> float:
        """What stored values are divided by before `mean` and `std` apply: 255 for images, 1 for the rest."""
        return 255.0 if self.kind == IMAGE else 1.0
