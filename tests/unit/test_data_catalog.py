import subprocess
import sys

import pytest

from nasmesh.data import catalog
from nasmesh.errors import Invalid, NotFound
from nasmesh.v1 import dataset_pb2 as pb


def test_catalog_when_imported_then_loads_no_numpy():
    code = "import sys, nasmesh.data.catalog, nasmesh.training_config, nasmesh.evaluate_config\n"
    code += "print([m for m in ('numpy', 'torch', 'onnx', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["datasets/digits", "digits"])
def test_describe_when_known_then_returns_it(name):
    info = catalog.describe(name)
    assert (info.sample_dims, info.classes, info.has_test_split) == ((1, 8, 8), 10, False)


def test_describe_when_misspelt_then_names_the_nearest_and_all():
    with pytest.raises(
        NotFound, match=r"did you mean datasets/digits\?.*Known: .*datasets/digits, datasets/fashion-mnist"
    ):
        catalog.describe("datasets/digit")


def test_check_when_unknown_then_refuses_the_field():
    with pytest.raises(Invalid) as caught:
        catalog.check(pb.DatasetSpec(dataset="datasets/cifar"), field="spec.data")
    assert (caught.value.reason, caught.value.field) == ("DATASET_UNKNOWN", "spec.data.dataset")


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (pb.DatasetSpec(dataset="datasets/digits", validation_fraction=0), "data.validation_fraction"),
        (pb.DatasetSpec(dataset="datasets/digits", validation_fraction=float("nan")), "data.validation_fraction"),
        (pb.DatasetSpec(dataset="datasets/digits", test_fraction=1), "data.test_fraction"),
        (pb.DatasetSpec(dataset="datasets/digits", test_fraction=-0.1), "data.test_fraction"),
        (pb.DatasetSpec(dataset="datasets/fashion-mnist", test_fraction=0.1), "data.test_fraction"),
        (
            pb.DatasetSpec(dataset="datasets/digits", test_fraction=0.9, validation_fraction=0.9),
            "data.validation_fraction",
        ),
    ],
)
def test_check_when_a_fraction_is_wrong_then_names_the_field(spec, field):
    with pytest.raises(Invalid) as caught:
        catalog.check(spec)
    assert caught.value.reason == "DATASET_SPEC_INVALID"
    assert [violation.field for violation in caught.value.violations] == [field]


def test_complete_when_the_data_set_has_a_test_split_then_leaves_the_test_fraction_unset():
    filled = catalog.complete(pb.DatasetSpec(dataset="datasets/fashion-mnist"))
    assert filled.validation_fraction == 0.1
    assert not filled.HasField("test_fraction")
    assert catalog.complete(pb.DatasetSpec(dataset="digits")).test_fraction == 0.2
