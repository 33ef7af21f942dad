"""What is known of every data set without reading it. Pure Python: scheduler and agents import this, never numpy."""

import difflib
import math
from collections.abc import Iterator

from nasmesh.data.info import DatasetInfo
from nasmesh.errors import FieldViolation, Invalid, NotFound
from nasmesh.ids import parse_name
from nasmesh.v1 import dataset_pb2 as pb

DEFAULT_VALIDATION_FRACTION = 0.1
DEFAULT_TEST_FRACTION = 0.2


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
}


def describe(name: str, *, field: str = "data.dataset") -> DatasetInfo:
    """Return what is known of "datasets/{id}" or a bare id; raises NotFound (DATASET_UNKNOWN) with the known names."""
    identifier = parse_name("datasets", name, field=field) if "/" in name else name
    if identifier in DATASETS:
        return DATASETS[identifier]
    close = difflib.get_close_matches(identifier, DATASETS, n=1)
    hint = f"; did you mean datasets/{close[0]}? Known" if close else "; known"
    known = ", ".join(f"datasets/{key}" for key in sorted(DATASETS))
    raise NotFound("DATASET_UNKNOWN", f"{field}: there is no data set {identifier[:80]!r}{hint}: {known}", field=field)


def complete(spec: pb.DatasetSpec) -> pb.DatasetSpec:
    """Return a copy with every default filled in; a test fraction only where the data set defines no test split."""
    result = pb.DatasetSpec()
    result.CopyFrom(spec)
    info = describe(spec.dataset)
    result.dataset = f"datasets/{info.name}"
    if not result.HasField("validation_fraction"):
        result.validation_fraction = DEFAULT_VALIDATION_FRACTION
    if not result.HasField("test_fraction") and not info.has_test_split:
        result.test_fraction = DEFAULT_TEST_FRACTION
    return result


def check(spec: pb.DatasetSpec, *, field: str = "data") -> DatasetInfo:
    """Return the data set of a valid specification.

    Raises Invalid (DATASET_UNKNOWN, DATASET_SPEC_INVALID) with every field that is wrong.
    """
    try:
        info = describe(spec.dataset, field=f"{field}.dataset")
    except NotFound as error:
        raise Invalid(error.reason, error.message, field=error.field) from error
    violations = [
        FieldViolation(f"{field}.{name}", f"{field}.{name} must be above 0 and below 1, not {getattr(spec, name)}")
        for name in ("validation_fraction", "test_fraction")
        if spec.HasField(name) and not _is_fraction(getattr(spec, name))
    ]
    violations += [FieldViolation(f"{field}.{name}", f"{field}.{name}: {why}") for name, why in _unserved(spec)]
    if info.has_test_split and spec.HasField("test_fraction"):
        violations.append(
            FieldViolation(
                f"{field}.test_fraction", f"{field}.test_fraction: {info.name} has its own test split; leave this unset"
            )
        )
    if not violations and not info.has_test_split:
        filled = complete(spec)
        if filled.validation_fraction * (1 - filled.test_fraction) + filled.test_fraction > 0.95:
            violations.append(
                FieldViolation(
                    f"{field}.validation_fraction", f"{field}: less than 5 % of the samples is left to train on"
                )
            )
    if violations:
        raise Invalid("DATASET_SPEC_INVALID", violations[0].description, violations=violations)
    return info


def _unserved(spec: pb.DatasetSpec) -> Iterator[tuple[str, str]]:
    if spec.HasField("manifest"):
        yield "manifest", "added data sets are not read yet; leave this unset and name a built-in one"
    if spec.HasField("view"):
        yield "view", "views are not made yet; leave this unset"
    if spec.division not in (pb.DIVISION_RULE_UNSPECIFIED, pb.DIVISION_RULE_STRATIFIED):
        yield "division", "the samples of built-in data sets carry no groups; leave this unset"


def _is_fraction(value: float) -> bool:
    return math.isfinite(value) and 0 < value < 1
