"""What is known of every data set without reading it. Pure Python: scheduler and agents import this, never numpy."""

import difflib
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

from nasmesh.data import manifest
from nasmesh.data.info import REGRESSION, DatasetInfo
from nasmesh.errors import FieldViolation, Invalid, NotFound
from nasmesh.ids import parse_name
from nasmesh.v1 import dataset_pb2 as pb
from nasmesh.v1 import measurement_pb2

DEFAULT_VALIDATION_FRACTION = 0.1
DEFAULT_TEST_FRACTION = 0.2
_SHOWN = 20


DATASETS: dict[str, DatasetInfo] = {
    "digits": DatasetInfo(
        name="digits",
        description="1,797 handwritten digits of 8x8 pixels, grey (UCI, in scikit-learn's wheel)",
        sample_dims=(1, 8, 8),
        classes=10,
        has_test_split=False,
        mean=(0.30531,),
        std=(0.37589,),
        samples=1797,
        test_samples=0,
        split_sizes=(1295, 143, 359),
        digest="dfb0f4a011873e05269b3c4b4055887e93b6e3d27cc975fd2bb8ed332d61b1b3",
        obtain="install scikit-learn (pip install 'nasmesh[train]')",
    ),
    "fashion-mnist": DatasetInfo(
        name="fashion-mnist",
        description="60,000 + 10,000 photographs of clothing of 28x28 pixels, grey (Xiao et al. 2017, MIT licence)",
        sample_dims=(1, 28, 28),
        classes=10,
        has_test_split=True,
        mean=(0.28604,),
        std=(0.35302,),
        samples=60000,
        test_samples=10000,
        split_sizes=(54000, 6000, 10000),
        digest="41580e340449b9225f126e0b1d2e52102573778b5a6fba2b88d5c43d3578af75",
        obtain="run: make data DATASET=fashion-mnist",
    ),
    "cifar10": DatasetInfo(
        name="cifar10",
        description="50,000 + 10,000 photographs of ten kinds of things, 32x32 pixels, colour (Krizhevsky 2009)",
        sample_dims=(3, 32, 32),
        classes=10,
        has_test_split=True,
        mean=(0.49140, 0.48216, 0.44653),
        std=(0.24703, 0.24349, 0.26159),
        samples=50000,
        test_samples=10000,
        split_sizes=(45000, 5000, 10000),
        digest="",
        obtain="put cifar-10-python.tar.gz (cs.toronto.edu/~kriz/cifar.html) into {home}/data/cifar10",
        class_names=(
            "airplane",
            "automobile",
            "bird",
            "cat",
            "deer",
            "dog",
            "frog",
            "horse",
            "ship",
            "truck",
        ),
    ),
    "cifar100": DatasetInfo(
        name="cifar100",
        description="50,000 + 10,000 photographs of a hundred kinds of things, 32x32 pixels, colour (Krizhevsky 2009)",
        sample_dims=(3, 32, 32),
        classes=100,
        has_test_split=True,
        mean=(0.50707, 0.48655, 0.44092),
        std=(0.26733, 0.25644, 0.27615),
        samples=50000,
        test_samples=10000,
        split_sizes=(45000, 5000, 10000),
        digest="",
        obtain="put cifar-100-python.tar.gz (cs.toronto.edu/~kriz/cifar.html) into {home}/data/cifar100",
    ),
    "synthetic": DatasetInfo(
        name="synthetic",
        description="16,000 + 8,000 images made from a seed, 12x12 pixels, grey; the best possible is 94.3 %",
        sample_dims=(1, 12, 12),
        classes=8,
        has_test_split=True,
        mean=(0.51113,),
        std=(0.10384,),
        samples=16000,
        test_samples=8000,
        split_sizes=(14401, 1599, 8000),
        digest="bd7f4529904fe512ac2d116f6924e36ab77a5c637d07e2a459a1eb4aafa689f1",
        obtain="it is made from a seed",
    ),
}


def describe(name: str, *, field: str = "data.dataset", others: Iterable[str] = ()) -> DatasetInfo:
    """Return what is known of "datasets/{id}" or a bare id of a built-in data set.

    Raises NotFound (DATASET_UNKNOWN) with the known names, among them `others`, resource names of added ones.
    """
    identifier = parse_name("datasets", name, field=field) if "/" in name else name
    if identifier in DATASETS:
        return DATASETS[identifier]
    names = sorted({*(f"datasets/{key}" for key in DATASETS), *others})
    close = difflib.get_close_matches(f"datasets/{identifier[:80]}", names, n=1)
    hint = f"; did you mean {close[0]}? Known" if close else "; known"
    known = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    raise NotFound("DATASET_UNKNOWN", f"{field}: there is no data set {identifier[:80]!r}{hint}: {known}", field=field)


def complete(spec: pb.DatasetSpec, info: DatasetInfo | None = None) -> pb.DatasetSpec:
    """Return a copy with every default filled in; a test fraction only where the data set defines no test split.

    `info` is that of the data set; it may be left out for built-in ones.
    """
    result = pb.DatasetSpec()
    result.CopyFrom(spec)
    known = info or describe(spec.dataset)
    result.dataset = f"datasets/{known.name}"
    if not result.HasField("validation_fraction"):
        result.validation_fraction = DEFAULT_VALIDATION_FRACTION
    if not result.HasField("test_fraction") and not known.has_test_split:
        result.test_fraction = DEFAULT_TEST_FRACTION
    if not result.division:
        result.division = pb.DIVISION_RULE_BY_GROUP if known.grouped else pb.DIVISION_RULE_STRATIFIED
    return result


def check(
    spec: pb.DatasetSpec, *, field: str = "data", info: DatasetInfo | None = None, others: Iterable[str] = ()
) -> DatasetInfo | None:
    """Return the data set of a valid specification; None for an added one whose `info` is not given.

    What can be told without knowing the data set is checked in any case. Raises Invalid (DATASET_UNKNOWN,
    DATASET_SPEC_INVALID, OBJECT_REF_INVALID, OBJECT_KEY_MISMATCH) with every field that is wrong.
    """
    if spec.HasField("manifest"):
        manifest.check_form(spec.manifest, field=f"{field}.manifest")
        parse_name("datasets", spec.dataset, field=f"{field}.dataset")
    elif info is None:
        try:
            info = describe(spec.dataset, field=f"{field}.dataset", others=others)
        except NotFound as error:
            raise Invalid(error.reason, error.message, field=error.field) from error
    faults = [*_fraction_faults(spec), *_view_faults(spec)]
    if info is not None:
        faults += _fit_faults(spec, info)
        if not faults and not info.has_test_split:
            filled = complete(spec, info)
            if filled.validation_fraction * (1 - filled.test_fraction) + filled.test_fraction > 0.95:
                faults.append(("validation_fraction", "less than 5 % of the samples is left to train on"))
    if faults:
        found = [FieldViolation(f"{field}.{name}", f"{field}.{name}: {what}") for name, what in faults]
        raise Invalid("DATASET_SPEC_INVALID", found[0].description, violations=found)
    return info


def viewed(info: DatasetInfo, view: pb.DataView) -> DatasetInfo:
    """Return what is known of the part of a data set that a valid view leaves: other classes, where it names some."""
    if not view.classes:
        return info
    return replace(
        info,
        classes=len(view.classes),
        class_names=tuple(info.class_names[label] for label in view.classes) if info.class_names else (),
        class_counts=tuple(info.class_counts[label] for label in view.classes) if info.class_counts else (),
    )


def split_sizes(spec: pb.DatasetSpec, info: DatasetInfo) -> tuple[int, int, int]:
    """Return about how many samples the train, validation and test splits have; classes count as equally large."""
    full = complete(spec, info)
    kept = len(spec.view.classes) / info.classes if spec.view.classes else 1.0
    test = info.test_samples or round(info.samples * full.test_fraction)
    rest = info.samples if info.has_test_split else info.samples - test
    validation = round(rest * full.validation_fraction)
    share = spec.view.fraction if spec.view.HasField("fraction") else 1.0
    if spec.view.max_samples:
        share = min(share, spec.view.max_samples / max(1.0, rest * kept))
    return round((rest - validation) * kept * share), round(validation * kept * share), round(test * kept)


def message(info: DatasetInfo, *, available: bool) -> pb.Dataset:
    """Return a built-in data set as clients see it; where its samples are not at hand, with how to obtain them."""
    order = (measurement_pb2.SPLIT_TRAIN, measurement_pb2.SPLIT_VALIDATION, measurement_pb2.SPLIT_TEST)
    return pb.Dataset(
        name=f"datasets/{info.name}",
        description=info.description if available else f"{info.description}; to obtain it, {info.obtain}",
        sample_dims=info.sample_dims,
        classes=info.classes,
        splits=[pb.SplitSize(split=split, samples=size) for split, size in zip(order, info.split_sizes, strict=True)],
        content_digest=info.digest if available else "",
        available=available,
        kind=info.kind,
        task=info.task,
        class_names=info.class_names,
        targets=info.targets,
        test_samples=info.test_samples,
        mean=info.mean,
        std=info.std,
        target_mean=info.target_mean,
        target_std=info.target_std,
    )


def _fraction_faults(spec: pb.DatasetSpec) -> Iterator[tuple[str, str]]:
    for name in ("validation_fraction", "test_fraction"):
        value = getattr(spec, name)
        if spec.HasField(name) and not (math.isfinite(value) and 0 < value < 1):
            yield name, f"must be above 0 and below 1, not {value}"
    if spec.division not in pb.DivisionRule.values():
        yield "division", f"{spec.division} is no rule"


def _view_faults(spec: pb.DatasetSpec) -> Iterator[tuple[str, str]]:
    view = spec.view
    if view.HasField("fraction") and not (math.isfinite(view.fraction) and 0 < view.fraction <= 1):
        yield "view.fraction", f"must be above 0 and at most 1, not {view.fraction}"
    if view.max_samples < 0 or view.max_samples == 1:
        yield "view.max_samples", "at least 2, one to train on and one to validate, or 0 for no bound"
    if view.classes and len(set(view.classes)) != len(view.classes):
        yield "view.classes", "a label is named twice"
    if len(view.classes) == 1:
        yield "view.classes", "name at least two, or none for all"


def _fit_faults(spec: pb.DatasetSpec, info: DatasetInfo) -> Iterator[tuple[str, str]]:
    if info.has_test_split and spec.HasField("test_fraction"):
        yield "test_fraction", f"{info.name} has its own test split; leave this unset"
    if spec.division == pb.DIVISION_RULE_BY_GROUP and not info.grouped:
        yield "division", f"the samples of {info.name} carry no groups; leave this unset"
    if spec.view.classes and info.task == REGRESSION:
        yield "view.classes", f"{info.name} has targets, no classes; leave this empty"
    elif any(not 0 <= label < info.classes for label in spec.view.classes):
        yield "view.classes", f"labels of {info.name} are 0 to {info.classes - 1}"
