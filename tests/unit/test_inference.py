"""A search without a specification: what is inferred from data, bound and time is right, and told."""

import pytest

from clients.cli.commands.quick import read_count, read_seconds
from clients.cli.inference import Plan, Wish, infer
from generate_svc.registry import list_served
from nasmesh.data import catalog
from nasmesh.data.load import dataset_resources
from nasmesh.errors import Invalid
from nasmesh.v1 import dataset_pb2, evaluation_pb2, measurement_pb2, search_pb2
from scheduler.validate import complete_spec

ALL = ("generators/nac", "generators/random", "generators/fixed")


def dataset(dims: tuple[int, ...], kind: int, *, targets: int = 0, samples: int = 2000) -> dataset_pb2.Dataset:
    made = dataset_pb2.Dataset(name="datasets/mine", sample_dims=dims, available=True, kind=kind, targets=targets)
    made.classes = 0 if targets else 3
    made.task = dataset_pb2.LEARNING_TASK_REGRESSION if targets else dataset_pb2.LEARNING_TASK_CLASSIFICATION
    made.splits.add(split=measurement_pb2.SPLIT_TRAIN, samples=samples)
    return made


def accepted(plan: Plan, made: dataset_pb2.Dataset) -> search_pb2.SearchSpec:
    """Return the specification as the scheduler completes it."""
    known = {} if made.name.partition("/")[2] in catalog.DATASETS else {made.name: made}
    return complete_spec(plan.spec, list(list_served().generators), known)


@pytest.mark.parametrize("name", sorted(catalog.DATASETS))
@pytest.mark.parametrize("bound", [0, 20_000, 500_000])
def test_every_built_in_data_set_gets_a_specification_that_the_scheduler_takes(name: str, bound: int) -> None:
    made = next(item for item in dataset_resources() if item.name == f"datasets/{name}")
    plan = infer(made, Wish(max_parameters=bound, budget_s=600.0), ALL)
    spec = accepted(plan, made)
    assert spec.generator.generator == "generators/nac"
    assert [item.max for item in spec.constraints] == ([bound] if bound else [])
    assert not spec.final.HasField("scale_up")  # the bound holds for the final network as well
    assert spec.budget.max_wall_time_s + spec.final.max_train_time_s <= 0.9 * 600
    assert plan.reasons[-1].startswith("time: at most 4 min to search (")
    assert "about 4.5 min to train" in plan.reasons[-1]
    assert any(line.startswith("bound: ") and f"{bound:,}" in line for line in plan.reasons) == bool(bound)


def test_more_time_and_more_room_begin_wider() -> None:
    made = next(item for item in dataset_resources() if item.name == "datasets/fashion-mnist")
    widths = [
        infer(made, Wish(bound, seconds), ALL).spec.space.envelope.stem.width
        for bound, seconds in ((0, 60.0), (0, 3600.0), (10_000, 3600.0))
    ]
    assert widths[0] < widths[1]
    assert widths[2] < widths[1]


@pytest.mark.parametrize(
    ("dims", "kind", "targets"),
    [
        ((12,), dataset_pb2.SAMPLE_KIND_TABLE, 0),
        ((12,), dataset_pb2.SAMPLE_KIND_TABLE, 2),
        ((3, 128), dataset_pb2.SAMPLE_KIND_SERIES, 0),
        ((3, 64, 64), dataset_pb2.SAMPLE_KIND_IMAGE, 1),
    ],
)
def test_series_tables_and_regression_get_one_too(dims: tuple[int, ...], kind: int, targets: int) -> None:
    made = dataset(dims, kind, targets=targets)
    spec = infer(made, Wish(50_000), ALL).spec
    assert spec.objectives[0].metric == ("rmse" if targets else "accuracy")
    assert spec.objectives[0].goal == (search_pb2.GOAL_MINIMIZE if targets else search_pb2.GOAL_MAXIMIZE)
    assert spec.space.WhichOneof("kind") == ("envelope" if len(dims) == 3 else "chain")
    assert spec.final.train.augmentation.flip == (len(dims) == 3)


def test_without_nac_pictures_are_searched_at_random_and_eight_bits_are_asked_for_where_wished() -> None:
    made = dataset((1, 28, 28), dataset_pb2.SAMPLE_KIND_IMAGE)
    spec = infer(made, Wish(int8=True), ("generators/random",)).spec
    assert spec.generator.generator == "generators/random"
    assert spec.final.evaluate.quantization == evaluation_pb2.QUANTIZATION_STATIC


def test_a_bound_below_every_network_is_refused_with_the_least_there_is() -> None:
    with pytest.raises(Invalid, match=r"smallest network of the inferred space has [0-9,]+ parameters") as caught:
        infer(dataset((1, 28, 28), dataset_pb2.SAMPLE_KIND_IMAGE), Wish(100), ALL)
    assert caught.value.field == "max_params"


@pytest.mark.parametrize(
    ("text", "value"), [("500k", 500_000), ("2M", 2_000_000), ("1.5m", 1_500_000), ("", 0), ("7", 7)]
)
def test_counts_as_people_write_them(text: str, value: int) -> None:
    assert read_count(text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("20m", 1200.0), ("90s", 90.0), ("1.5h", 5400.0), ("45", 45.0), ("2min", 120.0)]
)
def test_times_as_people_write_them(text: str, value: float) -> None:
    assert read_seconds(text) == value


@pytest.mark.parametrize("text", ["soon", "-5m", "1d", "3s", "", "1e9h"])
def test_times_that_are_none_are_refused_by_name(text: str) -> None:
    with pytest.raises(Invalid, match="--budget"):
        read_seconds(text)


@pytest.mark.parametrize("text", ["many", "-5k", "0", "5 kilo"])
def test_counts_that_are_none_are_refused_by_name(text: str) -> None:
    with pytest.raises(Invalid, match="--max-params"):
        read_count(text)
